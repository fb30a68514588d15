"""Runs: the queue. A run is claimed with fence and lease; only its holder writes about it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from headrace.domain import alias
from headrace.domain.clock import Millis
from headrace.domain.errors import LostClaim
from headrace.domain.event import Event, EventKind, EventStatus, NewEvent
from headrace.domain.ids import EventId, ExecutionId, RunId, TaskId, TenantId, new_id
from headrace.domain.run import ACTIVE, Claim, Mode, Range, Run, RunKind, RunState, Trigger
from headrace.store import aliases, limits, tables
from headrace.store.database import Tx
from headrace.store.paging import Order, Window, page

run: Final = tables.run
event: Final = tables.event
FORMAT: Final = 1  # of orders: raised when what a run needs means something new
FAR_MS: Final = 600_000  # more than any wait of a queued run
RARE: Final = 5_000  # events: so few are looked up before they are sorted
IDS_AT_ONCE: Final = 500  # in one statement
_ACTIVE: Final = tuple(ACTIVE)
# Written out, not bound: only so does SQLite use the index of the queued runs.
_QUEUED: Final = run.c.state == sa.literal_column("'queued'")


_INSERT_RUN: Final = sa.insert(run)
_INSERT_EVENT: Final = sa.insert(event)
_INSERT_COUNT: Final = sa.insert(tables.event_count)
_COUNT_RUNS: Final = {
    name: made.on_conflict_do_update(
        index_elements=["tenant", "kind"],
        set_={"runs": tables.run_count.c.runs + made.excluded.runs},
    )
    for name, made in (
        ("sqlite", sqlite.insert(tables.run_count)),
        ("postgresql", postgresql.insert(tables.run_count)),
    )
}
_COUNT: Final = {  # by dialect: one more, or the first
    name: made.on_conflict_do_update(
        index_elements=["run", "kind", "status"],
        set_={"events": tables.event_count.c.events + 1},
    )
    for name, made in (
        ("sqlite", sqlite.insert(tables.event_count)),
        ("postgresql", postgresql.insert(tables.event_count)),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A queued run as the claim sees it."""

    id: str
    tenant: str
    task: str
    source: str
    destination: str
    pool: str | None
    exclusive: str | None
    host: str | None
    format: int


_WAITING: Final = [run.c[field.name] for field in fields(Waiting)]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """A run to be queued, and what the claim goes by."""

    run: Run
    source: str
    destination: str
    pool: str | None
    host: str | None
    exclusive: str | None
    idempotency_key: str | None


def add_all(tx: Tx, news: Sequence[NewRun]) -> None:
    """Keep queued runs, each with its first event and its alias."""
    if not news:
        return
    tx.insert(_INSERT_RUN, [_row_of(new) for new in news])
    first = NewEvent(kind=EventKind.LOG, status=EventStatus.CREATED, message="queued")
    tx.insert(_INSERT_EVENT, [_event_row(new.run.id, 1, tx.now, first) for new in news])
    counts = [
        {"run": new.run.id, "kind": first.kind, "status": first.status, "events": 1} for new in news
    ]
    tx.insert(_INSERT_COUNT, counts)
    aliases.give_all(tx, alias.Kind.RUN, [(new.run.tenant, new.run.id) for new in news])
    _count(tx, Counter((new.run.tenant, new.run.kind) for new in news))


def _row_of(new: NewRun) -> dict[str, Any]:
    one = new.run
    return {
        "id": one.id, "tenant": one.tenant, "task": one.task, "source": new.source,
        "destination": new.destination, "execution": one.execution, "pool": new.pool,
        "host": new.host, "format": FORMAT, "priority": one.priority, "state": one.state,
        "trigger": one.trigger, "kind": one.kind, "action": one.action, "fence": 0, "attempt": 0,
        "deaths": 0, "stopping": False, "progress": {}, "failure_threshold": one.failure_threshold,
        "exclusive": new.exclusive, "table_name": one.table,
        "idempotency_key": new.idempotency_key, "mode": one.mode,
        "metadata": None if one.metadata is None else dict(one.metadata), "fire": one.fire,
        "since": one.range and one.range.since, "until": one.range and one.range.until,
        "queued_at": one.queued_at, "not_before": one.not_before, "updated_at": one.updated_at,
        "events": 1, "event_at": one.queued_at,
    }  # fmt: skip


