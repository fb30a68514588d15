"""What a task's policies do when its runs end: so many critical failures in a row block it."""

from typing import Final

import sqlalchemy as sa

from headrace.domain.event import EventKind, EventStatus, NewEvent
from headrace.domain.ids import RunId
from headrace.store import mails, runs, tables
from headrace.store.database import Tx

SUBJECT_MAX: Final = 200
CRITICALS_MAX: Final = 5  # in a row, where the task's policies name no number
_OF_RUN: Final = tables.task.c.id == (
    sa.select(tables.run.c.task).where(tables.run.c.id == sa.bindparam("run")).scalar_subquery()
)
_FIND: Final = sa.select(tables.task).where(_OF_RUN)
_FORGIVE: Final = (
    sa.update(tables.task).where(_OF_RUN, tables.task.c.criticals > 0).values(criticals=0)
)
_COUNT: Final = sa.update(tables.task).where(_OF_RUN).values(criticals=tables.task.c.criticals + 1)


def succeeded(tx: Tx, id_: RunId) -> None:
    """A run succeeded or had nothing to do: the row of failures is broken."""
    tx.run(_FORGIVE, run=id_)


def failed(tx: Tx, id_: RunId, reason: str, *, critical: bool, by_mail: bool) -> None:
    """A run failed. Count a critical failure, and block the task when it was one too many.

    Mails tell of a block unless the task forbids them, and of every failed run if it asks for it.
    """
    if critical:
        tx.run(_COUNT, run=id_)
    found = tx.first(_FIND, run=id_)
    if found is None:
        return
    email = (found.extra.get("notifications") or {}).get("email") or {}
    limit = (found.extra.get("policies") or {}).get("criticalThreshold", CRITICALS_MAX)
    blocks = critical and found.enabled and found.criticals >= limit
    if blocks:
        told = f"Blocked after {found.criticals} critical failures in a row. The last: {reason}"
        tx.change(tables.task, {"id": found.id}, enabled=False, blocked=told)
        event = NewEvent(kind=EventKind.LOG, status=EventStatus.CRITICAL, message=told)
        runs.add_event(tx, id_, event)
    if by_mail and email.get("enabled", blocks):
        what = "is blocked" if blocks else "failed"
        name = " ".join(f"{found.name} {found.id}".split())
        after = (
            f"After {found.criticals} critical failures in a row it is disabled. Mend what is"
            " wrong, then enable it again.\n"
            if blocks
            else ""
        )
        mails.add(
            tx, f"headrace: task {name} {what}"[:SUBJECT_MAX],
            f"The task {name} of tenant {found.tenant} {what}.\n\nReason: {reason}\n\n{after}"
            f"Run: {id_}\nTask: {found.id}\n",
        )  # fmt: skip
