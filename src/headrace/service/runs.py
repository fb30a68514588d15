"""Runs from the caller's side: start, watch, cancel, and read what they left."""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from headrace.connectors import registry
from headrace.connectors.tools import WorkTools
from headrace.contract.source import Watched
from headrace.contract.spec import filled_in
from headrace.contract.tools import Known
from headrace.domain.clock import Millis, parse_rfc3339
from headrace.domain.errors import Conflict, HeadraceError, Invalid, NotFound, TooMany
from headrace.domain.event import Event, EventKind, EventStatus, NewEvent
from headrace.domain.ids import (
    EventId,
    ExecutionId,
    PoolId,
    RunId,
    ServerId,
    TaskId,
    TenantId,
    is_id,
    new_id,
)
from headrace.domain.principal import Principal, Role
from headrace.domain.resources import Destination, Source
from headrace.domain.run import ENDED, Mode, Range, Run, RunKind, RunState, Trigger
from headrace.domain.schedule import Overlap
from headrace.domain.task import Action, Task
from headrace.domain.upload import Upload, phases
from headrace.domain.verification import BUCKETS_MAX, Verify
from headrace.observe import faults
from headrace.service import limits, pushes
from headrace.service.access import need
from headrace.service.catalog import UPLOADED, Catalog
from headrace.service.orders import (
    Order,
    Phase,
    Push,
    make_destination,
    make_source,
    stream_of,
    tools_for,
)
from headrace.service.schedule import due_moments, is_made_up, next_moment
from headrace.service.shapes import hash_key
from headrace.settings import Settings
from headrace.store import (
    access,
    audit,
    inbox,
    jobs,
    positions,
    resources,
    runs,
    servers,
    uploads,
)
from headrace.store import breakers as kept_breakers
from headrace.store import limits as kept
from headrace.store.breakers import Breaker
from headrace.store.database import Database, Tx
from headrace.store.limits import Limit
from headrace.store.paging import Order as SortOrder
from headrace.store.paging import Window

