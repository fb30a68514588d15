"""The audit log: who did what, in the transaction of the deed."""

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from headrace.domain.clock import Millis
from headrace.domain.ids import TenantId, new_id
from headrace.domain.principal import Principal
from headrace.store import tables
from headrace.store.database import Tx
from headrace.store.paging import Order, Window, listing, page

audit: Final = tables.audit
_LISTED: Final = listing(
    sa.select(audit).where(audit.c.tenant == sa.bindparam("of_tenant")), audit, Order("at")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One deed. `via` tells the call (without its query) and the address it came from."""

    id: str
    at: Millis
    key: str
    deed: str
    thing: str
    via: str


def add(tx: Tx, caller: Principal, deed: str, thing: str) -> None:
    """Put on record what a caller does to a thing."""
    tx.add(
        audit, id=new_id(), tenant=caller.tenant.id, at=tx.now, key=caller.key, deed=deed,
        thing=thing, via=caller.via,
    )  # fmt: skip


def forget(tx: Tx, before: Millis) -> None:
    """Remove what was done before a moment."""
    tx.run(sa.delete(audit).where(audit.c.at < before))


def listed(tx: Tx, tenant: TenantId, window: Window) -> tuple[list[Entry], int]:
    """Return one page of deeds, newest first, and how many there are."""
    rows, total = page(tx, _LISTED, window, of_tenant=tenant)
    return [
        Entry(
            id=row.id, at=row.at, key=row.key, deed=row.deed, thing=row.thing, via=row.via
        )
        for row in rows
    ], total  # fmt: skip
