"""What may be forgotten: ended runs with all that belongs to them, executions, uploads, deeds.

The newest run of a task stays, with those it was started with, and so does the newest execution
of a job, whole: they tell where it stands.
"""

from typing import Final

import sqlalchemy as sa

from headrace.domain.clock import Millis
from headrace.domain.ids import RunId
from headrace.domain.run import ENDED
from headrace.store import aliases, runs, tables
from headrace.store.database import Tx

run: Final = tables.run
event: Final = tables.event
execution: Final = tables.execution
upload: Final = tables.upload


def old_runs(tx: Tx, before: Millis, limit: int) -> list[tuple[RunId, int]]:
    """Return ended runs that nobody needs any more, oldest first, and how many events each has.

    Those of an execution go together, when all of it has ended so long ago.
    """
    mate, later = run.alias(), run.alias()
    newer = sa.exists().where(later.c.task == mate.c.task, later.c.queued_at > mate.c.queued_at)
    newest = sa.exists().where(mate.c.execution == run.c.execution, ~newer)
    young = sa.exists().where(
        execution.c.id == run.c.execution,
        sa.or_(
            execution.c.finished_at.is_(None), execution.c.finished_at >= before,
            _newest_of_its_job(),
        ),
    )  # fmt: skip
    query = sa.select(run.c.id, run.c.events).where(
        run.c.finished_at < before, run.c.state.in_(tuple(ENDED)),
        sa.or_(run.c.task.is_(None), ~newest), ~young,
    )  # fmt: skip
    rows = tx.all(query.order_by(run.c.finished_at).limit(limit))
    return [(RunId(row.id), row.events) for row in rows]


def drop_events(tx: Tx, id_: RunId, limit: int) -> int:
    """Remove some of a run's events, the oldest; return how many."""
    first = sa.select(sa.func.min(event.c.number)).where(event.c.run == id_).scalar_subquery()
    statement = sa.delete(event).where(event.c.run == id_, event.c.number < first + limit)
    return tx.run(statement)


def forget_run(tx: Tx, id_: RunId) -> None:
    runs.forget(tx, sa.select(run.c.id).where(run.c.id == id_))


def forget_executions(tx: Tx, before: Millis, limit: int) -> int:
    """Remove executions that ended before a moment and have no runs left; return how many."""
    there = sa.exists().where(run.c.execution == execution.c.id)
    query = sa.select(execution.c.id).where(
        execution.c.finished_at < before, ~_newest_of_its_job(), ~there
    )
    ids = [row.id for row in tx.all(query.limit(limit))]
    aliases.forget(tx, ids)
    tx.run(sa.delete(execution).where(execution.c.id.in_(ids)))
    return len(ids)


def _newest_of_its_job() -> sa.ColumnElement[bool]:
    later = execution.alias()
    return ~sa.exists().where(
        later.c.job == execution.c.job, later.c.queued_at > execution.c.queued_at
    )


def forget_uploads(tx: Tx, before: Millis, limit: int) -> int:
    """Remove uploads that nobody has started or touched since a moment; return how many."""
    query = sa.select(upload.c.id).where(upload.c.run.is_(None), upload.c.updated_at < before)
    ids = [row.id for row in tx.all(query.limit(limit))]
    chunk = tables.upload_chunk
    tx.run(sa.delete(chunk).where(chunk.c.upload.in_(ids)))
    tx.run(sa.delete(upload).where(upload.c.id.in_(ids), upload.c.run.is_(None)))
    return len(ids)
