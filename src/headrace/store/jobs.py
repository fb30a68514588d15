"""Pools, jobs and executions: kept, found, removed. Every look-up is by tenant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import sqlalchemy as sa

from headrace.domain.clock import Millis
from headrace.domain.ids import (
    DestinationId,
    ExecutionId,
    JobId,
    KeyId,
    PoolId,
    TaskId,
    TenantId,
)
from headrace.domain.job import Execution, ExecutionState, Job, Pool, Step, alone, alone_in
from headrace.domain.principal import Permission
from headrace.domain.run import Mode, RunState, Trigger
from headrace.store import aliases, runs, tables, timing
from headrace.store.database import MOST, NOW, Tx, among
from headrace.store.limits import not_paused
from headrace.store.paging import Order, Window, listing, page

pool: Final = tables.pool
job: Final = tables.job
execution: Final = tables.execution
AnyRow = Any  # a row of SQLAlchemy's
OLDEST_FIRST: Final = Order("created_at", descending=False)
_OF: Final = execution.c.id == sa.bindparam("of")
_UNDER_WAY: Final = execution.c.finished_at.is_(None)


def _steps(rows: Sequence[Mapping[str, Any]]) -> tuple[Step, ...]:
    return tuple(
        Step(task=TaskId(row["task"]), after=tuple(map(TaskId, row["after"]))) for row in rows
    )


def _plain(steps: Sequence[Step]) -> list[dict[str, Any]]:
    return [{"task": step.task, "after": list(step.after)} for step in steps]


# Pools.


def add_pool(tx: Tx, new: Pool) -> None:
    tx.add(
        pool, id=new.id, tenant=new.tenant, name=new.name, permissions=_shown(new.permissions),
        destination=new.destination, created_at=new.created_at, updated_at=new.updated_at,
    )  # fmt: skip


def _shown(permissions: Mapping[KeyId, Permission] | None) -> dict[str, str] | None:
    return None if permissions is None else {str(key): str(may) for key, may in permissions.items()}


def find_pool(tx: Tx, tenant: TenantId, id_: str) -> Pool | None:
    found = tx.get(pool, id=id_, tenant=tenant)
    return None if found is None else _made_pool(found)


def pools(
    tx: Tx, tenant: TenantId, window: Window, hidden: Sequence[PoolId] = ()
) -> tuple[list[Pool], int]:
    """Return one page of pools, oldest first, and how many there are."""
    query = sa.select(pool).where(pool.c.tenant == tenant, pool.c.id.not_in(hidden))
    rows, total = page(tx, listing(query, pool, OLDEST_FIRST), window)
    return [_made_pool(row) for row in rows], total


def restricted_pools(tx: Tx, tenant: TenantId) -> list[Pool]:
    """Return the pools that are not open to every key."""
    query = sa.select(pool).where(pool.c.tenant == tenant, pool.c.permissions.is_not(None))
    return [_made_pool(row) for row in tx.all(query)]


def change_pool(tx: Tx, new: Pool) -> None:
    tx.change(
        pool, {"id": new.id}, name=new.name, permissions=_shown(new.permissions),
        destination=new.destination, updated_at=new.updated_at,
    )  # fmt: skip


def remove_pool(tx: Tx, id_: PoolId) -> None:
    tx.remove(pool, id=id_)


def _made_pool(row: AnyRow) -> Pool:
    return Pool(
        id=PoolId(row.id), tenant=TenantId(row.tenant), name=row.name,
        permissions=None if row.permissions is None else {
            KeyId(key): Permission(may) for key, may in row.permissions.items()
        },
        destination=DestinationId(row.destination) if row.destination else None,
        created_at=row.created_at, updated_at=row.updated_at,
    )  # fmt: skip


# Jobs.


def _values(thing: Job) -> dict[str, Any]:
    return {
        "id": thing.id, "tenant": thing.tenant, "pool": thing.pool, "name": thing.name,
        "everything": thing.everything, "steps": _plain(thing.steps), "stops": thing.stops,
        "mode": thing.mode, "cron": thing.cron, "timing": timing.kept(thing.timing),
        "next_run": thing.next_run, "owed": thing.owed,
        "created_at": thing.created_at, "updated_at": thing.updated_at,
    }  # fmt: skip


def add(tx: Tx, new: Job) -> None:
    tx.add(job, **_values(new))


def change(tx: Tx, new: Job) -> None:
    tx.change(job, {"id": new.id}, **_values(new))


_LOCKED_JOB: Final = (
    sa.select(job)
    .where(job.c.id == sa.bindparam("of"), job.c.tenant == sa.bindparam("of_tenant"))
    .with_for_update(key_share=True)
)


def find(tx: Tx, tenant: TenantId, id_: str, *, lock: bool = False) -> Job | None:
    """Return a job; `lock` holds it against another start until the transaction ends."""
    if lock:
        found = tx.first(_LOCKED_JOB, of=id_, of_tenant=tenant)
    else:
        found = tx.get(job, id=id_, tenant=tenant)
    return None if found is None else _made(found)


_EVERYTHING: Final = sa.select(job).where(
    job.c.tenant == sa.bindparam("of_tenant"), job.c.everything.is_(True)
)


def everything_of(tx: Tx, tenant: TenantId) -> Job | None:
    """Return the tenant's built-in job."""
    found = tx.first(_EVERYTHING, of_tenant=tenant)
    return None if found is None else _made(found)