def add_ended(tx: Tx, new: Run) -> None:
    """Keep a run that was over before it was told of, of no task."""
    tx.run(
        sa.insert(run).values(
            id=new.id, tenant=new.tenant, task=None, source="", destination="",
            execution=new.execution, format=FORMAT, state=new.state, trigger=new.trigger,
            kind=new.kind, action=new.action, mode=new.mode, fence=0, attempt=new.attempt,
            deaths=0, progress={},
            error=new.error, failure_threshold=0, queued_at=new.queued_at,
            started_at=new.started_at, finished_at=new.finished_at, not_before=new.not_before,
            updated_at=new.updated_at, events=0, event_at=0,
        )
    )  # fmt: skip
    _count(tx, {(new.tenant, new.kind): 1})


def find(tx: Tx, tenant: TenantId, id_: str) -> Run | None:
    found = tx.first(sa.select(run).where(run.c.id == id_, run.c.tenant == tenant))
    return None if found is None else made(found)


def some(tx: Tx, ids: Sequence[str]) -> list[Run]:
    """Return those of the runs named that are there."""
    return [
        made(row)
        for start in range(0, len(ids), IDS_AT_ONCE)
        for row in tx.all(sa.select(run).where(run.c.id.in_(ids[start : start + IDS_AT_ONCE])))
    ]


def wake(tx: Tx, id_: str) -> None:
    """Make a queued run due now."""
    tx.run(
        sa.update(run)
        .where(run.c.id == id_, run.c.state == RunState.QUEUED)
        .values(not_before=tx.now, waiting_for=None, updated_at=tx.now)
    )


def any_tenants(tx: Tx, id_: str) -> Run | None:
    """Return a run whoever owns it: for the server's own work, never for a caller."""
    found = tx.first(sa.select(run).where(run.c.id == id_))
    return None if found is None else made(found)


def exclusive_of(tx: Tx, id_: str) -> str | None:
    found = tx.first(sa.select(run.c.exclusive).where(run.c.id == id_))
    return None if found is None else found.exclusive


def end_of(tx: Tx, id_: str, end: str) -> str:
    """Return the id of a run's source or destination."""
    return str(tx.con.execute(sa.select(run.c[end]).where(run.c.id == id_)).scalar_one())


def is_cancelling(tx: Tx, id_: str) -> bool:
    """Tell whether somebody has asked for a run to stop."""
    state = tx.con.execute(sa.select(run.c.state).where(run.c.id == id_)).scalar()
    return state == RunState.CANCELLING


def token(tx: Tx, id_: str) -> str | None:
    """Return the token of the commit that is on record for a run."""
    found = tx.first(sa.select(run.c.token).where(run.c.id == id_))
    return None if found is None else found.token


def started_with(tx: Tx, task: TaskId, key: str) -> Run | None:
    """Return the run that an earlier call with the same idempotency key made."""
    found = tx.first(sa.select(run).where(run.c.task == task, run.c.idempotency_key == key))
    return None if found is None else made(found)


def unfinished(tx: Tx, task: TaskId) -> Run | None:
    """Return a queued or active run of the task."""
    states = (RunState.QUEUED, *_ACTIVE)
    found = tx.first(sa.select(run).where(run.c.task == task, run.c.state.in_(states)).limit(1))
    return None if found is None else made(found)


def queue_is_full(tx: Tx, tenant: TenantId, most: int) -> bool:
    """Tell whether so many runs of a tenant wait, not counting those that wait for pushes."""
    queue = sa.select(run.c.id).where(_QUEUED, run.c.tenant == tenant, run.c.kind != RunKind.PUSH)
    return tx.first(queue.offset(most - 1).limit(1)) is not None


