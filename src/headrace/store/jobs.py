"""Pools, jobs and executions: kept, found, removed. Every look-up is by tenant."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from headrace.store.database import Tx
from headrace.store.limits import not_paused
from headrace.store.paging import Order, Window, page

pool: Final = tables.pool
job: Final = tables.job
execution: Final = tables.execution
AnyRow = Any  # a row of SQLAlchemy's


def _steps(rows: Sequence[Mapping[str, Any]]) -> tuple[Step, ...]:
    return tuple(
        Step(task=TaskId(row["task"]), after=tuple(map(TaskId, row["after"]))) for row in rows
    )


def _plain(steps: Sequence[Step]) -> list[dict[str, Any]]:
    return [{"task": step.task, "after": list(step.after)} for step in steps]


# Pools.


def add_pool(tx: Tx, new: Pool) -> None:
    tx.run(
        sa.insert(pool).values(
            id=new.id, tenant=new.tenant, name=new.name, permissions=_shown(new.permissions),
            destination=new.destination, created_at=new.created_at, updated_at=new.updated_at,
        )
    )  # fmt: skip


def _shown(permissions: Mapping[KeyId, Permission] | None) -> dict[str, str] | None:
    return None if permissions is None else {str(key): str(may) for key, may in permissions.items()}


def find_pool(tx: Tx, tenant: TenantId, id_: str) -> Pool | None:
    found = tx.first(sa.select(pool).where(pool.c.id == id_, pool.c.tenant == tenant))
    return None if found is None else _made_pool(found)


def pools(
    tx: Tx, tenant: TenantId, window: Window, hidden: Sequence[PoolId] = ()
) -> tuple[list[Pool], int]:
    """Return one page of pools, oldest first, and how many there are."""
    query = sa.select(pool).where(pool.c.tenant == tenant, pool.c.id.not_in(hidden))
    rows, total = page(tx, query, pool, Order("created_at", descending=False), window)
    return [_made_pool(row) for row in rows], total


def restricted_pools(tx: Tx, tenant: TenantId) -> list[Pool]:
    """Return the pools that are not open to every key."""
    query = sa.select(pool).where(pool.c.tenant == tenant, pool.c.permissions.is_not(None))
    return [_made_pool(row) for row in tx.all(query)]


def change_pool(tx: Tx, new: Pool) -> None:
    tx.run(
        sa.update(pool)
        .where(pool.c.id == new.id)
        .values(
            name=new.name, permissions=_shown(new.permissions), destination=new.destination,
            updated_at=new.updated_at,
        )
    )  # fmt: skip


def remove_pool(tx: Tx, id_: PoolId) -> None:
    tx.run(sa.delete(pool).where(pool.c.id == id_))


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
    tx.run(sa.insert(job).values(**_values(new)))


def change(tx: Tx, new: Job) -> None:
    tx.run(sa.update(job).where(job.c.id == new.id).values(**_values(new)))


def find(tx: Tx, tenant: TenantId, id_: str, *, lock: bool = False) -> Job | None:
    """Return a job; `lock` holds it against another start until the transaction ends."""
    query = sa.select(job).where(job.c.id == id_, job.c.tenant == tenant)
    found = tx.first(query.with_for_update(key_share=True) if lock else query)
    return None if found is None else _made(found)


def everything_of(tx: Tx, tenant: TenantId) -> Job | None:
    """Return the tenant's built-in job."""
    found = tx.first(sa.select(job).where(job.c.tenant == tenant, job.c.everything.is_(True)))
    return None if found is None else _made(found)


def listed(
    tx: Tx, tenant: TenantId, pool_id: str | None, window: Window, hidden: Sequence[PoolId] = ()
) -> tuple[list[Job], int]:
    """Return one page of jobs, oldest first, and how many there are."""
    query = sa.select(job).where(job.c.tenant == tenant, job.c.pool.not_in(hidden))
    if pool_id is not None:
        query = query.where(job.c.pool == pool_id)
    rows, total = page(tx, query, job, Order("created_at", descending=False), window)
    return [_made(row) for row in rows], total


def names(tx: Tx, ids: Sequence[JobId]) -> dict[JobId, str]:
    query = sa.select(job.c.id, job.c.name).where(job.c.id.in_(ids))
    return {JobId(row.id): row.name for row in tx.all(query)}


