"""What keeps queued runs from starting: limits that were set, pauses, and the runs under way."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from headrace.domain.clock import Millis
from headrace.domain.run import ACTIVE
from headrace.store import tables
from headrace.store.database import Tx

run: Final = tables.run
run_limit: Final = tables.run_limit
pause: Final = tables.pause
NEVER: Final = Millis(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How many runs go at a time, how many start in a minute; None: as many as like.

    `next_at`: the moment before which the limit a minute lets none start.
    """

    runs: int | None = None
    per_minute: int | None = None
    next_at: Millis = NEVER


def names(row: Any) -> tuple[str, ...]:  # Any: a row or a Waiting
    """Return the names of the limits that a run counts towards."""
    return (
        f"task:{row.task}", f"source:{row.source}", f"destination:{row.destination}",
        *([f"pool:{row.pool}"] if row.pool else []), f"tenant:{row.tenant}", "server",
    )  # fmt: skip


_UNDER_WAY: Final = sa.select(
    run.c.tenant, run.c.task, run.c.source, run.c.destination, run.c.pool, run.c.exclusive
).where(run.c.state.in_(tuple(ACTIVE)))


def under_way(tx: Tx) -> tuple[dict[str, int], set[str]]:
    """Return active runs by name (`source:ID` …), and the exclusive names that they hold."""
    counts: dict[str, int] = {}
    exclusive: set[str] = set()
    for row in tx.all(_UNDER_WAY):
        for name in names(row):
            counts[name] = counts.get(name, 0) + 1
        if row.exclusive:
            exclusive.add(row.exclusive)
    return counts, exclusive


_LIMITS: Final = sa.select(run_limit).order_by(run_limit.c.name)


def all_limits(tx: Tx) -> dict[str, Limit]:
    """Return the limits that were set, by name."""
    return {
        row.name: Limit(runs=row.runs, per_minute=row.per_minute, next_at=row.next_at)
        for row in tx.all(_LIMITS)
    }


def set_limit(tx: Tx, name: str, limit: Limit | None) -> None:
    """Set or, with None, drop a limit."""
    tx.remove(run_limit, name=name)
    if limit is not None:
        tx.add(
            run_limit, name=name, runs=limit.runs, per_minute=limit.per_minute,
            next_at=limit.next_at,
        )  # fmt: skip


def started(tx: Tx, name: str, next_at: Millis) -> None:
    """Note when the next run may start where so many start in a minute."""
    tx.change(run_limit, {"name": name}, next_at=next_at)


def set_pause(tx: Tx, kind: str, id_: str, *, paused: bool) -> None:
    """Pause a task, a tenant or (of no id) the server, or end it. Safe to repeat."""
    tx.remove(pause, kind=kind, id=id_)
    if paused:
        tx.add(pause, kind=kind, id=id_, at=tx.now)


_PAUSES: Final = sa.select(pause)


def pauses(tx: Tx) -> set[str]:
    """Return what is paused, named as limits are."""
    return {f"{row.kind}:{row.id}".removesuffix(":") for row in tx.all(_PAUSES)}


def not_paused(of: Mapping[str, sa.Column[Any]]) -> sa.ColumnElement[bool]:
    """Return SQL that is true where neither the server nor what these columns name is paused."""
    server = sa.select(pause.c.id).where(pause.c.kind == "server").exists()
    return sa.and_(
        ~server,
        *(
            column.not_in(sa.select(pause.c.id).where(pause.c.kind == kind))
            for kind, column in of.items()
        ),
    )
