"""Runs: the queue. A run is claimed with fence and lease; only its holder writes about it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
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
from headrace.store.database import MOST, NOW, Tx, among
from headrace.store.paging import Listing, Order, Window, listing, page

run: Final = tables.run
event: Final = tables.event
FORMAT: Final = 1  # of orders: raised when what a run needs means something new
FAR_MS: Final = 600_000  # more than any wait of a queued run
RARE: Final = 5_000  # events: so few are looked up before they are sorted
IDS_AT_ONCE: Final = 500  # in one statement
_ACTIVE: Final = tuple(ACTIVE)
# Written out, not bound: only so does SQLite use the index of the queued runs.
_QUEUED: Final = run.c.state == sa.literal_column("'queued'")
_OF: Final = run.c.id == sa.bindparam("of")
_OF_TASK: Final = run.c.task == sa.bindparam("of_task")
_UNFINISHED: Final = run.c.state.in_((RunState.QUEUED, *_ACTIVE))
_UNDER_WAY: Final = run.c.state.in_(_ACTIVE)
_LEASED: Final = sa.and_(_UNDER_WAY, run.c.lease_until >= NOW)
# True of the run that a claim still holds.
_HELD: Final = sa.and_(_OF, run.c.fence == sa.bindparam("of_fence"), _LEASED)
# What an update of a run sets when an event is written with it.
_NUMBERED: Final[Mapping[str, Any]] = {
    "events": run.c.events + 1,
    "event_at": sa.case((run.c.event_at > NOW, run.c.event_at), else_=NOW),
}
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
    tx.add(
        run, id=new.id, tenant=new.tenant, task=None, source="", destination="",
        execution=new.execution, format=FORMAT, state=new.state, trigger=new.trigger,
        kind=new.kind, action=new.action, mode=new.mode, fence=0, attempt=new.attempt, deaths=0,
        progress={}, error=new.error, failure_threshold=0, queued_at=new.queued_at,
        started_at=new.started_at, finished_at=new.finished_at, not_before=new.not_before,
        updated_at=new.updated_at, events=0, event_at=0,
    )  # fmt: skip
    _count(tx, {(new.tenant, new.kind): 1})


def find(tx: Tx, tenant: TenantId, id_: str) -> Run | None:
    found = tx.get(run, id=id_, tenant=tenant)
    return None if found is None else made(found)


_SOME: Final = sa.select(run).where(among(run.c.id, "ids"))


def some(tx: Tx, ids: Sequence[str]) -> list[Run]:
    """Return those of the runs named that are there."""
    return [
        made(row)
        for start in range(0, len(ids), IDS_AT_ONCE)
        for row in tx.all(_SOME, ids=list(ids[start : start + IDS_AT_ONCE]))
    ]


def wake(tx: Tx, id_: str) -> None:
    """Make a queued run due now."""
    queued = {"id": id_, "state": RunState.QUEUED}
    tx.change(run, queued, not_before=tx.now, waiting_for=None, updated_at=tx.now)


def any_tenants(tx: Tx, id_: str) -> Run | None:
    """Return a run whoever owns it: for the server's own work, never for a caller."""
    found = tx.get(run, id=id_)
    return None if found is None else made(found)


def exclusive_of(tx: Tx, id_: str) -> str | None:
    found = tx.get(run.c.exclusive, id=id_)
    return None if found is None else found.exclusive


def end_of(tx: Tx, id_: str, end: str) -> str:
    """Return the id of a run's source or destination."""
    found = tx.get(run.c[end], id=id_)
    assert found is not None  # its claim is held
    return str(found[0])


def is_cancelling(tx: Tx, id_: str) -> bool:
    """Tell whether somebody has asked for a run to stop."""
    found = tx.get(run.c.state, id=id_)
    return found is not None and found.state == RunState.CANCELLING


def token(tx: Tx, id_: str) -> str | None:
    """Return the token of the commit that is on record for a run."""
    found = tx.get(run.c.token, id=id_)
    return None if found is None else found.token


def started_with(tx: Tx, task: TaskId, key: str) -> Run | None:
    """Return the run that an earlier call with the same idempotency key made."""
    found = tx.get(run, task=task, idempotency_key=key)
    return None if found is None else made(found)