def unfinished_states(tx: Tx, tasks: Sequence[TaskId]) -> dict[TaskId, list[RunState]]:
    """Return the states of the tasks' queued and active runs."""
    found: dict[TaskId, list[RunState]] = {task: [] for task in tasks}
    states = (RunState.QUEUED, *_ACTIVE)
    query = sa.select(run.c.task, run.c.state)
    for row in tx.all(query.where(run.c.task.in_(tasks), run.c.state.in_(states))):
        found[row.task].append(RunState(row.state))
    return found


def fired(tx: Tx, moments: Mapping[TaskId, Sequence[Millis]]) -> set[tuple[TaskId, Millis]]:
    """Return those moments of tasks' schedules that have their runs."""
    every = {moment for some_of in moments.values() for moment in some_of}
    query = sa.select(run.c.task, run.c.fire)
    query = query.where(run.c.task.in_(list(moments)), run.c.fire.in_(every))
    return {(TaskId(row.task), Millis(row.fire)) for row in tx.all(query)}


def has_work(tx: Tx, task: TaskId) -> bool:
    """Tell whether a run of the task is under way, or waits with something to do."""
    waiting = sa.exists().where(tables.inbox.c.run == run.c.id)
    idle = sa.and_(run.c.state == RunState.QUEUED, run.c.kind == RunKind.PUSH, ~waiting)
    states = (RunState.QUEUED, *_ACTIVE)
    query = sa.select(run.c.id).where(run.c.task == task, run.c.state.in_(states), ~idle)
    return tx.first(query.limit(1)) is not None


def open_push(tx: Tx, task: TaskId, table: str | None) -> Run | None:
    """Return the task's run that still takes pushes for a table, locked."""
    query = sa.select(run).where(
        run.c.task == task,
        run.c.kind == RunKind.PUSH,
        run.c.state.in_((RunState.QUEUED, RunState.RUNNING)),
        run.c.table_name.is_(None) if table is None else run.c.table_name == table,
    )
    found = tx.first(query.limit(1).with_for_update(key_share=True))
    return None if found is None else made(found)


def receipt_of(tx: Tx, id_: str) -> Mapping[str, Any] | None:
    """Return what a run has on record so far."""
    found = tx.first(sa.select(run.c.receipt).where(run.c.id == id_))
    return None if found is None else found.receipt


def last_moments(tx: Tx, tasks: Sequence[TaskId]) -> dict[TaskId, Millis]:
    """Return when the newest run of each task was queued; tasks without a run are left out."""
    task = tables.task
    newest = (
        sa.select(run.c.queued_at)
        .where(run.c.task == task.c.id)
        .order_by(run.c.queued_at.desc())
        .limit(1)
        .scalar_subquery()
    )
    found = tx.all(sa.select(task.c.id, newest.label("at")).where(task.c.id.in_(tasks)))
    return {TaskId(row.id): Millis(row.at) for row in found if row.at is not None}


def listed(
    tx: Tx, tenant: TenantId, *, task: str | None, states: Sequence[RunState] | None,
    kinds: Sequence[str] | None = None,
    since: Millis | None, until: Millis | None, order: Order, window: Window,
) -> tuple[list[Run], int]:  # fmt: skip
    """Return one page of runs and how many there are."""
    query = sa.select(run).where(run.c.tenant == tenant)
    if task is not None:
        query = query.where(run.c.task == task)
    if states is not None:
        query = query.where(run.c.state.in_(states))
    if kinds is not None:
        query = query.where(run.c.kind.in_(kinds))
    if since is not None:
        query = query.where(run.c.queued_at >= since)
    if until is not None:
        query = query.where(run.c.queued_at <= until)
    every = task is None and states is None and since is None and until is None
    total = _count_of(tx, tenant, kinds) if every else None
    rows, total = page(tx, query, run, order, window, total)
    return [made(row) for row in rows], total


def _count_of(tx: Tx, tenant: TenantId, kinds: Sequence[str] | None) -> int:
    """Return how many runs a tenant has, of some kinds, without counting millions."""
    count = tables.run_count
    query = sa.select(sa.func.coalesce(sa.func.sum(count.c.runs), 0))
    query = query.where(count.c.tenant == tenant)
    if kinds is not None:
        query = query.where(count.c.kind.in_(kinds))
    return int(tx.con.execute(query).scalar_one())