def pool_of(tx: Tx, id_: JobId) -> PoolId:
    return PoolId(tx.con.execute(sa.select(job.c.pool).where(job.c.id == id_)).scalar_one())


def remove(tx: Tx, id_: JobId) -> None:
    """Remove a job and what is known of its executions; their runs stay."""
    aliases.forget(tx, sa.select(execution.c.id).where(execution.c.job == id_))
    aliases.forget(tx, [id_])
    tx.run(sa.delete(execution).where(execution.c.job == id_))
    tx.run(sa.delete(job).where(job.c.id == id_))


def due(tx: Tx, limit: int) -> list[Job]:
    """Return jobs whose schedule is due, unless their tenants are paused."""
    able = not_paused({"tenant": job.c.tenant})
    query = sa.select(job).where(job.c.next_run <= tx.now, able).order_by(job.c.next_run)
    return [_made(row) for row in tx.all(query.limit(limit))]


def owing(tx: Tx) -> list[Job]:
    """Return jobs that moments wait for, and that have no execution under way."""
    busy = sa.exists().where(execution.c.job == job.c.id, execution.c.finished_at.is_(None))
    return [_made(row) for row in tx.all(sa.select(job).where(sa.text("job.owed > 0"), ~busy))]


def owe(tx: Tx, id_: JobId, owed: int) -> None:
    tx.run(sa.update(job).where(job.c.id == id_).values(owed=owed))


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
    tx.run(
        sa.insert(execution).values(
            id=new.id, tenant=new.tenant, job=new.job, mode=new.mode, trigger=new.trigger,
            state=new.state, steps=_plain(new.steps), stops=new.stops, cancelled=new.cancelled,
            percent=new.percent, queued_at=new.queued_at,
        )
    )  # fmt: skip


def find_execution(tx: Tx, tenant: TenantId, id_: str, *, lock: bool = False) -> Execution | None:
    """Return an execution; also the one of a task that was started alone."""
    query = sa.select(execution).where(execution.c.id == id_, execution.c.tenant == tenant)
    if found := tx.first(query.with_for_update() if lock else query):
        return made_execution(found)
    run = runs.find(tx, tenant, id_)
    return alone(run) if run is not None and id_ == run.execution and run.task else None


def active_of(tx: Tx, id_: JobId) -> Execution | None:
    """Return the job's execution that is not over."""
    found = tx.first(
        sa.select(execution).where(execution.c.job == id_, execution.c.finished_at.is_(None))
    )
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


def executions(
    tx: Tx, tenant: TenantId, asked: ExecutionsAsked, window: Window,
    hidden: Sequence[PoolId] = (),
) -> list[Execution]:  # fmt: skip
    """Return one page of executions, newest first. The ends of windows are exclusive."""
    last = window.offset + window.limit
    places: list[tuple[Millis, str]] = []
    for query, table in _asked(tenant, asked, hidden):
        page = query.with_only_columns(table.c.queued_at, table.c.id)
        if asked.before is not None:
            at, id_ = asked.before
            older = sa.or_(table.c.queued_at < at, table.c.id < id_)
            page = page.where(table.c.queued_at <= at, older)
        page = page.order_by(table.c.queued_at.desc(), table.c.id.desc())
        places += [(row.queued_at, row.id) for row in tx.all(page.limit(last))]
    ids = [id_ for _, id_ in sorted(places, reverse=True)[window.offset : last]]
    rows = tx.all(sa.select(execution).where(execution.c.id.in_(ids)))
    found = {row.id: made_execution(row) for row in rows}
    found |= {one.id: alone(one) for one in runs.some(tx, ids)}
    return [found[id_] for id_ in ids]


def count_executions(
    tx: Tx, tenant: TenantId, asked: ExecutionsAsked, hidden: Sequence[PoolId] = ()
) -> int:
    """Return how many executions there are, whatever `before` says."""
    return sum(
        int(tx.con.execute(query.with_only_columns(sa.func.count())).scalar_one())
        for query, _ in _asked(tenant, asked, hidden)
    )