KEY_MAX: Final = 255
FED: Final = frozenset({"push", UPLOADED})  # types of sources that are not started
VERIFY: Final = "verify"  # the member of a run's metadata
OVERRIDES: Final = "runMetadata.parametersOverride.source"
LIMITED: Final[Mapping[str, type]] = {"task": Task, "source": Source, "destination": Destination}
LIMIT_MAX: Final = 1_000_000
ID_CHARACTERS: Final = 36
EXCLUSIVES_MAX: Final = 10_000  # names that are remembered
DUE_MAX: Final = 500  # schedules started in one transaction
PUSHES_BYTES_MAX: Final = 16 << 20  # of what a worker is given at once, but for a larger push
NEWEST_FIRST: Final = SortOrder("queued_at")
BY_NUMBER: Final = SortOrder("number", descending=False)
Ends = tuple[Source, Destination]
FIFTY: Final = Window(50)
HUNDRED: Final = Window(100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejects:
    """A page of a run's quarantine; `next` is the cursor of the following page."""

    rows: Sequence[Mapping[str, Any]]
    total: int
    next: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """A push that is kept: its run, and the id that its event will have."""

    run: RunId
    event: EventId
    at: Millis


class Runs:
    """Runs of every tenant. `wake` tells the dispatcher that there may be work."""

    def __init__(
        self, database: Database, catalog: Catalog, settings: Settings, wake: Callable[[], None],
        here: ServerId | None = None,
    ) -> None:  # fmt: skip
        """`here`: this server, of several over one store."""
        self._here = here
        self._database = database
        self._catalog = catalog
        self._settings = settings
        self._wake = wake
        self._exclusives: dict[tuple[str, Millis, str | None], str] = {}
        self.queued = 0  # so many were queued by this process
        self.quarantine = settings.common / "quarantine"

    def start(
        self, tenant: TenantId, task_id: str, *, trigger: Trigger, key: str | None = None,
        metadata: Mapping[str, Any] | None = None, mode: Mode | None = None,
        range_: Range | None = None, by: Principal | None = None,
    ) -> Run:  # fmt: skip
        """Queue a run of a task and return it. `by`: who is on record for it.

        With `range_` it is a back-fill: it reads that, and leaves the task's position alone.

        In DELTA it reads what has changed since the task's last commit; without `mode` it does so
        if the task has a cursor.

        `metadata` is kept with the run; {"parametersOverride": {"source": {…}}} in it replaces
        members of the source's input for this run.

        `key` makes the call safe to repeat: a second call with the same key returns the first
        call's run. Raises NotFound for an unknown task, Conflict while another run of it is
        unfinished, Invalid for a disabled one, TooMany for a queue that is full.
        """
        if key is not None and not 0 < len(key) <= KEY_MAX:
            raise Invalid(f"Idempotency-Key must have 1 to {KEY_MAX} characters.")
        with self._database.begin() as tx:
            task = resources.locked_task(tx, tenant, task_id) if is_id(task_id) else None
            if task is None:
                raise NotFound(f"cannot find task {task_id[:80]}")
            if key is not None and (earlier := runs.started_with(tx, task.id, key)):
                return earlier
            ends = self._ends(tx, task)
            self._judge(task, ends[0])
            _judge_free(tx, task)
            self._judge_overrides(tx, ends[0], metadata)
            self.judge_queue(tx, tenant)
            if range_ is not None:
                _judge_range(task, ends[0], range_, mode)
            run = self._queued(
                tx, task, trigger, key, ends, metadata=metadata, mode=mode, range_=range_
            )
            if by is not None:
                audit.add(tx, by, "run.started", run.id)
        faults.reach("server.run_queued")
        self._wake()  # after the commit: a dispatcher that wakes must be able to see the run
        return run

    def verify(
        self, tenant: TenantId, task_id: str, wanted: Verify, *, by: Principal | None = None
    ) -> Run:
        """Queue a run that compares a task's table with its source, and return it.

        Raises NotFound, Invalid for ends that cannot be compared, Conflict while another run of the
        task is unfinished, TooMany.
        """
        if wanted.buckets is not None and not 0 < wanted.buckets <= BUCKETS_MAX:
            raise Invalid(f"buckets must be a number from 1 to {BUCKETS_MAX:,}.", field="buckets")
        with self._database.begin() as tx:
            task = resources.locked_task(tx, tenant, task_id) if is_id(task_id) else None
            if task is None:
                raise NotFound(f"cannot find task {task_id[:80]}")
            ends = self._ends(tx, task)
            self._judge_verify(tx, ends, wanted)
            _judge_free(tx, task)
            self.judge_queue(tx, tenant)
            metadata = {VERIFY: msgspec.to_builtins(wanted)}
            run = self._queued(
                tx, task, Trigger.API, None, ends, kind=RunKind.VALIDATE, metadata=metadata,
                mode=Mode.FULL,
            )  # fmt: skip
            if by is not None:
                audit.add(tx, by, "run.started", run.id)
        self._wake()
        return run

    def _judge_verify(self, tx: Tx, ends: Ends, wanted: Verify) -> None:
        """Raise Invalid where a table cannot be compared with its source, or not be repaired."""
        source, end = ends
        if source.type in FED:
            raise Invalid(
                f"What came by {source.type} is kept nowhere else: there is nothing to compare"
                " the table with."
            )
        kind = self._catalog.connector_of(tx, end)
        if kind in registry.destination_names():
            spec = registry.destination(kind).spec
            if not spec.verifies:
                raise Invalid(
                    f"{spec.title}: what it holds cannot be compared with a source.",
                    hint="Tables can: duckdb, postgresql, mysql, parquet.",
                )
            if wanted.repair and not spec.deletes:
                raise Invalid(f"{spec.title} cannot be repaired by parts.", field="repair")

    def push(
        self, tenant: TenantId, task_id: str, *, action: str, records: int, payload: bytes,
        table: str | None = None,
    ) -> Pushed:  # fmt: skip
        """Keep pushed records (a JSON array) for a task, before this returns.

        They are applied in the order of the calls, once. `table` goes instead of the destination's.
        Raises NotFound, Invalid for a task that takes no pushes or is disabled.
        """
        with self._database.begin() as tx:
            task = resources.locked_task(tx, tenant, task_id) if is_id(task_id) else None
            if task is None:
                raise NotFound(f"cannot find task {task_id[:80]}")
            if self._source_type(tx, task) != "push":
                raise Invalid(
                    f"The task {task.id} takes no pushes: its source is not of type push.",
                    hint="Start it by /run.",
                )
            if not task.enabled:
                raise Invalid(_why_disabled(task), hint="Enable it first.", field="enabled")
            self._judge_operations(tx, task, action, payload)
            run = runs.open_push(tx, task.id, table)
            if run is None:
                run = self._queued(tx, task, Trigger.API, None, kind=RunKind.PUSH, table=table)
            id_, at = inbox.add(tx, run.id, action, records, payload)
            runs.wake(tx, run.id)
        faults.reach("server.push_kept")
        self._wake()
        return Pushed(run=run.id, event=id_, at=at)

    def _judge_operations(self, tx: Tx, task: Task, action: str, payload: bytes) -> None:
        """Raise Invalid for what the embedded index would keep as if it were a value."""
        if action.startswith("partial") and b'"_operation"' in payload:
            end = resources.find(tx, Destination, task.tenant, task.destination)
            if end is not None and self._catalog.connector_of(tx, end) != "algolia":
                raise Invalid(
                    "Built-in operations (_operation) are known to Algolia itself only.",
                    hint="Send the attribute's new value.", field="records",
                )  # fmt: skip

    def push_task(self, tenant: TenantId, index: str) -> TaskId:
        """Return the one task that takes pushes for an index. Raises NotFound or Invalid."""
        with self._database.read() as tx:
            found = inbox.push_tasks(tx, tenant, index)
        if not found:
            raise NotFound(
                f"cannot find task {index[:80]}",
                hint="Make a task with a push source whose destination has this index.",
            )
        if len(found) > 1:
            raise Invalid(
                f"Several tasks take pushes for {index!r}: {', '.join(found[:10])}.",
                hint="Push to one of them: /2/tasks/{taskID}/push.",
            )
        return found[0]

    @staticmethod
    def _source_type(tx: Tx, task: Task) -> str:
        source = resources.find(tx, Source, task.tenant, task.source)
        return source.type if source is not None else ""

    @staticmethod
    def _judge(task: Task, source: Source) -> None:
        """Raise Invalid for a task that cannot be started."""
        if not task.enabled:
            raise Invalid(_why_disabled(task), hint="Enable it first.", field="enabled")
        if (fed := source.type) in FED:
            raise Invalid(
                f"A task with a source of type {fed} is not started: it runs when something comes.",
                hint="Send records to /2/tasks/{taskID}/push."
                if fed == "push"
                else "Upload files to its pool.",
            )

    def judge_queue(self, tx: Tx, tenant: TenantId) -> None:
        """Raise TooMany where so many runs wait that another would not help."""
        most = self._settings.queue_max
        if runs.queue_is_full(tx, tenant, most):
            raise TooMany(
                f"{most:,} runs are waiting already.",
                hint="Wait for some to end, or raise HEADRACE_QUEUE_MAX.", retry_after=30,
            )  # fmt: skip

    def _judge_overrides(self, tx: Tx, source: Source, metadata: Mapping[str, Any] | None) -> None:
        """Raise Invalid, naming the member, for overrides that the source's form refuses."""
        if not (overrides := _overrides(metadata)):
            return
        if source.type in registry.source_names():
            form = registry.source(source.type).spec.config
            filled_in(form, self._catalog.opened(tx, source) | overrides, OVERRIDES)

    def start_all(
        self, tenant: TenantId, source: str, *, kind: RunKind, indices: Callable[[str], bool],
        metadata: Mapping[str, Any] | None = None, by: Principal | None = None,
    ) -> list[Run]:  # fmt: skip
        """Queue a run of every enabled task of a source whose index is wanted."""
        with self._database.begin() as tx:
            self.judge_queue(tx, tenant)
            tasks, _ = resources.listed(
                tx, Task, tenant, {"source": [source], "enabled": [True]},
                SortOrder("created_at", descending=False), Window(1_000),
            )  # fmt: skip
            started = []
            for task in tasks:
                end = resources.find(tx, Destination, tenant, task.destination)
                wanted = end is not None and indices(str(end.input.get("indexName", "")))
                if wanted and not runs.unfinished(tx, task.id):
                    run = self._queued(tx, task, Trigger.API, None, kind=kind, metadata=metadata)
                    started.append(run)
                    if by is not None:
                        audit.add(tx, by, "run.started", run.id)
        self._wake()
        return started

    def told(self, tenant: TenantId, kind: RunKind, error: HeadraceError | None, rows: int) -> Run:
        """Put on record what was done at once and of no task: a run that has ended already."""
        with self._database.begin() as tx:
            run = Run(
                id=RunId(new_id()), tenant=tenant, task=TaskId(""),
                execution=ExecutionId(new_id()), trigger=Trigger.API, kind=kind, action="",
                state=RunState.FAILED if error else RunState.SUCCEEDED, fence=0, attempt=1,
                deaths=0, waiting_for=None, progress={}, receipt=None,
                error=error.as_dict() if error else None, failure_threshold=0,
                queued_at=tx.now, started_at=tx.now, finished_at=tx.now, not_before=tx.now,
                updated_at=tx.now,
            )  # fmt: skip
            runs.add_ended(tx, run)
            status = EventStatus.FAILED if error else EventStatus.SUCCEEDED
            message = error.message if error else f"{rows:,} records were read."
            data = {"reason": f"{error.message} {error.hint}".strip()} if error else {}
            runs.add_event(
                tx, run.id,
                NewEvent(
                    kind=EventKind.FETCH, status=status, message=message, rows=rows, data=data
                ),
            )  # fmt: skip
        return run

    def tick(self) -> int:
        """Start what is due by its schedule; return how many runs were queued."""
        with self._database.begin() as tx:
            tasks = resources.due_tasks(tx, DUE_MAX)
            started = self._fire(tx, tasks) if tasks else 0
        if started:
            self._wake()
        return started

    def _fire(self, tx: Tx, tasks: Sequence[Task]) -> int:
        """Queue the runs of the moments that are due, as each task's timing says."""
        found: dict[TaskId, tuple[list[Millis], int]] = {}
        following: dict[str, int] = {}
        for task in tasks:
            assert task.cron is not None  # of a schedule
            assert task.next_run is not None
            following[task.id] = next_moment(task.cron, tx.now, task.timing, task.id)
            found[task.id] = due_moments(task.cron, task.next_run, tx.now, task.timing, task.id)
        resources.move_schedules(tx, following)
        fired = runs.fired(tx, {id_: moments for id_, (moments, _) in found.items()})
        states = runs.unfinished_states(tx, list(found))
        ends = self._all_ends(tx, tasks)
        news: list[runs.NewRun] = []
        late: list[tuple[Run, int]] = []
        for task in tasks:
            moments, missed = found[task.id]
            for moment in moments:
                if (task.id, moment) in fired:
                    continue
                if self._is_passed_over(tx, task, moment, states[task.id]):
                    other = runs.unfinished(tx, task.id)
                    if other is not None:  # else it is among those that are queued just now
                        said = "the schedule was due; this run was still under way"
                        self._said(tx, other, said)
                    continue
                new = self._new(
                    tx, task, ends[task.id], Trigger.SCHEDULE, None, patient=True, fire=moment
                )
                news.append(new)
                states[task.id].append(RunState.QUEUED)
                if missed:
                    late.append((new.run, missed))
        self._keep(tx, news)
        for run, missed in late:
            self._said(tx, run, f"{missed} earlier moments of the schedule were missed")
        return len(news)

    @staticmethod
    def _is_passed_over(tx: Tx, task: Task, moment: Millis, others: Sequence[RunState]) -> bool:
        if is_made_up(task.timing, moment, tx.now):
            return False
        match task.timing.overlap:
            case Overlap.SKIP:
                return bool(others)
            case Overlap.QUEUE_ONE:
                return RunState.QUEUED in others
        return False

    @staticmethod
    def _all_ends(tx: Tx, tasks: Sequence[Task]) -> dict[TaskId, Ends]:
        """Return the ends of many tasks."""
        sources: dict[str, Source] = {}
        destinations: dict[str, Destination] = {}
        for tenant in {task.tenant for task in tasks}:
            own = [task for task in tasks if task.tenant == tenant]
            found = resources.some(tx, Source, tenant, [task.source for task in own])
            sources |= {one.id: one for one in found}
            others = resources.some(tx, Destination, tenant, [task.destination for task in own])
            destinations |= {one.id: one for one in others}
        return {task.id: (sources[task.source], destinations[task.destination]) for task in tasks}

    @staticmethod
    def _ends(tx: Tx, task: Task) -> Ends:
        source = resources.find(tx, Source, task.tenant, task.source)
        end = resources.find(tx, Destination, task.tenant, task.destination)
        assert source is not None  # foreign keys
        assert end is not None
        return source, end

    def _queued(
        self, tx: Tx, task: Task, trigger: Trigger, key: str | None, ends: Ends | None = None,
        **given: Any,
    ) -> Run:  # fmt: skip
        """Queue a run; `given` as `_new` takes it."""
        new = self._new(tx, task, ends or self._ends(tx, task), trigger, key, **given)
        self._keep(tx, [new])
        return new.run

    def _keep(self, tx: Tx, news: Sequence[runs.NewRun]) -> None:
        runs.add_all(tx, news)
        self.queued += len(news)

    def _new(
        self, tx: Tx, task: Task, ends: Ends, trigger: Trigger, key: str | None, *,
        kind: RunKind = RunKind.REINDEX, table: str | None = None,
        metadata: Mapping[str, Any] | None = None, mode: Mode | None = None,
        execution: ExecutionId | None = None, patient: bool = False, fire: Millis | None = None,
        pool: PoolId | None = None, range_: Range | None = None,
    ) -> runs.NewRun:  # fmt: skip
        """Make a run to be queued. `patient`: whatever a destination is like, its run will say."""
        mode = mode or (Mode.DELTA if task.extra.get("cursor") and not range_ else Mode.FULL)
        id_ = RunId(new_id())
        source, end = ends
        run = Run(
            id=id_, tenant=task.tenant, task=task.id,
            execution=execution or ExecutionId(id_),  # a task that is started alone has its own
            state=RunState.QUEUED, trigger=trigger,
            kind=kind, table=table, action=task.action, fence=0, attempt=0, deaths=0,
            waiting_for=None, progress={}, receipt=None, error=None,
            failure_threshold=task.failure_threshold,
            queued_at=tx.now, started_at=None, finished_at=None, not_before=tx.now,
            updated_at=tx.now, metadata=metadata, mode=mode, fire=fire, priority=task.priority,
            range=range_,
        )  # fmt: skip
        return runs.NewRun(
            run=run,
            source=task.source,
            destination=task.destination,
            pool=pool,
            host=source.host or end.host,
            idempotency_key=key,
            exclusive=self._exclusive(tx, end, table, patient=patient),
        )

    def _exclusive(
        self, tx: Tx, end: Destination, table: str | None, *, patient: bool
    ) -> str | None:
        """Return the name of what only one run at a time may load."""
        known = end.id, end.updated_at, table
        if end.authentication is None and known in self._exclusives:
            return self._exclusives[known]
        found = self._find_exclusive(tx, end, table, patient=patient)
        if len(self._exclusives) >= EXCLUSIVES_MAX:
            self._exclusives.clear()
        if found is not None:
            self._exclusives[known] = found
        return found

    def _find_exclusive(
        self, tx: Tx, end: Destination, table: str | None, *, patient: bool
    ) -> str | None:
        order = self._order_of_destination(tx, end, table)
        if order.destination_type not in registry.destination_names():
            return None  # its run will say so
        try:
            made = make_destination(
                order.destination_type, order.destination_input, self._tools(order)
            )
        except HeadraceError:
            if not patient:
                raise
            return None  # its run will say so
        try:
            return made.exclusive()
        finally:
            made.close()

    def _tools(self, order: Order) -> WorkTools:
        return tools_for(order, self._settings.data_dir / "spool")

    # Orders: what a worker is told.

    def order(self, run: Run) -> Order:
        """Return the order of a claimed run, secrets opened; of a push run, what was pushed."""
        with self._database.begin() as tx:
            task = resources.find(tx, Task, run.tenant, run.task)
            assert task is not None  # a task with runs under way cannot be removed
            runs.ordered(tx, run.id)
            source = resources.find(tx, Source, run.tenant, task.source)
            destination = resources.find(tx, Destination, run.tenant, task.destination)
            assert source is not None  # foreign keys
            assert destination is not None
            upload = uploads.of_run(tx, run.id) if source.type == UPLOADED else None
            wanted = verify_of(run)
            return self._order(
                run=run.id, attempt=run.attempt, scope=task.id, fence=run.fence,
                phases=self._phases(tx, upload) if upload else (),
                source_type=source.type,
                source_input=self._catalog.opened(tx, source) | _overrides(run.metadata),
                destination_type=self._catalog.connector_of(tx, destination),
                destination_input=self._destination_input(
                    tx, destination, run.table, self._settings.data_dir.absolute()
                ),
                action=run.action, table=task.table, key=task.key, shape=task.shape,
                hash_key=self._hash_key(tx, task),
                deletes=task.deletes and run.kind not in (RunKind.PUSH, RunKind.VALIDATE),
                known=self._known(tx, task) if wanted or run.mode is Mode.DELTA else None,
                range=run.range, verify=wanted,
                only_tells=run.stopping,
                failure_threshold=run.failure_threshold, tenant=run.tenant,
                transformations=self._catalog.codes_of(tx, destination),
                pushes=tuple(
                    Push(
                        id=one.id, batch=one.batch, action=one.action, records=one.records,
                        payload=one.payload,
                    )
                    for one in (
                        inbox.taken(tx, run.id, PUSHES_BYTES_MAX)
                        if run.kind is RunKind.PUSH
                        else ()
                    )
                ),
            )  # fmt: skip

    def _hash_key(self, tx: Tx, task: Task) -> bytes:
        """Return what the task's columns are hashed with: by the tenant's name, as in the CLI."""
        if not task.shape.hash:
            return b""
        return hash_key(self._settings.hash_key, access.name_of(tx, task.tenant))

    def _phases(self, tx: Tx, upload: Upload) -> tuple[Phase, ...]:
        """Return the commits that an upload is loaded in."""
        form = upload.form
        folder = self._settings.common / "uploads" / upload.id
        found = []
        for phase in phases(form, uploads.chunks(tx, upload.id)):
            present = phase.chunks[0].columns
            mapping = {name: type_ for name, type_ in form.types.items() if name in present}
            given: dict[str, Any] = {"mapping": mapping}
            if form.format == "csv":
                given |= dict(form.options) | {"unmapped": "string"}
            found.append(
                Phase(
                    action=phase.action, folder=str(folder), source_type=form.format,
                    files=tuple(chunk.file(form) for chunk in phase.chunks),
                    source_input=given, key=form.key, latest=form.latest,
                )
            )  # fmt: skip
        return tuple(found)

    @staticmethod
    def _known(tx: Tx, task: Task) -> Known | None:
        """Return what the task has read already; None if it must read everything."""
        whole = task.action is Action.REPLACE
        if (position := positions.find(tx, task.id)) is not None:
            after = None if position.after is None else position.after / 1000
            return Known(versions=position.versions, after=after, whole=whole)
        cursor = task.extra.get("cursor")
        if not cursor:
            return None
        return Known(versions={}, after=parse_rfc3339(cursor) / 1000, whole=whole)

    def _destination_input(
        self, tx: Tx, end: Destination, table: str | None, folder: Path
    ) -> dict[str, Any]:
        opened = self._catalog.opened(tx, end)
        if end.type == "duckdb" and str(opened.get("path", "")).startswith("lake/"):
            opened["path"] = str(folder / opened["path"])
        if self._catalog.connector_of(tx, end) == "algolia":
            opened = {"recordBytesMax": self._settings.algolia_record_bytes_max} | opened
        return opened if table is None else opened | {"indexName": table}

    def host_of(self, tenant: TenantId, destination_id: str) -> ServerId | None:
        """Return the server on whose disk a destination lies, if it lies on one's."""
        with self._database.read() as tx:
            found = is_id(destination_id) and resources.find(
                tx, Destination, tenant, destination_id
            )
            return found.host if found else None

    def reading_order(self, tenant: TenantId, destination_id: str) -> tuple[Order, str | None]:
        """Return an order to read a destination with, and the exclusive name it has."""
        with self._database.read() as tx:
            end = (
                resources.find(tx, Destination, tenant, destination_id)
                if (is_id(destination_id))
                else None
            )
            if end is None:
                raise NotFound(f"cannot find destination {destination_id[:80]}")
            order = self._order_of_destination(tx, end)
        made = make_destination(order.destination_type, order.destination_input, self._tools(order))
        try:
            return order, made.exclusive()
        finally:
            made.close()

    def sampling_order(
        self, tenant: TenantId, type_: str, given: Mapping[str, Any], authentication: str | None
    ) -> Order:
        """Return an order to read a source with that is not kept."""
        return self._order(
            run="", attempt=0, scope="", fence=0, source_type=type_,
            source_input=self._catalog.opened_input(tenant, given, authentication),
            destination_type="", destination_input={}, action="", table=None, key=(),
            failure_threshold=0, tenant=tenant,
        )  # fmt: skip

    def trying_order(self, tenant: TenantId, source_id: str) -> Order:
        """Return an order to read a source with that is kept, its secrets opened."""
        with self._database.read() as tx:
            source = resources.find(tx, Source, tenant, source_id) if is_id(source_id) else None
            if source is None:
                raise NotFound(f"cannot find source {source_id[:80]}")
            return self._order(
                run="", attempt=0, scope="", fence=0, source_type=source.type,
                source_input=self._catalog.opened(tx, source), destination_type="",
                destination_input={}, action="", table=None, key=(), failure_threshold=0,
                tenant=tenant,
            )  # fmt: skip

    def _order_of_destination(self, tx: Tx, end: Destination, table: str | None = None) -> Order:
        """Return an order about one destination; what another server owns is its to judge."""
        owner = servers.find(tx, end.host) if end.host not in (None, self._here) else None
        folder = Path(owner.data_dir) if owner else self._settings.data_dir.absolute()
        order = self._order(
            run="", attempt=0, scope="", fence=0, source_type="", source_input={},
            destination_type=self._catalog.connector_of(tx, end),
            destination_input=self._destination_input(tx, end, table, folder), action="",
            table=None, key=(), failure_threshold=0, tenant=end.tenant,
        )  # fmt: skip
        if owner is not None:
            order = msgspec.structs.replace(order, data_dir=str(folder), files_roots=None)
        return order

    def _order(self, **values: Any) -> Order:
        settings = self._settings
        data_dir = settings.data_dir.absolute()
        return Order(
            **values,
            data_dir=str(data_dir),
            rejects_dir=str(self.quarantine.absolute()),
            files_roots=(
                str(data_dir / "files"),
                str(settings.common / "files"),
                str(data_dir / "lake" / str(values["tenant"])),
                *(str(r.absolute()) for r in settings.files_roots),
            ),
            open_inside=settings.loopback,
            egress_allow=settings.egress_allow,
            memory_bytes=settings.run_memory_bytes,
            threads=settings.run_threads,
            rejects_max=settings.rejects_max,
            hosts={"algolia": settings.algolia_host, "insights": settings.algolia_insights_host},
        )

    # Looking.

    def get(self, tenant: TenantId, id_: str) -> Run:
        """Return a run. Raises NotFound, for another tenant's too."""
        with self._database.read() as tx:
            return self._told(tx, [self._get(tx, tenant, id_)])[0]

    @staticmethod
    def _told(tx: Tx, found: Sequence[Run]) -> list[Run]:
        """Say of those runs that could start what they wait for: it is true now, not kept."""
        queued = [run.id for run in found if run.state is RunState.QUEUED]
        reasons = limits.reasons(tx, runs.waiting(tx, queued) if queued else ())
        return [
            replace(run, waiting_for=reasons[run.id]) if run.id in reasons else run for run in found
        ]

    def _get(self, tx: Tx, tenant: TenantId, id_: str) -> Run:
        found = runs.find(tx, tenant, id_) if is_id(id_) else None
        if found is None:
            raise NotFound(f"cannot find run {id_[:80]}")
        return found

    def listed(
        self, tenant: TenantId, *, task: str | None = None,
        states: Sequence[RunState] | None = None, since: Millis | None = None,
        until: Millis | None = None, kinds: Sequence[str] | None = None,
        order: SortOrder = NEWEST_FIRST, window: Window = FIFTY,
    ) -> tuple[list[Run], int]:  # fmt: skip
        """Return one page of runs and how many there are."""
        with self._database.read() as tx:
            found, total = runs.listed(
                tx, tenant, task=task, states=states, since=since, until=until, kinds=kinds,
                order=order, window=window,
            )  # fmt: skip
            return self._told(tx, found), total

    def started_between(
        self, tenant: TenantId, since: Millis, until: Millis, kinds: Sequence[RunKind],
        window: Window,
    ) -> tuple[list[Run], int]:  # fmt: skip
        """Return the tasks' runs that started in a window, and how many there are."""
        with self._database.read() as tx:
            found, total = runs.started_between(tx, tenant, since, until, kinds, window)
            return self._told(tx, found), total

    def table_of(self, run: Run) -> str:
        """Return the name of the table that a run loads; empty where it cannot be told."""
        with self._database.read() as tx:
            task = resources.find(tx, Task, run.tenant, run.task)
            if task is None:
                return ""
            source = resources.find(tx, Source, run.tenant, task.source)
            end = resources.find(tx, Destination, run.tenant, task.destination)
            assert source is not None  # foreign keys
            assert end is not None
            order = self._order_of_destination(tx, end, run.table)
        try:
            made = make_destination(
                order.destination_type, order.destination_input, self._tools(order)
            )
        except HeadraceError:
            return task.table or ""
        try:
            return made.table_for(task.table, stream_of(source.input))
        finally:
            made.close()

    def last_moments(self, tasks: Sequence[TaskId]) -> dict[TaskId, Millis]:
        """Return when the newest run of each task was queued, if it has one."""
        with self._database.read() as tx:
            return runs.last_moments(tx, tasks)

    def events(
        self, tenant: TenantId, id_: str, *, kinds: Sequence[str] | None = None,
        statuses: Sequence[str | None] | None = None, since: Millis | None = None,
        until: Millis | None = None, after: int = 0, order: SortOrder = BY_NUMBER,
        window: Window = HUNDRED,
    ) -> tuple[list[Event], int]:  # fmt: skip
        """Return one page of a run's events and how many there are."""
        with self._database.read() as tx:
            run = self._get(tx, tenant, id_)
            asked = runs.EventsAsked(
                kinds=kinds, statuses=statuses, since=since, until=until, after=after
            )
            return runs.events(tx, run.id, asked, order, window)

    def event(self, tenant: TenantId, id_: str, event_id: str) -> Event:
        """Return one event of a run."""
        with self._database.read() as tx:
            run = self._get(tx, tenant, id_)
            found = runs.find_event(tx, run.id, event_id)
        if found is None:
            raise NotFound(f"cannot find event {event_id[:80]}")
        return found

    def event_or_none(self, tenant: TenantId, id_: str, event_id: str) -> Event | None:
        """Return one event of a run, or None as long as it has not happened."""
        with self._database.read() as tx:
            return runs.find_event(tx, self._get(tx, tenant, id_).id, event_id)

    def rejects(self, tenant: TenantId, id_: str, limit: int, cursor: str | None) -> Rejects:
        """Return a page of the rows that a run rejected, in the order they were found."""
        with self._database.read() as tx:
            run = self._get(tx, tenant, id_)
            segments = runs.segments(tx, run.id)
        number, offset = _place(cursor, len(segments))
        rows: list[dict[str, Any]] = []
        following = None
        while number < len(segments) and following is None:
            path = self.quarantine / segments[number][0]
            number, offset, following = self._page(path, number, offset, limit, rows)
        return Rejects(rows=rows, total=sum(rows_ for _, rows_ in segments), next=following)

    @staticmethod
    def _page(
        path: Path, number: int, offset: int, limit: int, rows: list[dict[str, Any]]
    ) -> tuple[int, int, str | None]:
        try:
            with path.open("rb") as file:
                file.seek(offset)
                while line := file.readline():
                    if len(rows) == limit:
                        return number, offset, f"{number}.{offset}"
                    rows.append(json.loads(line))
                    offset = file.tell()
        except FileNotFoundError:
            raise NotFound(
                "The rejected rows of this run are not on this server.",
                hint="Ask the server that ran it, or share HEADRACE_SHARED.",
            ) from None
        return number + 1, 0, None

    # Deeds.

    def cancel(self, tenant: TenantId, id_: str, by: Principal | None = None) -> Run:
        """Ask for a run to stop. It is cancelled when its work is gone. Safe to repeat."""
        with self._database.begin() as tx:
            run = self._get(tx, tenant, id_)
            if run.state in ENDED and run.state is not RunState.CANCELLED:
                raise Conflict(f"The run has {run.state} already.")
            self.stop(tx, run)
            if by is not None:
                audit.add(tx, by, "run.cancelled", run.id)
            found = self._get(tx, tenant, id_)
        self._wake()
        return found

    def retry(self, tenant: TenantId, id_: str, by: Principal | None = None) -> Run:
        """Start a run that has failed or was cancelled again, as it was started.

        Raises Conflict for another, and for what cannot be had again: pushes and uploads.
        """
        run = self.get(tenant, id_)
        if run.state not in (RunState.FAILED, RunState.CANCELLED):
            raise Conflict(f"The run is {run.state}: there is nothing to retry.")
        if run.kind is RunKind.PUSH or not run.task:
            raise Conflict(
                "What was pushed to this run is not kept for another.",
                hint="Its records are among the rejected rows of the run: push them again.",
            )
        if (wanted := verify_of(run)) is not None:
            return self.verify(tenant, run.task, wanted, by=by)
        return self.start(
            tenant, run.task, trigger=Trigger.RETRY, metadata=run.metadata, mode=run.mode,
            range_=run.range, by=by,
        )  # fmt: skip

    def stop(self, tx: Tx, run: Run) -> None:
        """Cancel a run that has not ended, in the caller's transaction."""
        if run.stopping:
            return  # it was asked already
        if run.state is RunState.QUEUED:
            runs.move(
                tx, run.id, (RunState.QUEUED,), state=RunState.CANCELLED, finished_at=tx.now,
                waiting_for=None,
            )  # fmt: skip
            self._said(tx, run, "cancelled before it started")
            pushes.refuse(tx, run.id, "The run was cancelled.", self.quarantine)
        elif run.state is RunState.RUNNING:
            runs.move(tx, run.id, (RunState.RUNNING,), state=RunState.CANCELLING, stopping=True)
            self._said(tx, run, "a cancel was asked for")

    def can_start(self, tx: Tx, task: Task) -> bool:
        """Tell whether a task may be started: it is enabled, and nobody feeds it."""
        return task.enabled and self._source_type(tx, task) not in FED

    def queue_upload(self, tx: Tx, task: Task, action: Action, pool: PoolId) -> Run:
        """Queue a run that loads an upload; several of one task wait for each other."""
        self.judge_queue(tx, task.tenant)
        if not task.enabled:
            raise Invalid(_why_disabled(task), hint="Enable it first.", field="enabled")
        task = replace(task, action=action)
        return self._queued(
            tx, task, Trigger.API, None, kind=RunKind.UPDATE, mode=Mode.FULL, pool=pool
        )

    def judge_watched(self, source: Source) -> None:
        """Raise Invalid for a source whose files cannot be looked at without reading them."""
        known = source.type in registry.source_names()
        if not known or not hasattr(registry.source(source.type), "look"):
            raise Invalid(
                f"A source of type {source.type} cannot be watched.",
                hint="Files can: by path or URL. Others are started by a schedule.",
                field="source",
            )

    def looked(self, tenant: TenantId, source_id: str) -> Mapping[str, str]:
        """Return the files of a source, and the version of each."""
        order = self.trying_order(tenant, source_id)
        made = make_source(order.source_type, order.source_input, self._tools(order))
        assert isinstance(made, Watched)  # judged when the trigger was made
        try:
            return made.look()
        finally:
            made.close()

    def start_or_wait(self, tx: Tx, task: Task, mode: Mode | None, trigger: Trigger) -> str:
        """Queue a run for a hook or trigger, unless one waits already; return its execution."""
        ends = self._ends(tx, task)
        self._judge(task, ends[0])
        waiting, _ = runs.listed(
            tx, task.tenant, task=task.id, states=[RunState.QUEUED], since=None, until=None,
            order=NEWEST_FIRST, window=Window(1),
        )  # fmt: skip
        if waiting:
            return waiting[0].execution
        self.judge_queue(tx, task.tenant)
        run = self._queued(tx, task, trigger, None, ends, mode=mode, patient=True)
        return run.execution

    def wake(self) -> None:
        """Have the dispatcher look for work: after the commit that made some."""
        self._wake()

    def queue_step(
        self, tx: Tx, task: Task, trigger: Trigger, mode: Mode, execution: ExecutionId,
        pool: PoolId,
    ) -> Run | None:  # fmt: skip
        """Queue a task's run as a step of an execution; None while another run of it is there."""
        if runs.unfinished(tx, task.id):
            return None
        return self._queued(
            tx, task, trigger, None, mode=mode, execution=execution, patient=True, pool=pool
        )

    def _said(self, tx: Tx, run: Run, message: str) -> None:
        event = NewEvent(kind=EventKind.LOG, status=EventStatus.SUCCEEDED, message=message)
        runs.add_event(tx, run.id, event)

    def breakers(self, caller: Principal) -> list[Breaker]:
        """Return what of the tenant's was down lately, and is left alone or tried with care."""
        with self._database.read() as tx:
            found = kept_breakers.known(tx).values()
            return [one for one in found if self._is_callers(tx, caller, one.name)]

    def reset_breaker(self, caller: Principal, name: str) -> None:
        """Forget that something was down: it is tried at once. Raises NotFound."""
        with self._database.begin() as tx:
            there = name in kept_breakers.known(tx, [name])
            if not there or not self._is_callers(tx, caller, name):
                raise NotFound(f"cannot find breaker {name[:80]}")
            kept_breakers.forget(tx, name)
            audit.add(tx, caller, "breaker.reset", name)
        self._wake()

    def limits(self, caller: Principal) -> dict[str, Limit]:
        """Return the limits that were set: of every tenant for admins of the server only."""
        with self._database.read() as tx:
            found = kept.all_limits(tx)
            return {name: one for name, one in found.items() if self._is_callers(tx, caller, name)}

    def _is_callers(self, tx: Tx, caller: Principal, name: str) -> bool:
        kind, _, id_ = name.partition(":")
        tenant = caller.tenant.id
        if not id_:
            return True
        if kind == "tenant":
            return id_ == tenant
        if kind == "pool":
            return jobs.find_pool(tx, tenant, id_) is not None
        return resources.find(tx, LIMITED[kind], tenant, id_) is not None

    def limit(
        self, caller: Principal, name: str, *, most: int | None, per_minute: int | None = None
    ) -> None:
        """Set how many runs go at a time, and start in a minute, of `source`, `source:ID` ….

        None: as many as like, or as the limit of the kind says. Of all things of a kind and of
        the server for admins only. Raises Denied, Invalid, and NotFound for what is not the
        caller's.
        """
        kind, _, id_ = name.partition(":")
        if kind not in ("tenant", "pool", "server", *LIMITED):
            raise Invalid(
                "A limit is of a task, source, destination, pool, tenant or the server.",
                field="name",
            )
        for field, value in (("runs", most), ("perMinute", per_minute)):
            if value is not None and not 0 <= value <= LIMIT_MAX:
                raise Invalid(f"{field} must be a number from 0 to {LIMIT_MAX:,}.", field=field)
        if per_minute == 0:
            raise Invalid("perMinute must be at least 1.", hint="Pause it.", field="perMinute")
        if per_minute and not id_ and kind != "server":
            raise Invalid(
                f"perMinute is of one {kind}.", hint=f"Name it: {kind}:ID.", field="perMinute"
            )
        if not id_:
            need(caller, Role.ADMIN)
        with self._database.begin() as tx:
            if id_ and not (is_id(id_) and self._is_callers(tx, caller, name)):
                raise NotFound(f"cannot find {kind} {id_[:80]}")
            reset = most is None and per_minute is None
            limit = None if reset else Limit(runs=most, per_minute=per_minute)
            kept.set_limit(tx, name, limit)
            audit.add(tx, caller, "limit.removed" if reset else "limit.set", name)
        self._wake()

    def pause(self, caller: Principal, task_id: str | None, *, paused: bool) -> None:
        """Let no run of a task (None: of the whole tenant) start, nor its schedules fire; or again.

        What runs goes on. What was due meanwhile is made up for as each schedule says.
        """
        tenant = caller.tenant.id
        kind, id_ = ("tenant", tenant) if task_id is None else ("task", task_id)
        with self._database.begin() as tx:
            if task_id and not (is_id(task_id) and resources.find(tx, Task, tenant, task_id)):
                raise NotFound(f"cannot find task {task_id[:80]}")
            kept.set_pause(tx, kind, id_, paused=paused)
            audit.add(tx, caller, "paused" if paused else "resumed", f"{kind}:{id_}")
        self._wake()

    def pause_server(self, caller: Principal, *, paused: bool) -> None:
        """Let nothing of any tenant start, or again. For admins."""
        need(caller, Role.ADMIN)
        with self._database.begin() as tx:
            kept.set_pause(tx, "server", "", paused=paused)
            audit.add(tx, caller, "paused" if paused else "resumed", "server")
        self._wake()

    def paused(self, tenant: TenantId, tasks: Sequence[TaskId]) -> tuple[bool, set[TaskId]]:
        """Tell whether all of a tenant is paused, and which of some tasks are."""
        with self._database.read() as tx:
            found = kept.pauses(tx)
        all_ = "server" in found or f"tenant:{tenant}" in found
        return all_, {task for task in tasks if f"task:{task}" in found}

    def sweep(self) -> int:
        """Remove files of rejected rows that no manifest names and no run is writing."""
        there = list(self.quarantine.glob("*.jsonl"))  # before the look at who is writing
        with self._database.read() as tx:
            named = runs.all_segments(tx)
            busy = runs.unfinished_ids(tx)
        removed = 0
        for path in there:
            run = path.name[:ID_CHARACTERS]  # what follows tells attempts and batches apart
            if path.name not in named and run not in busy:
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
                    removed += 1
        return removed


def verify_of(run: Run) -> Verify | None:
    """Return what a run is to compare; None for one that loads."""
    if run.kind is not RunKind.VALIDATE or run.metadata is None:
        return None
    return msgspec.convert(run.metadata[VERIFY], Verify)


def _judge_free(tx: Tx, task: Task) -> None:
    """Raise Conflict while a task has a run that is unfinished."""
    if other := runs.unfinished(tx, task.id):
        raise Conflict(
            f"The task has a run that is {other.state}: {other.id}.",
            hint="Wait for its end, or cancel it.",
        )


def _judge_range(task: Task, source: Source, wanted: Range, mode: Mode | None) -> None:
    """Raise Invalid for a range that a task cannot read."""
    if mode is Mode.DELTA:
        raise Invalid("A range is read whole: mode=delta does not go with it.", field="mode")
    if task.action is Action.REPLACE:
        raise Invalid(
            "A task that replaces its table cannot be back-filled: the rest would be gone.",
            hint="Use a task with the action save or append.", field="from",
        )  # fmt: skip
    known = source.type in registry.source_names() and registry.source(source.type).spec.ranges
    if not known or str(source.input.get("url", "")).startswith(("http://", "https://")):
        raise Invalid(
            f"This source of type {source.type} cannot be read by range.",
            hint="Tables with a cursor can, and files of a folder.",
            field="from",
        )
    if is_by_moment(source.type):
        for field, value in (("from", wanted.since), ("to", wanted.until)):
            try:
                parse_rfc3339(value or "1970-01-01T00:00:00Z")
            except ValueError:
                raise Invalid(
                    f"{field} must be a moment, as 2026-01-31T00:00:00Z.", field=field
                ) from None


def is_by_moment(type_: str) -> bool:
    """Tell whether a range of a source is one of moments: files go by when they were changed."""
    return hasattr(registry.source(type_), "look")


def _overrides(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a run's metadata replaces in its source's input. Raises Invalid."""
    found: Any = metadata or {}
    for name in ("parametersOverride", "source"):
        found = found.get(name) or {}
        if not isinstance(found, dict):
            raise Invalid(f"{OVERRIDES} must be an object.", field=OVERRIDES)
    return dict(found)


def _why_disabled(task: Task) -> str:
    return f"The task is disabled. {task.blocked or ''}".strip()


def _place(cursor: str | None, segments: int) -> tuple[int, int]:
    if cursor is None:
        return 0, 0
    try:
        number, offset = map(int, cursor.split("."))
        if not 0 <= number < segments or offset < 0:
            raise ValueError
    except ValueError:
        raise Invalid("cursor is not one that this list gave.", field="cursor") from None
    return number, offset