def _count(tx: Tx, more: Mapping[tuple[str, str], int]) -> None:
    """Keep how many runs there are; `more` by tenant and kind. At the end of a transaction."""
    for (tenant, kind), runs in sorted(more.items()):
        values = {"tenant": tenant, "kind": kind, "runs": runs}
        tx.con.execute(_COUNT_RUNS[tx.con.dialect.name], values)


def started_between(
    tx: Tx, tenant: TenantId, since: Millis, until: Millis, kinds: Sequence[RunKind],
    window: Window,
) -> tuple[list[Run], int]:  # fmt: skip
    """Return the tasks' runs that started in a window, or wait since then; newest first."""
    of_tasks = run.c.tenant == tenant, run.c.task.is_not(None), run.c.kind.in_(kinds)
    places: list[tuple[Millis, str]] = []
    total = 0
    for column, tests in (
        (run.c.queued_at, (run.c.started_at.is_(None),)), (run.c.started_at, ()),
    ):  # fmt: skip
        query = sa.select(column, run.c.id).where(
            *of_tasks, *tests, column >= since, column < until
        )
        count = query.with_only_columns(sa.func.count())
        total += int(tx.con.execute(count).scalar_one())
        rows = tx.all(query.order_by(column.desc()).limit(window.limit))
        places += [(row[0], row.id) for row in rows]
    ids = [id_ for _, id_ in sorted(places, reverse=True)[: window.limit]]
    found = {one.id: one for one in some(tx, ids)}
    return [found[RunId(id_)] for id_ in ids], total


def forget(tx: Tx, ids: sa.Select[tuple[str]]) -> None:
    """Remove runs with all that belongs to them."""
    tx.run(sa.delete(event).where(event.c.run.in_(ids)))
    tx.run(sa.delete(tables.event_count).where(tables.event_count.c.run.in_(ids)))
    tx.run(sa.delete(tables.reject_segment).where(tables.reject_segment.c.run.in_(ids)))
    tx.run(sa.delete(tables.inbox).where(tables.inbox.c.run.in_(ids)))
    of_runs = sa.select(tables.upload.c.id).where(tables.upload.c.run.in_(ids))
    tx.run(sa.delete(tables.upload_chunk).where(tables.upload_chunk.c.upload.in_(of_runs)))
    tx.run(sa.delete(tables.upload).where(tables.upload.c.run.in_(ids)))
    aliases.forget(tx, ids)
    gone = sa.delete(run).where(run.c.id.in_(ids)).returning(run.c.tenant, run.c.kind)
    _count(tx, {pair: -runs for pair, runs in Counter(map(tuple, tx.all(gone))).items()})


def forget_task(tx: Tx, task: TaskId) -> None:
    """Remove what is known of a task: its runs, its position, its place in a pool."""
    forget(tx, sa.select(run.c.id).where(run.c.task == task))
    tx.run(sa.delete(tables.position).where(tables.position.c.task == task))
    tx.run(sa.delete(tables.pool_table).where(tables.pool_table.c.task == task))
    aliases.forget(tx, [task])


# The queue.


def expired(tx: Tx) -> list[Run]:
    """Return active runs whose holder's lease has ended."""
    query = sa.select(run).where(run.c.state.in_(_ACTIVE), run.c.lease_until < tx.now)
    return [made(row) for row in tx.all(query)]


def held_by_others(tx: Tx, holder: str) -> list[Run]:
    """Return all active runs of other holders, for a server that is alone with its store."""
    query = sa.select(run).where(run.c.state.in_(_ACTIVE), run.c.holder != holder)
    return [made(row) for row in tx.all(query)]


def waiting(tx: Tx, ids: Sequence[str]) -> list[Waiting]:
    """Return those of some runs that are queued and due, as the claim sees them."""
    query = sa.select(*_WAITING).where(run.c.id.in_(ids), _QUEUED, _due(tx, run.c.not_before))
    return [Waiting(**row) for row in tx.con.execute(query).mappings()]


