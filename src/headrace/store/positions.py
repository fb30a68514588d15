"""Positions: what a task's last committed run has read, so that another reads only what is new."""

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from headrace.domain.clock import rfc3339
from headrace.domain.ids import RunId
from headrace.domain.position import GIVEN, Position
from headrace.domain.run import Mode, RunKind
from headrace.store import tables
from headrace.store.database import Tx

position: Final = tables.position
_OF_RUN: Final = sa.select(
    tables.run.c.task, tables.run.c.mode, tables.run.c.started_at, tables.run.c.ordered_at,
    tables.run.c.since, tables.run.c.kind,
).where(tables.run.c.id == sa.bindparam("of"))  # fmt: skip


def find(tx: Tx, task: str) -> Position | None:
    """Return where a task stands; None before its first commit, and after a reset."""
    found = tx.get(position, task=task)
    if found is None or found.versions is None:
        return None
    return Position(found.versions, found.after)


def put(tx: Tx, task: str, new: Position | None) -> None:
    """Say where a task stands; None: it has read nothing. Runs under way do not move it."""
    tx.remove(position, task=task)
    tx.add(
        position, task=task, versions=None if new is None else dict(new.versions),
        after=None if new is None else new.after, reset_at=tx.now,
    )  # fmt: skip


def moved(tx: Tx, run: RunId, receipt: Mapping[str, Any]) -> None:
    """Keep what a run that has just committed has read. A full run forgets what was before."""
    task = tables.task
    found = tx.first(_OF_RUN, of=run)
    if found is None or found.task is None or found.since is not None:
        return  # a back-fill says nothing of what has come since
    if found.kind == RunKind.VALIDATE:
        return  # nor does what was loaded again because it differed
    before = tx.get(position, task=found.task)
    if before is not None and before.reset_at >= (found.ordered_at or 0) > 0:
        return  # it has read what is another source, or goes elsewhere, by now
    versions: dict[str, str] = {}
    if found.mode == Mode.DELTA and before is not None:
        versions |= before.versions or {}
        versions.pop(GIVEN, None)
    versions |= receipt.get("passed", {})
    for file in receipt["files"]:
        if version := file.get("version"):
            versions[file["name"].partition("!")[0]] = version  # of an archive, not its members
    if before is None:
        tx.add(position, task=found.task, versions=versions, reset_at=0)
    else:
        tx.change(position, {"task": found.task}, versions=versions, after=None)
    extra = tx.get(task.c.extra, id=found.task)
    if extra is not None and extra.extra.get("cursor"):
        shown = dict(extra.extra) | {"cursor": rfc3339(found.started_at)}
        tx.change(task, {"id": found.task}, extra=shown)


def reset(tx: Tx, *tests: sa.ColumnElement[bool]) -> None:
    """Forget where the tasks stand that pass all tests: their next run reads everything."""
    for row in tx.all(sa.select(tables.task.c.id).where(*tests)):
        put(tx, row.id, None)