_FIND_UNFINISHED: Final = sa.select(run).where(_OF_TASK, _UNFINISHED).limit(1)


def unfinished(tx: Tx, task: TaskId) -> Run | None:
    """Return a queued or active run of the task."""
    found = tx.first(_FIND_UNFINISHED, of_task=task)
    return None if found is None else made(found)


_FULL: Final = (
    sa.select(run.c.id)
    .where(_QUEUED, run.c.tenant == sa.bindparam("of_tenant"), run.c.kind != RunKind.PUSH)
    .offset(sa.bindparam("others", type_=sa.BigInteger))
    .limit(1)
)


def queue_is_full(tx: Tx, tenant: TenantId, most: int) -> bool:
    """Tell whether so many runs of a tenant wait, not counting those that wait for pushes."""
    return tx.first(_FULL, of_tenant=tenant, others=most - 1) is not None


def unfinished_states(tx: Tx, tasks: Sequence[TaskId]) -> dict[TaskId, list[RunState]]:
    """Return the states of the tasks' queued and active runs."""
    found: dict[TaskId, list[RunState]] = {task: [] for task in tasks}
    query = sa.select(run.c.task, run.c.state)
    for row in tx.all(query.where(run.c.task.in_(tasks), _UNFINISHED)):
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
    query = sa.select(run.c.id).where(run.c.task == task, _UNFINISHED, ~idle)
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
    found = tx.get(run.c.receipt, id=id_)
    return None if found is None else found.receipt


_LAST_MOMENTS: Final = sa.select(
    tables.task.c.id,
    sa.select(run.c.queued_at)
    .where(run.c.task == tables.task.c.id)
    .order_by(run.c.queued_at.desc())
    .limit(1)
    .scalar_subquery()
    .label("at"),
).where(among(tables.task.c.id, "tasks"))


def last_moments(tx: Tx, tasks: Sequence[TaskId]) -> dict[TaskId, Millis]:
    """Return when the newest run of each task was queued; tasks without a run are left out."""
    found = tx.all(_LAST_MOMENTS, tasks=list(tasks))
    return {TaskId(row.id): Millis(row.at) for row in found if row.at is not None}


def listed(
    tx: Tx, tenant: TenantId, *, task: str | None, states: Sequence[RunState] | None,
    kinds: Sequence[str] | None = None,
    since: Millis | None, until: Millis | None, order: Order, window: Window,
) -> tuple[list[Run], int]:  # fmt: skip
    """Return one page of runs and how many there are."""
    asked = {
        "of_task": task, "states": None if states is None else list(states),
        "kinds": None if kinds is None else list(kinds), "since": since, "until": until,
    }  # fmt: skip
    given = {name: value for name, value in asked.items() if value is not None}
    total = _count_of(tx, tenant, kinds) if given.keys() <= {"kinds"} else None
    found = _listed(frozenset(given), order)
    rows, total = page(tx, found, window, total, of_tenant=tenant, **given)
    return [made(row) for row in rows], total


@cache
def _listed(given: frozenset[str], order: Order) -> Listing:
    """Return the listing of runs by what was asked for."""
    tests = {
        "of_task": _OF_TASK, "states": among(run.c.state, "states"),
        "kinds": among(run.c.kind, "kinds"), "since": run.c.queued_at >= sa.bindparam("since"),
        "until": run.c.queued_at <= sa.bindparam("until"),
    }  # fmt: skip
    query = sa.select(run).where(run.c.tenant == sa.bindparam("of_tenant"))
    return listing(query.where(*(tests[name] for name in sorted(given))), run, order)


_COUNTED: Final = sa.select(sa.func.coalesce(sa.func.sum(tables.run_count.c.runs), 0)).where(
    tables.run_count.c.tenant == sa.bindparam("of_tenant")
)
_COUNTED_OF: Final = _COUNTED.where(among(tables.run_count.c.kind, "kinds"))


def _count_of(tx: Tx, tenant: TenantId, kinds: Sequence[str] | None) -> int:
    """Return how many runs a tenant has, of some kinds, without counting millions."""
    if kinds is None:
        found = tx.con.execute(_COUNTED, {"of_tenant": tenant})
    else:
        found = tx.con.execute(_COUNTED_OF, {"of_tenant": tenant, "kinds": list(kinds)})
    return int(found.scalar_one())


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
    tx.remove(tables.position, task=task)
    tx.remove(tables.pool_table, task=task)
    aliases.forget(tx, [task])