def listed(
    tx: Tx, tenant: TenantId, pool_id: str | None, window: Window, hidden: Sequence[PoolId] = ()
) -> tuple[list[Job], int]:
    """Return one page of jobs, oldest first, and how many there are."""
    query = sa.select(job).where(job.c.tenant == tenant, job.c.pool.not_in(hidden))
    if pool_id is not None:
        query = query.where(job.c.pool == pool_id)
    rows, total = page(tx, listing(query, job, OLDEST_FIRST), window)
    return [_made(row) for row in rows], total


_NAMES: Final = sa.select(job.c.id, job.c.name).where(among(job.c.id, "ids"))


def names(tx: Tx, ids: Sequence[JobId]) -> dict[JobId, str]:
    return {JobId(row.id): row.name for row in tx.all(_NAMES, ids=list(ids))}


def pool_of(tx: Tx, id_: JobId) -> PoolId:
    found = tx.get(job.c.pool, id=id_)
    assert found is not None  # whoever asks has found the job
    return PoolId(found.pool)


def remove(tx: Tx, id_: JobId) -> None:
    """Remove a job and what is known of its executions; their runs stay."""
    aliases.forget(tx, sa.select(execution.c.id).where(execution.c.job == id_))
    aliases.forget(tx, [id_])
    tx.remove(execution, job=id_)
    tx.remove(job, id=id_)


_DUE: Final = (
    sa.select(job)
    .where(job.c.next_run <= NOW, not_paused({"tenant": job.c.tenant}))
    .order_by(job.c.next_run)
    .limit(MOST)
)


def due(tx: Tx, limit: int) -> list[Job]:
    """Return jobs whose schedule is due, unless their tenants are paused."""
    return [_made(row) for row in tx.all(_DUE, now=tx.now, most=limit)]


_OWING: Final = sa.select(job).where(
    sa.text("job.owed > 0"),
    ~sa.exists().where(execution.c.job == job.c.id, execution.c.finished_at.is_(None)),
)


def owing(tx: Tx) -> list[Job]:
    """Return jobs that moments wait for, and that have no execution under way."""
    return [_made(row) for row in tx.all(_OWING)]


def owe(tx: Tx, id_: JobId, owed: int) -> None:
    tx.change(job, {"id": id_}, owed=owed)


def move_schedule(tx: Tx, thing: Job, moment: Millis) -> bool:
    """Set a job's next moment; False if somebody else has."""
    statement = sa.update(job).where(job.c.id == thing.id, job.c.next_run == thing.next_run)
    return bool(tx.run(statement.values(next_run=moment)))


def _made(row: AnyRow) -> Job:
    return Job(
        id=JobId(row.id), tenant=TenantId(row.tenant), pool=PoolId(row.pool), name=row.name,
        everything=row.everything, steps=_steps(row.steps), stops=row.stops, mode=Mode(row.mode),
        cron=row.cron, timing=timing.made(row.timing), next_run=row.next_run, owed=row.owed,
        created_at=row.created_at, updated_at=row.updated_at,
    )  # fmt: skip


# Executions.


def add_execution(tx: Tx, new: Execution) -> None:
    tx.add(
        execution, id=new.id, tenant=new.tenant, job=new.job, mode=new.mode, trigger=new.trigger,
        state=new.state, steps=_plain(new.steps), stops=new.stops, cancelled=new.cancelled,
        percent=new.percent, queued_at=new.queued_at,
    )  # fmt: skip


