"""Breakers: a source or destination that is down is left alone for a while, then tried by one run.

Named as limits are: `source:ID`, `destination:ID`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from headrace.domain.clock import Millis
from headrace.store import tables
from headrace.store.database import Tx

breaker: Final = tables.breaker
OPENS_AT: Final = 5  # failures in a row, of whichever runs
OPEN_MS: Final = 30_000  # at first; it doubles with each failure that follows
OPEN_MAX_MS: Final = 600_000
_ENDS: Final = sa.select(tables.run.c.source, tables.run.c.destination).where(
    tables.run.c.id == sa.bindparam("of")
)
_KNOWN: Final = sa.select(breaker).order_by(breaker.c.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """How often something was down in a row, since when, and until when it is left alone."""

    name: str
    failures: int
    since: Millis
    open_until: Millis
    reason: str

    @property
    def is_open(self) -> bool:
        return self.failures >= OPENS_AT


def failed(tx: Tx, name: str, reason: str) -> None:
    """Count a failure of a run that met something down."""
    found = tx.first(sa.select(breaker).where(breaker.c.name == name).with_for_update())
    failures = found.failures + 1 if found else 1
    wait = min(OPEN_MS << max(failures - OPENS_AT, 0), OPEN_MAX_MS)
    values: dict[str, Any] = {
        "failures": failures, "reason": reason[:1_000],
        "open_until": tx.now + wait if failures >= OPENS_AT else 0,
    }  # fmt: skip
    if found:
        tx.change(breaker, {"name": name}, **values)
    else:
        tx.add(breaker, name=name, since=tx.now, **values)


def forget(tx: Tx, *names: str) -> int:
    """Forget the failures of something: it works, or was changed. Return how many there were."""
    return tx.run(sa.delete(breaker).where(breaker.c.name.in_(names)))


def worked(tx: Tx, run: str) -> None:
    """Forget the failures of both ends of a run that has succeeded."""
    if tx.get(breaker.c.name) is None:  # nothing has failed
        return
    found = tx.first(_ENDS, of=run)
    if found is not None:
        forget(tx, f"source:{found.source}", f"destination:{found.destination}")


def known(tx: Tx, names: Sequence[str] | None = None) -> dict[str, Breaker]:
    """Return the breakers there are, by name; of some names only, if they are given."""
    query = _KNOWN if names is None else _KNOWN.where(breaker.c.name.in_(names))
    return {
        row.name: Breaker(
            name=row.name, failures=row.failures, since=row.since, open_until=row.open_until,
            reason=row.reason,
        )
        for row in tx.all(query)
    }  # fmt: skip