# The queue.


_EXPIRED: Final = sa.select(run).where(_UNDER_WAY, run.c.lease_until < NOW)


def expired(tx: Tx) -> list[Run]:
    """Return active runs whose holder's lease has ended."""
    return [made(row) for row in tx.all(_EXPIRED, now=tx.now)]


def held_by_others(tx: Tx, holder: str) -> list[Run]:
    """Return all active runs of other holders, for a server that is alone with its store."""
    query = sa.select(run).where(_UNDER_WAY, run.c.holder != holder)
    return [made(row) for row in tx.all(query)]


def _due(moment: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    """Return SQL that is true of moments that have come, and of those that nobody can have meant.

    No wait is that long: the clock was set back, and a run must not wait until it has caught up.
    """
    return sa.or_(moment <= NOW, moment > NOW + FAR_MS)


_WAITING_OF: Final = sa.select(*_WAITING).where(
    among(run.c.id, "ids"), _QUEUED, _due(run.c.not_before)
)


def waiting(tx: Tx, ids: Sequence[str]) -> list[Waiting]:
    """Return those of some runs that are queued and due, as the claim sees them."""
    found = tx.con.execute(_WAITING_OF, {"ids": list(ids), "now": tx.now})
    return [Waiting(**row) for row in found.mappings()]


_ANY_DUE: Final = sa.select(run.c.id).where(_QUEUED, _due(run.c.not_before)).limit(1)
_FIRST_QUEUED: Final = sa.select(
    tables.tenant.c.id,
    sa.select(run.c.queued_at).where(run.c.tenant == tables.tenant.c.id, _QUEUED)
    .order_by(run.c.priority.desc(), run.c.queued_at).limit(1).scalar_subquery().label("at"),
)  # fmt: skip


def waiting_tenants(tx: Tx) -> list[str]:
    """Return the tenants that have queued runs, those first whose next one is the oldest."""
    if tx.first(_ANY_DUE, now=tx.now) is None:
        return []
    found = tx.all(_FIRST_QUEUED)
    return [row.id for row in sorted(found, key=lambda row: row.at or 0) if row.at is not None]


def eligible(
    tx: Tx, tenant: str, closed: Mapping[str, Sequence[str]], limit: int, here: str | None = None
) -> list[Waiting]:
    """Return queued runs of a tenant that may start, each for itself: the most urgent first.

    `closed`: what nothing of can start, ids by kind. However many runs wait for that, those of
    others are found. `here`: runs that only another server can work on are left out.
    """
    shut = {kind: list(ids) for kind, ids in closed.items() if ids}
    if "server" in shut:
        return []
    query = _eligible(frozenset(shut), here is not None)
    given = shut | {"now": tx.now, "of_tenant": tenant, "here": here, "most": limit}
    return [Waiting(**row) for row in tx.con.execute(query, given).mappings()]


@cache
def _eligible(shut: frozenset[str], one_of_many: bool) -> sa.Select[Any]:  # noqa: FBT001  # it is cached by it
    """Return the query of `eligible`; of each kind in `shut`, some are left out."""
    query = sa.select(*_WAITING).where(
        run.c.tenant == sa.bindparam("of_tenant"), _QUEUED,
        _due(run.c.not_before + 0),  # + 0: by the index that gives the order, not by moments
        limits.not_paused({"task": run.c.task, "tenant": run.c.tenant}),
        run.c.format <= FORMAT,
    )  # fmt: skip
    if one_of_many:
        query = query.where(sa.or_(run.c.host.is_(None), run.c.host == sa.bindparam("here")))
    for kind in sorted(shut):
        if kind == "any pool":
            query = query.where(run.c.pool.is_(None))
            continue
        others = ~among(run.c[kind], kind)
        query = query.where(
            sa.or_(run.c[kind].is_(None), others) if kind in ("pool", "exclusive") else others
        )
    query = query.order_by(run.c.priority.desc(), run.c.queued_at, run.c.id)
    return query.limit(MOST)


_NEXT_DUE: Final = sa.select(sa.func.min(run.c.not_before)).where(run.c.state == RunState.QUEUED)


def next_due_in_ms(tx: Tx) -> int | None:
    """Return how long it is until the next queued run may start, None if none is queued."""
    found = tx.con.execute(_NEXT_DUE).scalar()
    return None if found is None else max(found - tx.now, 0)


def ordered(tx: Tx, id_: str) -> None:
    """Note that a run's source and destination are looked up now."""
    tx.change(run, {"id": id_}, ordered_at=tx.now)


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


_NEXT_NUMBER: Final = (
    sa.update(tables.counter)
    .where(tables.counter.c.name == sa.bindparam("of"))
    .values(value=tables.counter.c.value + 1)
    .returning(tables.counter.c.value)
)


def next_number(tx: Tx, name: str) -> int:
    """Count a counter up, and return where it stands."""
    return int(tx.con.execute(_NEXT_NUMBER, {"of": name}).scalar_one())


_CLAIM: Final = (
    sa.update(run)
    .where(_OF, run.c.state == RunState.QUEUED)
    .values(
        attempt=run.c.attempt + 1, started_at=sa.func.coalesce(run.c.started_at, NOW), **_NUMBERED
    )
    .returning(run)
)  # fmt: skip


def claim(tx: Tx, id_: str, holder: str, lease_ms: int) -> tuple[Claim, Run] | None:
    """Make `holder` the holder of a queued run, and tell of it; None if it is queued no more."""
    fence = next_fence(tx)
    found = tx.first(
        _CLAIM, of=id_, now=tx.now, state=RunState.RUNNING, fence=fence, holder=holder,
        lease_until=tx.now + lease_ms, waiting_for=None, updated_at=tx.now, progress={},
    )  # fmt: skip
    if found is None:
        return None
    told = NewEvent(
        kind=EventKind.LOG, status=EventStatus.STARTED, message="started",
        data={"attempt": found.attempt},
    )  # fmt: skip
    _keep_event(tx, id_, found.events, found.event_at, told)
    return Claim(run=RunId(id_), fence=fence), made(found)


# Fences are never given twice, so a fence alone says which claim it is.
_RENEW: Final = (
    sa.update(run).where(among(run.c.fence, "fences"), _LEASED).returning(run.c.id, run.c.state)
)


def renew(tx: Tx, claims: Sequence[Claim], lease_ms: int) -> dict[str, RunState]:
    """Renew the leases of claims in one statement; return the state of those still held."""
    fences = [claim.fence for claim in claims]
    found = tx.all(_RENEW, fences=fences, now=tx.now, lease_until=tx.now + lease_ms)
    return {row.id: RunState(row.state) for row in found}


_TELL_PROGRESS: Final = sa.update(run).where(_HELD)


def tell_progress(tx: Tx, held: Claim, progress: Mapping[str, Any], waiting: str | None) -> None:
    """Write how far a run is; silent if the claim is lost."""
    tx.run(
        _TELL_PROGRESS, of=held.run, of_fence=held.fence, now=tx.now, progress=dict(progress),
        waiting_for=waiting, updated_at=tx.now,
    )  # fmt: skip


_WRITE: Final = sa.update(run).where(_HELD).returning(run.c.events, run.c.event_at)
_WRITE_AND_TELL: Final = _WRITE.values(**_NUMBERED)


def write(tx: Tx, held: Claim, told: NewEvent | None = None, **values: Any) -> None:
    """Write about a run as its holder, and the event that tells of it.

    Raises LostClaim for anybody else (invariant 3).
    """
    found = tx.first(
        _WRITE if told is None else _WRITE_AND_TELL,
        of=held.run, of_fence=held.fence, now=tx.now, updated_at=tx.now, **values,
    )  # fmt: skip
    if found is None:
        raise LostClaim("This run has another holder, or an end.")
    if told is not None:
        _keep_event(tx, held.run, found.events, found.event_at, told)


_MOVE: Final = sa.update(run).where(_OF, among(run.c.state, "states"))


def move(tx: Tx, id_: str, states: Sequence[RunState], **values: Any) -> bool:
    """Write about a run that is in one of `states`, as nobody's holder."""
    return bool(tx.run(_MOVE, of=id_, states=list(states), updated_at=tx.now, **values))


def add_segments(tx: Tx, id_: RunId, segments: Sequence[Mapping[str, Any]]) -> None:
    """Name the files of rejected rows that a run has: from now on they exist."""
    if not segments:
        return
    there = tables.reject_segment
    known = {row.name for row in tx.all(sa.select(there.c.name).where(there.c.run == id_))}
    for segment in segments:
        if segment["name"] not in known:
            tx.add(
                there, run=id_, name=segment["name"], rows=segment["rows"], bytes=segment["bytes"]
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
    return {row.id for row in tx.all(sa.select(run.c.id).where(_UNFINISHED))}


# Events.


_TELL: Final = sa.update(run).where(_OF).values(**_NUMBERED).returning(run.c.events, run.c.event_at)


def add_event(tx: Tx, id_: RunId, new: NewEvent, event_id: str | None = None) -> None:
    """Write an event of a run, in the transaction of what it tells of (invariant 4).

    `event_id` is given where the event's id was promised before it happened (a push). A run's
    events are numbered without a gap, and their moments never go back: pages rely on both.
    """
    number, at = tx.con.execute(_TELL, {"of": id_, "now": tx.now}).one()
    _keep_event(tx, id_, number, at, new, event_id)


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


_OF_RUN: Final = event.c.run == sa.bindparam("of")
_BETWEEN: Final = event.c.number.between(sa.bindparam("first"), sa.bindparam("last"))
_NEWEST: Final = sa.select(event).where(_OF_RUN, _BETWEEN).order_by(event.c.number.desc())
_OLDEST: Final = sa.select(event).where(_OF_RUN, _BETWEEN).order_by(event.c.number)


def events(
    tx: Tx, id_: RunId, asked: EventsAsked, order: Order, window: Window
) -> tuple[list[Event], int]:
    """Return one page of a run's events and how many there are.

    A page costs the same anywhere in millions of events, but for one of a filter in a window.
    """
    written = _events_of(tx, id_)
    low, high = _numbers(tx, id_, asked, written)
    by_number = order.column in ("number", "at")
    if asked.kinds is None and asked.statuses is None and by_number:
        if order.descending:
            last = high - window.offset
            ends = {"first": max(last - window.limit + 1, low), "last": last}
        else:
            first = low + window.offset
            ends = {"first": first, "last": min(first + window.limit - 1, high)}
        rows = tx.all(_NEWEST if order.descending else _OLDEST, of=id_, **ends)
        return [made_event(row) for row in rows], max(high - low + 1, 0)
    tests = [
        (name, [one for one in wanted if one is not None])
        for name, wanted in (("kind", asked.kinds), ("status", asked.statuses))
        if wanted is not None
    ]
    query = sa.select(event).where(event.c.run == id_)
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


_FIRST_SINCE: Final = (
    sa.select(event.c.number)
    .where(_OF_RUN, event.c.at >= sa.bindparam("moment"))
    .order_by(event.c.at, event.c.number)
    .limit(1)
)
_LAST_UNTIL: Final = (
    sa.select(event.c.number)
    .where(_OF_RUN, event.c.at <= sa.bindparam("moment"))
    .order_by(event.c.at.desc(), event.c.number.desc())
    .limit(1)
)


def _numbers(tx: Tx, id_: RunId, asked: EventsAsked, written: int) -> tuple[int, int]:
    """Return the first and the last number of the events in a window of moments."""
    low, high = 1, written
    if asked.since is not None:
        first = tx.first(_FIRST_SINCE, of=id_, moment=asked.since)
        low = first.number if first else high + 1
    if asked.until is not None:
        last = tx.first(_LAST_UNTIL, of=id_, moment=asked.until)
        high = last.number if last else 0
    return max(low, asked.after + 1), high


def _events_of(tx: Tx, id_: RunId) -> int:
    found = tx.get(run.c.events, id=id_)
    assert found is not None  # whoever asks has found the run
    return int(found.events)


def find_event(tx: Tx, id_: RunId, event_id: str) -> Event | None:
    found = tx.get(event, run=id_, id=event_id)
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
