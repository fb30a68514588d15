"""What a task's policies do when its runs end: so many critical failures in a row block it."""

from typing import Final

import sqlalchemy as sa

from headrace.domain.event import EventKind, EventStatus, NewEvent
from headrace.domain.ids import RunId
from headrace.store import runs, tables
from headrace.store.database import Tx

CRITICALS_MAX: Final = 5  # in a row, where the task's policies name no number


def succeeded(tx: Tx, id_: RunId) -> None:
    """A run succeeded: the row of failures is broken."""
    tx.run(
        sa.update(tables.task)
        .where(tables.task.c.id == _task_of(id_), tables.task.c.criticals > 0)
        .values(criticals=0)
    )


def failed(tx: Tx, id_: RunId, reason: str) -> None:
    """A run failed critically: count it, and block the task when it was one too many."""
    task = tables.task
    tx.run(sa.update(task).where(task.c.id == _task_of(id_)).values(criticals=task.c.criticals + 1))
    found = tx.first(
        sa.select(task.c.id, task.c.criticals, task.c.extra).where(task.c.id == _task_of(id_))
    )
    if found is None:
        return
    limit = (found.extra.get("policies") or {}).get("criticalThreshold", CRITICALS_MAX)
    if found.criticals < limit:
        return
    told = f"Blocked after {found.criticals} critical failures in a row. The last: {reason}"
    tx.run(sa.update(task).where(task.c.id == found.id).values(enabled=False, blocked=told))
    runs.add_event(tx, id_, NewEvent(kind=EventKind.LOG, status=EventStatus.CRITICAL, message=told))


def _task_of(id_: RunId) -> sa.ScalarSelect[str]:
    return sa.select(tables.run.c.task).where(tables.run.c.id == id_).scalar_subquery()