def _due(tx: Tx, moment: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    """Return SQL that is true of moments that have come, and of those that nobody can have meant.

    No wait is that long: the clock was set back, and a run must not wait until it has caught up.
    """
    return sa.or_(moment <= tx.now, moment > tx.now + FAR_MS)


def waiting_tenants(tx: Tx) -> list[str]:
    """Return the tenants that have queued runs, those first whose next one is the oldest."""
    some = sa.select(run.c.id).where(_QUEUED, _due(tx, run.c.not_before))
    if tx.first(some.limit(1)) is None:
        return []
    tenant = tables.tenant.c.id
    first = (
        sa.select(run.c.queued_at).where(run.c.tenant == tenant, _QUEUED)
        .order_by(run.c.priority.desc(), run.c.queued_at).limit(1).scalar_subquery()
    )  # fmt: skip
    found = tx.all(sa.select(tenant, first.label("at")))
    return [row.id for row in sorted(found, key=lambda row: row.at or 0) if row.at is not None]


def eligible(
    tx: Tx, tenant: str, closed: Mapping[str, Sequence[str]], limit: int, here: str | None = None
) -> list[Waiting]:
    """Return queued runs of a tenant that may start, each for itself: the most urgent first.

    `closed`: what nothing of can start, ids by kind. However many runs wait for that, those of
    others are found. `here`: runs that only another server can work on are left out.
    """
    query = sa.select(*_WAITING).where(
        run.c.tenant == tenant, _QUEUED,
        _due(tx, run.c.not_before + 0),  # + 0: by the index that gives the order, not by moments
        limits.not_paused({"task": run.c.task, "tenant": run.c.tenant}),
        run.c.format <= FORMAT,
    )  # fmt: skip
    if here is not None:
        query = query.where(sa.or_(run.c.host.is_(None), run.c.host == here))
    for kind, ids in closed.items():
        if ids and kind in ("pool", "exclusive"):
            query = query.where(sa.or_(run.c[kind].is_(None), run.c[kind].not_in(ids)))
        elif ids and kind == "any pool":
            query = query.where(run.c.pool.is_(None))
        elif ids and kind in ("task", "source", "destination", "tenant"):
            query = query.where(run.c[kind].not_in(ids))
        elif ids:
            return []  # the server
    query = query.order_by(run.c.priority.desc(), run.c.queued_at, run.c.id).limit(limit)
    return [Waiting(**row) for row in tx.con.execute(query).mappings()]


def next_due_in_ms(tx: Tx) -> int | None:
    """Return how long it is until the next queued run may start, None if none is queued."""
    found = tx.con.execute(
        sa.select(sa.func.min(run.c.not_before)).where(run.c.state == RunState.QUEUED)
    ).scalar()
    return None if found is None else max(found - tx.now, 0)


def ordered(tx: Tx, id_: str) -> None:
    """Note that a run's source and destination are looked up now."""
    tx.run(sa.update(run).where(run.c.id == id_).values(ordered_at=tx.now))


def next_fence(tx: Tx) -> int:
    """Return a number higher than every earlier fence."""
    return next_number(tx, "fence")


def raise_fences(tx: Tx, above: int) -> None:
    """See to it that every fence from now on is higher than this one."""
    counter = tables.counter.c
    tx.run(
        sa.update(tables.counter)
        .where(counter.name == "fence", counter.value < above)
        .values(value=above)
    )


def next_number(tx: Tx, name: str) -> int:
    """Count a counter up, and return where it stands."""
    counter = tables.counter.c
    counted = (
        sa.update(tables.counter)
        .where(counter.name == name)
        .values(value=counter.value + 1)
        .returning(counter.value)
    )
    return int(tx.con.execute(counted).scalar_one())


def claim(tx: Tx, id_: str, holder: str, lease_ms: int) -> tuple[Claim, Run] | None:
    """Make `holder` the holder of a queued run, and tell of it; None if it is queued no more."""
    fence = next_fence(tx)
    changed = (
        sa.update(run)
        .where(run.c.id == id_, run.c.state == RunState.QUEUED)
        .values(
            state=RunState.RUNNING, fence=fence, holder=holder, lease_until=tx.now + lease_ms,
            attempt=run.c.attempt + 1, waiting_for=None, updated_at=tx.now,
            started_at=sa.func.coalesce(run.c.started_at, tx.now), progress={}, **_numbered(tx),
        )
        .returning(run)
    )  # fmt: skip
    found = tx.con.execute(changed).first()
    if found is None:
        return None
    told = NewEvent(
        kind=EventKind.LOG, status=EventStatus.STARTED, message="started",
        data={"attempt": found.attempt},
    )  # fmt: skip
    _keep_event(tx, id_, found.events, found.event_at, told)
    return Claim(run=RunId(id_), fence=fence), made(found)


def renew(tx: Tx, claims: Sequence[Claim], lease_ms: int) -> dict[str, RunState]:
    """Renew the leases of claims in one statement; return the state of those still held."""
    # Fences are never given twice, so a fence alone says which claim it is.
    changed = (
        sa.update(run)
        .where(
            run.c.fence.in_([claim.fence for claim in claims]),
            run.c.state.in_(_ACTIVE),
            run.c.lease_until >= tx.now,
        )
        .values(lease_until=tx.now + lease_ms)
        .returning(run.c.id, run.c.state)
    )
    return {row.id: RunState(row.state) for row in tx.con.execute(changed)}


def tell_progress(tx: Tx, held: Claim, progress: Mapping[str, Any], waiting: str | None) -> None:
    """Write how far a run is; silent if the claim is lost."""
    tx.run(
        sa.update(run)
        .where(*_held(tx, held))
        .values(progress=dict(progress), waiting_for=waiting, updated_at=tx.now)
    )


def _held(tx: Tx, held: Claim) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        run.c.id == held.run,
        run.c.fence == held.fence,
        run.c.state.in_(_ACTIVE),
        run.c.lease_until >= tx.now,
    )


