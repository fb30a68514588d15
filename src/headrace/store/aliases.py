"""Aliases: given in the transaction that makes the thing, unique both ways."""

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from headrace.domain.alias import Kind, new_alias
from headrace.domain.ids import TenantId
from headrace.store import tables
from headrace.store.database import Tx, among

alias: Final = tables.alias
IDS_AT_ONCE: Final = 500  # in one statement
_GIVE: Final = {
    "sqlite": sqlite.insert(alias).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(alias).on_conflict_do_nothing(),
}
_OF: Final = sa.select(alias.c.thing, alias.c.alias).where(among(alias.c.thing, "things"))


def give(tx: Tx, tenant: TenantId, kind: Kind, thing: str) -> str:
    """Give a thing an alias that nothing else of its kind has."""
    while True:
        made = new_alias(kind, tx.now)
        values = {"tenant": tenant, "kind": kind, "alias": made, "thing": thing}
        if tx.con.execute(_GIVE[tx.con.dialect.name], values).rowcount:
            return made


def give_all(tx: Tx, kind: Kind, things: Sequence[tuple[TenantId, str]]) -> None:
    """Give new things aliases, in one statement where luck has it."""
    rows = [
        {"tenant": tenant, "kind": kind, "alias": new_alias(kind, tx.now), "thing": thing}
        for tenant, thing in things
    ]
    done = tx.insert(_GIVE[tx.con.dialect.name], rows)
    if done != len(rows):  # somebody had one of them already
        known = of(tx, [thing for _, thing in things])
        for tenant, thing in things:
            if thing not in known:
                give(tx, tenant, kind, thing)


def of(tx: Tx, things: Sequence[str]) -> dict[str, str]:
    """Return the aliases of things, by their ids."""
    found: dict[str, str] = {}
    for start in range(0, len(things), IDS_AT_ONCE):
        rows = tx.all(_OF, things=list(things[start : start + IDS_AT_ONCE]))
        found |= {row.thing: row.alias for row in rows}
    return found


def find(tx: Tx, tenant: TenantId, kind: Kind, given: str) -> str | None:
    """Return the id of the thing that an alias names."""
    found = tx.get(alias.c.thing, tenant=tenant, kind=kind, alias=given)
    return None if found is None else str(found.thing)


def forget(tx: Tx, things: sa.Select[tuple[str]] | Sequence[str]) -> None:
    """Remove the aliases of things that are removed."""
    tx.run(sa.delete(alias).where(alias.c.thing.in_(things)))
