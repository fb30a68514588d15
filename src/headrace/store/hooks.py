"""Hooks, and the calls that they have had: each message once."""

from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from headrace.domain.clock import Millis
from headrace.domain.ids import HookId, TenantId
from headrace.domain.run import Mode
from headrace.store import tables
from headrace.store.database import Tx

hook: Final = tables.hook
call: Final = tables.hook_call


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """What a signed call from outside starts: a task or a job."""

    id: HookId
    tenant: TenantId
    name: str
    task: str | None
    job: str | None
    mode: Mode | None
    created_at: Millis


def add(tx: Tx, new: Hook, sealed: bytes) -> None:
    tx.add(
        hook, id=new.id, tenant=new.tenant, name=new.name, task=new.task, job=new.job,
        mode=new.mode, sealed=sealed, created_at=new.created_at,
    )  # fmt: skip


def find(tx: Tx, id_: str) -> tuple[Hook, bytes] | None:
    """Return a hook of whatever tenant, and its sealed secret: who calls it has nothing else."""
    found = tx.get(hook, id=id_)
    return None if found is None else (_made(found), found.sealed)


def listed(tx: Tx, tenant: TenantId) -> list[Hook]:
    query = sa.select(hook).where(hook.c.tenant == tenant).order_by(hook.c.created_at, hook.c.id)
    return [_made(row) for row in tx.all(query)]


def remove(tx: Tx, tenant: TenantId, id_: str) -> bool:
    """Remove a hook; False if there is none."""
    known = sa.select(hook.c.id).where(hook.c.id == id_, hook.c.tenant == tenant)
    tx.run(sa.delete(call).where(call.c.hook.in_(known)))
    return bool(tx.remove(hook, id=id_, tenant=tenant))


def earlier(tx: Tx, id_: HookId, message: str) -> str | None:
    """Return what a message has started already."""
    found = tx.get(call.c.started, hook=id_, message=message)
    return None if found is None else str(found.started)


def took(tx: Tx, id_: HookId, message: str, started: str) -> None:
    """Keep what a message has started."""
    tx.add(call, hook=id_, message=message, started=started, at=tx.now)


def forget_calls(tx: Tx, before: Millis) -> None:
    tx.run(sa.delete(call).where(call.c.at < before))


def _made(row: Any) -> Hook:  # Any: a row of SQLAlchemy's
    return Hook(
        id=HookId(row.id), tenant=TenantId(row.tenant), name=row.name, task=row.task,
        job=row.job, mode=Mode(row.mode) if row.mode else None, created_at=row.created_at,
    )  # fmt: skip