def write(tx: Tx, held: Claim, told: NewEvent | None = None, **values: Any) -> None:
    """Write about a run as its holder, and the event that tells of it.

    Raises LostClaim for anybody else (invariant 3).
    """
    changed = sa.update(run).where(*_held(tx, held)).values(updated_at=tx.now, **values)
    if told is not None:
        changed = changed.values(**_numbered(tx))
    found = tx.con.execute(changed.returning(run.c.events, run.c.event_at)).first()
    if found is None:
        raise LostClaim("This run has another holder, or an end.")
    if told is not None:
        _keep_event(tx, held.run, found.events, found.event_at, told)


def move(tx: Tx, id_: str, states: Sequence[RunState], **values: Any) -> bool:
    """Write about a run that is in one of `states`, as nobody's holder."""
    statement = sa.update(run).where(run.c.id == id_, run.c.state.in_(states))
    return bool(tx.run(statement.values(updated_at=tx.now, **values)))


def add_segments(tx: Tx, id_: RunId, segments: Sequence[Mapping[str, Any]]) -> None:
    """Name the files of rejected rows that a run has: from now on they exist."""
    there = tables.reject_segment
    known = {row.name for row in tx.all(sa.select(there.c.name).where(there.c.run == id_))}
    for segment in segments:
        if segment["name"] not in known:
            tx.run(
                sa.insert(there).values(
                    run=id_, name=segment["name"], rows=segment["rows"], bytes=segment["bytes"]
                )
            )


def segments(tx: Tx, id_: RunId) -> list[tuple[str, int]]:
    """Return name and rows of a run's files of rejected rows."""
    there = tables.reject_segment
    query = sa.select(there.c.name, there.c.rows).where(there.c.run == id_).order_by(there.c.name)
    return [(row.name, row.rows) for row in tx.all(query)]


def all_segments(tx: Tx) -> set[str]:
    """Return the names of all files of rejected rows that exist."""
    return {row.name for row in tx.all(sa.select(tables.reject_segment.c.name))}