def _asked(
    tenant: TenantId, asked: ExecutionsAsked, hidden: Sequence[PoolId]
) -> Iterator[tuple[sa.Select[Any], sa.Table]]:
    """Yield a query of the executions of jobs, and one of the tasks that were started alone."""
    if asked.alone is not True:
        query = _in_windows(execution, tenant, asked, asked.states)
        if asked.job is not None:
            query = query.where(execution.c.job == asked.job)
        if hidden:
            seen = sa.select(job.c.id).where(job.c.tenant == tenant, job.c.pool.not_in(hidden))
            query = query.where(execution.c.job.in_(seen))
        yield query, execution
    if asked.job is None and asked.alone is not False:
        run = tables.run
        states = None if asked.states is None else alone_in(asked.states)
        query = _in_windows(run, tenant, asked, states)
        yield query.where(run.c.execution == run.c.id, run.c.task.is_not(None)), run


def _in_windows(
    table: sa.Table, tenant: TenantId, asked: ExecutionsAsked, states: Sequence[str] | None
) -> sa.Select[Any]:
    query = sa.select(table).where(table.c.tenant == tenant)
    for column, low, high in (
        (table.c.queued_at, asked.since, asked.until),
        (table.c.finished_at, asked.ended_since, asked.ended_until),
    ):
        if low is not None:
            query = query.where(column >= low)
        if high is not None:
            query = query.where(column < high)
    return query if states is None else query.where(table.c.state.in_(states))


def last_executions(tx: Tx, ids: Sequence[JobId]) -> dict[JobId, Execution]:
    """Return the newest execution of each job that has one."""
    newest = (
        sa.select(execution.c.id)
        .where(execution.c.job == job.c.id)
        .order_by(execution.c.queued_at.desc(), execution.c.id.desc())
        .limit(1)
        .correlate(job)
        .scalar_subquery()
    )
    query = sa.select(execution).where(
        execution.c.id.in_(sa.select(newest).select_from(job).where(job.c.id.in_(ids)))
    )
    return {JobId(row.job): made_execution(row) for row in tx.all(query)}


def execution_at(tx: Tx, tenant: TenantId, job_id: str, moment: Millis) -> Execution | None:
    found = tx.first(
        sa.select(execution).where(
            execution.c.tenant == tenant, execution.c.job == job_id, execution.c.queued_at == moment
        )
    )
    return None if found is None else made_execution(found)


def active_ids(tx: Tx) -> list[str]:
    """Return every tenant's executions that are not over, oldest first."""
    query = sa.select(execution.c.id).where(execution.c.finished_at.is_(None))
    return [row.id for row in tx.all(query.order_by(execution.c.queued_at))]


def taken(tx: Tx, id_: str) -> Execution | None:
    """Return an execution that is not over, locked; None if it is over or somebody else has it."""
    query = sa.select(execution).where(execution.c.id == id_, execution.c.finished_at.is_(None))
    found = tx.first(query.with_for_update(skip_locked=True))
    return None if found is None else made_execution(found)


def write_execution(tx: Tx, id_: ExecutionId, **values: Any) -> None:
    tx.run(sa.update(execution).where(execution.c.id == id_).values(**values))


@dataclass(frozen=True, slots=True)
class StepRun:
    """The run of one step of an execution."""

    task: TaskId
    id: str
    state: RunState
    progress: Mapping[str, Any]
    started_at: Millis | None


def runs_of(tx: Tx, id_: ExecutionId) -> list[StepRun]:
    """Return the runs of an execution."""
    run = tables.run
    query = sa.select(run.c.task, run.c.id, run.c.state, run.c.progress, run.c.started_at)
    return [
        StepRun(TaskId(row.task), row.id, RunState(row.state), row.progress or {}, row.started_at)
        for row in tx.all(query.where(run.c.execution == id_))
    ]


def made_execution(row: AnyRow) -> Execution:
    """Make the domain's value of a row."""
    return Execution(
        id=ExecutionId(row.id), tenant=TenantId(row.tenant), job=JobId(row.job),
        mode=Mode(row.mode), trigger=Trigger(row.trigger), state=ExecutionState(row.state),
        steps=_steps(row.steps), stops=row.stops, cancelled=row.cancelled, percent=row.percent,
        queued_at=row.queued_at, started_at=row.started_at, finished_at=row.finished_at,
    )  # fmt: skip
