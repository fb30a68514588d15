"""Triggers, and what they have to start: noted in the transaction of its cause."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from headrace.domain.clock import Millis
from headrace.domain.ids import TenantId, TriggerId
from headrace.domain.run import Mode, RunKind
from headrace.store import tables
from headrace.store.database import NOW, Tx

trigger: Final = tables.trigger
due: Final = tables.trigger_due
_CAUSE: Final = sa.bindparam("of", type_=sa.String)
_ANY_WAITING: Final = sa.select(due.c.cause).where(due.c.started.is_(None)).limit(1)
_ANY_LOOK: Final = sa.select(trigger.c.id).where(trigger.c.look_at <= NOW).limit(1)


def _note(which: sa.ColumnElement[bool]) -> sa.Insert:
    """Return the statement that notes some triggers to be started, and by which cause."""
    found = sa.select(trigger.c.id, _CAUSE, NOW).where(which)
    return sa.insert(due).from_select(["trigger", "cause", "at"], found)


_NOTE_JOB: Final = _note(trigger.c.after_job == sa.bindparam("of_job"))
_NOTE_TASK: Final = _note(
    trigger.c.after_task
    == sa.select(tables.run.c.task)
    .where(
        tables.run.c.id == _CAUSE,
        tables.run.c.kind != RunKind.VALIDATE,  # it has loaded nothing new
    )
    .scalar_subquery()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """What starts a task or job: the success of another one, or new files of a source.

    `every_s`: seconds between two looks at the source. `problem`: why the last one told nothing.
    """

    id: TriggerId
    tenant: TenantId
    name: str
    task: str | None
    job: str | None
    mode: Mode | None
    after_task: str | None
    after_job: str | None
    source: str | None
    every_s: int
    problem: str | None
    created_at: Millis


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A source that is to be looked at: what was there last, and what has been told of."""

    trigger: Trigger
    seen: Mapping[str, str] | None
    told: Mapping[str, str] | None


def add(tx: Tx, new: Trigger) -> None:
    tx.add(
        trigger, id=new.id, tenant=new.tenant, name=new.name, task=new.task, job=new.job,
        mode=new.mode, after_task=new.after_task, after_job=new.after_job, source=new.source,
        every_s=new.every_s, look_at=tx.now if new.source else None,
        created_at=new.created_at,
    )  # fmt: skip


def listed(tx: Tx, tenant: TenantId) -> list[Trigger]:
    """Return a tenant's triggers, oldest first."""
    query = sa.select(trigger).where(trigger.c.tenant == tenant)
    return [_made(row) for row in tx.all(query.order_by(trigger.c.created_at, trigger.c.id))]


def remove(tx: Tx, tenant: TenantId, id_: str) -> bool:
    """Remove a trigger; False if there is none."""
    known = sa.select(trigger.c.id).where(trigger.c.id == id_, trigger.c.tenant == tenant)
    tx.run(sa.delete(due).where(due.c.trigger.in_(known)))
    return bool(tx.run(sa.delete(trigger).where(trigger.c.id.in_(known))))


def task_succeeded(tx: Tx, run: str) -> None:
    """Note what is to start now that a run has succeeded."""
    tx.run(_NOTE_TASK, of=run, now=tx.now)


def job_succeeded(tx: Tx, job: str, execution: str) -> None:
    """Note what is to start now that an execution has succeeded."""
    tx.run(_NOTE_JOB, of=execution, now=tx.now, of_job=job)


def waiting(tx: Tx, limit: int, but: Collection[TenantId] = ()) -> list[tuple[Trigger, str]]:
    """Return triggers that have something to start, and the cause; locked for this transaction.

    `but`: tenants whose triggers have to wait.
    """
    query = (
        sa.select(trigger, due.c.cause)
        .join(due, due.c.trigger == trigger.c.id)
        .where(due.c.started.is_(None), trigger.c.tenant.not_in(but))
        .order_by(due.c.at)
        .limit(limit)
        .with_for_update(of=due, skip_locked=True)
    )
    return [(_made(row), row.cause) for row in tx.all(query)]


def is_any_waiting(tx: Tx) -> bool:
    return tx.first(_ANY_WAITING) is not None


def started(tx: Tx, id_: TriggerId, cause: str, what: str) -> None:
    """Keep what a cause has started: it starts nothing again."""
    tx.change(due, {"trigger": id_, "cause": cause}, started=what)


def forget(tx: Tx, before: Millis) -> None:
    """Remove what was started before a moment."""
    tx.run(sa.delete(due).where(due.c.at < before, due.c.started.is_not(None)))


def looks(tx: Tx, host: str | None, limit: int, *, own_only: bool = False) -> list[Look]:
    """Return sources that are to be looked at now, and put the next look off: each is one's own.

    `host`: of several servers this one; what lies on another's disk is left to that one.
    `own_only`: nothing but what lies on its own disk.
    """
    source = tables.source
    query = (
        sa.select(trigger)
        .join(source, source.c.id == trigger.c.source)
        .where(trigger.c.look_at <= tx.now)
        .order_by(trigger.c.look_at)
        .limit(limit)
        .with_for_update(of=trigger, skip_locked=True)
    )
    if host is not None:
        own = source.c.host == host
        query = query.where(own if own_only else sa.or_(source.c.host.is_(None), own))
    rows = tx.all(query)
    for row in rows:
        again = tx.now + row.every_s * 1000
        tx.change(trigger, {"id": row.id}, look_at=again)
    return [Look(trigger=_made(row), seen=row.seen, told=row.told) for row in rows]


def is_any_look_due(tx: Tx) -> bool:
    return tx.first(_ANY_LOOK, now=tx.now) is not None


def has_told(tx: Tx, id_: TriggerId, told: Mapping[str, str]) -> None:
    """Keep of which state of a source a trigger has told, by starting its thing."""
    tx.change(trigger, {"id": id_}, told=dict(told))


def saw(tx: Tx, old: Look, *, seen: Mapping[str, str], told: Mapping[str, str]) -> bool:
    """Keep what a look has found; False if somebody else has looked meanwhile."""
    same = trigger.c.id == old.trigger.id
    found = tx.first(sa.select(trigger.c.seen, trigger.c.told).where(same).with_for_update())
    if found is None or (found.seen, found.told) != (old.seen, old.told):
        return False
    values: dict[str, Any] = {"problem": None}
    if (old.seen, old.told) != (seen, told):  # of a hundred thousand objects they are long
        values |= {"seen": dict(seen), "told": dict(told)}
    return bool(tx.change(trigger, {"id": old.trigger.id}, **values))


def failed(tx: Tx, id_: TriggerId, problem: str) -> None:
    """Keep why a look, or a start, has come to nothing."""
    tx.change(trigger, {"id": id_}, problem=problem)


def edges(tx: Tx, tenant: TenantId) -> Sequence[tuple[str, str]]:
    """Return what starts what: pairs of the ids of tasks and jobs."""
    pairs = []
    for one in listed(tx, tenant):
        cause = one.after_task or one.after_job
        if cause:
            pairs.append((cause, one.task or one.job or ""))
    return pairs


def _made(row: Any) -> Trigger:  # Any: a row of SQLAlchemy's
    return Trigger(
        id=TriggerId(row.id), tenant=TenantId(row.tenant), name=row.name, task=row.task,
        job=row.job, mode=Mode(row.mode) if row.mode else None, after_task=row.after_task,
        after_job=row.after_job, source=row.source, every_s=row.every_s, problem=row.problem,
        created_at=row.created_at,
    )  # fmt: skip