def unfinished_ids(tx: Tx) -> set[str]:
    """Return the ids of all queued and active runs."""
    states = (RunState.QUEUED, *_ACTIVE)
    return {row.id for row in tx.all(sa.select(run.c.id).where(run.c.state.in_(states)))}


# Events.


def add_event(tx: Tx, id_: RunId, new: NewEvent, event_id: str | None = None) -> None:
    """Write an event of a run, in the transaction of what it tells of (invariant 4).

    `event_id` is given where the event's id was promised before it happened (a push). A run's
    events are numbered without a gap, and their moments never go back: pages rely on both.
    """
    counted = (
        sa.update(run)
        .where(run.c.id == id_)
        .values(**_numbered(tx))
        .returning(run.c.events, run.c.event_at)
    )
    number, at = tx.con.execute(counted).one()
    _keep_event(tx, id_, number, at, new, event_id)


def _numbered(tx: Tx) -> dict[str, Any]:
    """Return what an update of a run sets when an event is written with it."""
    later = sa.case((run.c.event_at > tx.now, run.c.event_at), else_=tx.now)
    return {"events": run.c.events + 1, "event_at": later}


def _keep_event(
    tx: Tx, id_: str, number: int, at: int, new: NewEvent, event_id: str | None = None
) -> None:
    tx.con.execute(_INSERT_EVENT, _event_row(id_, number, at, new, event_id))
    counted = {"run": id_, "kind": new.kind, "status": new.status or "", "events": 1}
    tx.con.execute(_COUNT[tx.con.dialect.name], counted)


def _event_row(
    id_: str, number: int, at: int, new: NewEvent, event_id: str | None = None
) -> dict[str, Any]:
    return {
        "id": event_id or new_id(), "run": id_, "number": number, "kind": new.kind,
        "status": new.status, "message": new.message, "rows": new.rows, "data": dict(new.data),
        "at": at,
    }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsAsked:
    """Which of a run's events are wanted: of some kinds, statuses, moments; `after` a number."""

    kinds: Sequence[str] | None = None
    statuses: Sequence[str | None] | None = None
    since: Millis | None = None
    until: Millis | None = None
    after: int = 0


def events(
    tx: Tx, id_: RunId, asked: EventsAsked, order: Order, window: Window
) -> tuple[list[Event], int]:
    """Return one page of a run's events and how many there are.

    A page costs the same anywhere in millions of events, but for one of a filter in a window.
    """
    written = _events_of(tx, id_)
    low, high = _numbers(tx, id_, asked, written)
    query = sa.select(event).where(event.c.run == id_)
    by_number = order.column in ("number", "at")
    if asked.kinds is None and asked.statuses is None and by_number:
        if order.descending:
            last = high - window.offset
            between = event.c.number.between(max(last - window.limit + 1, low), last)
        else:
            first = low + window.offset
            between = event.c.number.between(first, min(first + window.limit - 1, high))
        sort = event.c.number.desc() if order.descending else event.c.number
        return [made_event(row) for row in tx.all(query.where(between).order_by(sort))], (
            max(high - low + 1, 0)
        )
    tests = [
        (name, [one for one in wanted if one is not None])
        for name, wanted in (("kind", asked.kinds), ("status", asked.statuses))
        if wanted is not None
    ]
    for name, wanted in tests:
        query = query.where(event.c[name].in_(wanted))
    known = _known(tx, id_, tests)
    if sum(known.values()) <= RARE:
        return _rare(tx, id_, list(known), (low, high), order, window)
    query = query.where(event.c.number.between(low, high))
    if (low, high) == (1, written):
        total = sum(known.values())
    else:
        counted = query.with_only_columns(sa.func.count(), maintain_column_froms=True)
        total = int(tx.con.execute(counted).scalar_one())
    keys = [event.c.number] if by_number else [event.c[order.column], event.c.number]
    sorts = [key.desc() if order.descending else key for key in keys]
    rows = tx.all(query.order_by(*sorts).limit(window.limit).offset(window.offset))
    return [made_event(row) for row in rows], total