_LOCKED_EXECUTION: Final = (
    sa.select(execution)
    .where(_OF, execution.c.tenant == sa.bindparam("of_tenant"))
    .with_for_update()
)


def find_execution(tx: Tx, tenant: TenantId, id_: str, *, lock: bool = False) -> Execution | None:
    """Return an execution; also the one of a task that was started alone."""
    if lock:
        found = tx.first(_LOCKED_EXECUTION, of=id_, of_tenant=tenant)
    else:
        found = tx.get(execution, id=id_, tenant=tenant)
    if found is not None:
        return made_execution(found)
    run = runs.find(tx, tenant, id_)
    return alone(run) if run is not None and id_ == run.execution and run.task else None


_ACTIVE: Final = sa.select(execution).where(execution.c.job == sa.bindparam("of_job"), _UNDER_WAY)


def active_of(tx: Tx, id_: JobId) -> Execution | None:
    """Return the job's execution that is not over."""
    found = tx.first(_ACTIVE, of_job=id_)
    return None if found is None else made_execution(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionsAsked:
    """Which executions are wanted: of a job, in some states, queued or ended in a window.

    `alone`: only those of no job, or only the others. `before`: what comes after that one on the
    newest-first list.
    """

    job: str | None = None
    alone: bool | None = None
    states: Sequence[ExecutionState] | None = None
    since: Millis | None = None
    until: Millis | None = None
    ended_since: Millis | None = None
    ended_until: Millis | None = None
    before: tuple[Millis, str] | None = None


_SOME: Final = sa.select(execution).where(among(execution.c.id, "ids"))


def executions(
    tx: Tx, tenant: TenantId, asked: ExecutionsAsked, window: Window,
    hidden: Sequence[PoolId] = (),
) -> list[Execution]:  # fmt: skip
    """Return one page of executions, newest first. The ends of windows are exclusive."""
    last = window.offset + window.limit
    places: list[tuple[Millis, str]] = []
    given = _given(tenant, asked, hidden)
    for query in _asked(frozenset(given), asked.alone):
        places += [(row.queued_at, row.id) for row in tx.all(query.newest, **given, most=last)]
    ids = [id_ for _, id_ in sorted(places, reverse=True)[window.offset : last]]
    rows = tx.all(_SOME, ids=ids)
    found = {row.id: made_execution(row) for row in rows}
    found |= {one.id: alone(one) for one in runs.some(tx, ids)}
    return [found[id_] for id_ in ids]


def count_executions(
    tx: Tx, tenant: TenantId, asked: ExecutionsAsked, hidden: Sequence[PoolId] = ()
) -> int:
    """Return how many executions there are, whatever `before` says."""
    given = _given(tenant, replace(asked, before=None), hidden)
    return sum(
        int(tx.con.execute(query.counted, given).scalar_one())
        for query in _asked(frozenset(given), asked.alone)
    )


def _given(tenant: TenantId, asked: ExecutionsAsked, hidden: Sequence[PoolId]) -> dict[str, Any]:
    """Return what the queries of `_asked` are told: of the tests, those that are asked for."""
    states = asked.states
    tests = {
        "of_job": asked.job, "since": asked.since, "until": asked.until,
        "ended_since": asked.ended_since, "ended_until": asked.ended_until,
        "states": None if states is None else list(states),
        "alone_in": None if states is None else list(alone_in(states)),
        "before_at": asked.before and asked.before[0],
        "before_id": asked.before and asked.before[1],
        "hidden": list(hidden) or None,
    }  # fmt: skip
    return {"of_tenant": tenant} | {
        name: value for name, value in tests.items() if value is not None
    }


@dataclass(frozen=True, slots=True)
class _Query:
    """How many executions there are, and the places of the newest."""

    counted: sa.Select[Any]
    newest: sa.Select[Any]


@cache
def _asked(given: frozenset[str], alone: bool | None) -> tuple[_Query, ...]:  # noqa: FBT001  # it is cached by it
    """Return a query of the executions of jobs, and one of the tasks that were started alone."""
    found = []
    if alone is not True:
        hidden = sa.bindparam("hidden", expanding=True, type_=sa.String)
        tests = {
            "of_job": execution.c.job == sa.bindparam("of_job"),
            "states": among(execution.c.state, "states"),
            "hidden": execution.c.job.in_(
                sa.select(job.c.id).where(
                    job.c.tenant == sa.bindparam("of_tenant"), job.c.pool.not_in(hidden)
                )
            ),
        }
        found.append(_query(execution, given, tests))
    if "of_job" not in given and alone is not False:
        run = tables.run
        tests = {"alone_in": among(run.c.state, "alone_in")}
        of_none = run.c.execution == run.c.id, run.c.task.is_not(None)
        found.append(_query(run, given, tests, *of_none))
    return tuple(found)


def _query(
    table: sa.Table, given: frozenset[str], own: Mapping[str, sa.ColumnElement[bool]],
    *always: sa.ColumnElement[bool],
) -> _Query:  # fmt: skip
    at, ended = table.c.queued_at, table.c.finished_at
    before = sa.bindparam("before_at", type_=sa.BigInteger)
    tests = dict(own) | {
        "since": at >= sa.bindparam("since"), "until": at < sa.bindparam("until"),
        "ended_since": ended >= sa.bindparam("ended_since"),
        "ended_until": ended < sa.bindparam("ended_until"),
        "before_at": sa.and_(
            at <= before, sa.or_(at < before, table.c.id < sa.bindparam("before_id"))
        ),
    }  # fmt: skip
    query = sa.select(at, table.c.id).where(
        table.c.tenant == sa.bindparam("of_tenant"),
        *(tests[name] for name in sorted(given & tests.keys())),
        *always,
    )
    newest = query.order_by(at.desc(), table.c.id.desc())
    return _Query(
        query.with_only_columns(sa.func.count()),
        newest.limit(MOST),
    )


_NEWEST: Final = (
    sa.select(execution.c.id)
    .where(execution.c.job == job.c.id)
    .order_by(execution.c.queued_at.desc(), execution.c.id.desc())
    .limit(1)
    .correlate(job)
    .scalar_subquery()
)
_LAST: Final = sa.select(execution).where(
    execution.c.id.in_(sa.select(_NEWEST).select_from(job).where(among(job.c.id, "ids")))
)


def last_executions(tx: Tx, ids: Sequence[JobId]) -> dict[JobId, Execution]:
    """Return the newest execution of each job that has one."""
    return {JobId(row.job): made_execution(row) for row in tx.all(_LAST, ids=list(ids))}


def execution_at(tx: Tx, tenant: TenantId, job_id: str, moment: Millis) -> Execution | None:
    found = tx.get(execution, tenant=tenant, job=job_id, queued_at=moment)
    return None if found is None else made_execution(found)


_ACTIVE_IDS: Final = sa.select(execution.c.id).where(_UNDER_WAY).order_by(execution.c.queued_at)


def active_ids(tx: Tx) -> list[str]:
    """Return every tenant's executions that are not over, oldest first."""
    return [row.id for row in tx.all(_ACTIVE_IDS)]


_TAKEN: Final = sa.select(execution).where(_OF, _UNDER_WAY).with_for_update(skip_locked=True)


def taken(tx: Tx, id_: str) -> Execution | None:
    """Return an execution that is not over, locked; None if it is over or somebody else has it."""
    found = tx.first(_TAKEN, of=id_)
    return None if found is None else made_execution(found)


def write_execution(tx: Tx, id_: ExecutionId, **values: Any) -> None:
    tx.change(execution, {"id": id_}, **values)


@dataclass(frozen=True, slots=True)
class StepRun:
    """The run of one step of an execution."""

    task: TaskId
    id: str
    state: RunState
    progress: Mapping[str, Any]
    started_at: Millis | None


_RUNS_OF: Final = sa.select(
    tables.run.c.task, tables.run.c.id, tables.run.c.state, tables.run.c.progress,
    tables.run.c.started_at,
).where(tables.run.c.execution == sa.bindparam("of"))  # fmt: skip


def runs_of(tx: Tx, id_: ExecutionId) -> list[StepRun]:
    """Return the runs of an execution."""
    return [
        StepRun(TaskId(row.task), row.id, RunState(row.state), row.progress or {}, row.started_at)
        for row in tx.all(_RUNS_OF, of=id_)
    ]


def made_execution(row: AnyRow) -> Execution:
    """Make the domain's value of a row."""
    return Execution(
        id=ExecutionId(row.id), tenant=TenantId(row.tenant), job=JobId(row.job),
        mode=Mode(row.mode), trigger=Trigger(row.trigger), state=ExecutionState(row.state),
        steps=_steps(row.steps), stops=row.stops, cancelled=row.cancelled, percent=row.percent,
        queued_at=row.queued_at, started_at=row.started_at, finished_at=row.finished_at,
    )  # fmt: skip