def _known(
    tx: Tx, id_: RunId, tests: Sequence[tuple[str, Sequence[str]]]
) -> dict[tuple[str, str], int]:
    """Return how many events a run has of each kind and status that pass."""
    count = tables.event_count
    query = sa.select(count).where(count.c.run == id_)
    for name, wanted in tests:
        query = query.where(count.c[name].in_(wanted))
    return {(row.kind, row.status): row.events for row in tx.all(query)}


def _rare(
    tx: Tx, id_: RunId, pairs: Sequence[tuple[str, str]], between: tuple[int, int], order: Order,
    window: Window,
) -> tuple[list[Event], int]:  # fmt: skip
    """Return a page of few events: looked up by kind and status, however many others there are."""
    found: list[tuple[str, int]] = []
    for kind, status in pairs:
        query = sa.select(event.c.number).where(
            event.c.run == id_, event.c.kind == kind,
            event.c.status == status if status else event.c.status.is_(None),
        )  # fmt: skip
        first = {"kind": kind, "status": status}.get(order.column, "")
        found += [(first, row.number) for row in tx.all(query)]
    found = [one for one in found if between[0] <= one[1] <= between[1]]
    found.sort(reverse=order.descending)
    numbers = [number for _, number in found[window.offset : window.offset + window.limit]]
    rows = tx.all(sa.select(event).where(event.c.run == id_, event.c.number.in_(numbers)))
    place = {number: at for at, number in enumerate(numbers)}
    return [made_event(row) for row in sorted(rows, key=lambda row: place[row.number])], len(found)


def _numbers(tx: Tx, id_: RunId, asked: EventsAsked, written: int) -> tuple[int, int]:
    """Return the first and the last number of the events in a window of moments."""
    low, high = 1, written
    of_run = sa.select(event.c.number).where(event.c.run == id_)
    if asked.since is not None:
        first = of_run.where(event.c.at >= asked.since).order_by(event.c.at, event.c.number)
        low = tx.con.execute(first.limit(1)).scalar() or high + 1
    if asked.until is not None:
        last = of_run.where(event.c.at <= asked.until)
        last = last.order_by(event.c.at.desc(), event.c.number.desc())
        high = tx.con.execute(last.limit(1)).scalar() or 0
    return max(low, asked.after + 1), high


def _events_of(tx: Tx, id_: RunId) -> int:
    return int(tx.con.execute(sa.select(run.c.events).where(run.c.id == id_)).scalar_one())


def find_event(tx: Tx, id_: RunId, event_id: str) -> Event | None:
    found = tx.first(sa.select(event).where(event.c.run == id_, event.c.id == event_id))
    return None if found is None else made_event(found)


def made_event(row: Any) -> Event:
    """Make the domain's value of a row."""
    return Event(
        id=EventId(row.id), run=RunId(row.run), number=row.number, kind=EventKind(row.kind),
        status=EventStatus(row.status) if row.status else None, message=row.message,
        rows=row.rows, data=row.data, at=row.at,
    )  # fmt: skip


def made(row: Any) -> Run:
    """Make the domain's value of a row."""
    return Run(
        id=RunId(row.id), tenant=TenantId(row.tenant), task=TaskId(row.task or ""),
        execution=ExecutionId(row.execution), state=RunState(row.state),
        trigger=Trigger(row.trigger), kind=RunKind(row.kind), action=row.action,
        fence=row.fence, attempt=row.attempt, deaths=row.deaths, table=row.table_name,
        waiting_for=row.waiting_for, progress=row.progress or {},
        receipt=row.receipt, error=row.error, failure_threshold=row.failure_threshold,
        queued_at=row.queued_at, started_at=row.started_at, finished_at=row.finished_at,
        not_before=row.not_before, updated_at=row.updated_at, metadata=row.metadata,
        mode=Mode(row.mode), priority=row.priority, stopping=row.stopping,
        range=None if row.since is None else Range(since=row.since, until=row.until),
    )  # fmt: skip
