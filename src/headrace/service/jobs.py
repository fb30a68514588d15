"""Jobs: tasks started together. An execution is moved on by whoever ticks first."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from headrace.domain import alias
from headrace.domain.clock import Millis
from headrace.domain.errors import Conflict, Invalid, NotFound, Unavailable
from headrace.domain.ids import ExecutionId, JobId, PoolId, TaskId, TenantId, is_id, new_id
from headrace.domain.job import (
    OVER,
    Execution,
    ExecutionState,
    Job,
    Outlook,
    Pool,
    Step,
    outlook,
    percent,
    share,
)
from headrace.domain.principal import Permission, Principal
from headrace.domain.run import ENDED, Mode, RunState, Trigger
from headrace.domain.schedule import DEFAULT, Overlap, Timing
from headrace.domain.task import Task
from headrace.observe.log import logger
from headrace.service import pools
from headrace.service.runs import Runs
from headrace.service.schedule import check_timing, due_moments, is_made_up, next_moment
from headrace.store import aliases, audit, jobs, resources, runs, triggers
from headrace.store.database import Database, Tx
from headrace.store.jobs import ExecutionsAsked
from headrace.store.paging import Order, Window

STEPS_MAX: Final = 10_000
JOBS_MAX: Final = 100_000
DUE_MAX: Final = 100
EVERYTHING: Final = "everything"
HUNDRED: Final = Window(100)
ANY: Final = ExecutionsAsked()


class Jobs:
    """Jobs and executions of every tenant. Who calls must be allowed to, by the job's pool."""

    def __init__(self, database: Database, started: Runs, wake: Callable[[], None]) -> None:
        self._database = database
        self._runs = started
        self._wake = wake

    def add(
        self, caller: Principal, *, pool: str, name: str, steps: Sequence[Step],
        stops: bool = False, mode: Mode = Mode.FULL, cron: str | None = None,
        timing: Timing = DEFAULT,
    ) -> Job:  # fmt: skip
        """Keep a job. Raises Invalid, naming the member, for steps that cannot be."""
        tenant = caller.tenant.id
        with self._database.begin() as tx:
            try:
                owner = pools.of(tx, caller, pool, Permission.MANAGE)
            except NotFound as error:
                raise Invalid(error.message, field="pool") from None
            id_ = JobId(new_id())
            check_timing(timing)
            thing = Job(
                id=id_, tenant=tenant, pool=owner.id, name=pools.named(name),
                everything=False, steps=self._checked(tx, tenant, steps), stops=stops, mode=mode,
                cron=cron, timing=timing,
                next_run=next_moment(cron, tx.now, timing, id_) if cron else None,
                created_at=tx.now, updated_at=tx.now,
            )  # fmt: skip
            self._keep(tx, thing)
            audit.add(tx, caller, "job.added", thing.id)
        return thing

    @staticmethod
    def _keep(tx: Tx, thing: Job) -> None:
        jobs.add(tx, thing)
        aliases.give(tx, thing.tenant, alias.Kind.JOB, thing.id)

    def change(self, caller: Principal, id_: str, **changes: Any) -> Job:
        """Change members of a job, by their names in `domain.job`."""
        with self._database.begin() as tx:
            old = self._get(tx, caller, id_, Permission.MANAGE)
            if old.everything and {"steps", "name"} & set(changes):
                raise Invalid("The built-in job has its name and every task.", field="steps")
            if "name" in changes:
                pools.named(changes["name"])
            if "steps" in changes:
                changes["steps"] = self._checked(tx, old.tenant, changes["steps"])
            new = replace(old, updated_at=tx.now, **changes)
            if {"cron", "timing"} & set(changes):
                check_timing(new.timing)
                due = next_moment(new.cron, tx.now, new.timing, new.id) if new.cron else None
                new = replace(new, next_run=due, owed=0)
            jobs.change(tx, new)
            audit.add(tx, caller, "job.changed", new.id)
        return new

    def _checked(self, tx: Tx, tenant: TenantId, steps: Sequence[Step]) -> tuple[Step, ...]:
        """Return steps so that each comes after those it waits for. Raises Invalid."""
        if not steps or len(steps) > STEPS_MAX:
            raise Invalid(f"steps must be a list of 1 to {STEPS_MAX:,}.", field="steps")
        names = [step.task for step in steps]
        if len(set(names)) != len(names):
            raise Invalid("A task is named twice.", field="steps")
        known = {task.id for task in resources.some(tx, Task, tenant, names)}
        for place, step in enumerate(steps):
            if step.task not in known:
                raise Invalid(f"cannot find task {step.task[:80]}", field=f"steps[{place}].task")
            for one in step.after:
                if one not in names or one == step.task:
                    raise Invalid(
                        f"steps[{place}].after names {one[:80]}, which is no other step.",
                        field=f"steps[{place}].after",
                    )
        placed: dict[TaskId, Step] = {}
        left = list(steps)
        while left:
            ready = [step for step in left if all(one in placed for one in step.after)]
            if not ready:
                raise Invalid("The steps wait for each other in a circle.", field="steps")
            placed |= {step.task: step for step in ready}
            left = [step for step in left if step.task not in placed]
        return tuple(placed.values())

    def get(self, caller: Principal, id_: str) -> Job:
        """Return a job; the word `everything` names the built-in one. Raises NotFound, Denied."""
        if id_ == EVERYTHING:
            return self.everything(caller)
        with self._database.read() as tx:
            return self._get(tx, caller, id_, Permission.VIEW)

    def _get(
        self, tx: Tx, caller: Principal, id_: str, permission: Permission, *, lock: bool = False
    ) -> Job:
        found = jobs.find(tx, caller.tenant.id, id_, lock=lock) if is_id(id_) else None
        if found is None:
            raise NotFound(f"cannot find job {id_[:80]}")
        pools.of(tx, caller, found.pool, permission)
        return found

    def everything(self, caller: Principal) -> Job:
        """Return the built-in job of a tenant, made if it is not there."""
        tenant = caller.tenant.id
        with self._database.read() as tx:
            if found := jobs.everything_of(tx, tenant):
                pools.of(tx, caller, found.pool, Permission.VIEW)
                return found
        with self._database.begin() as tx:
            tx.lock_claims()
            if found := jobs.everything_of(tx, tenant):
                return found
            pool = Pool(
                id=PoolId(new_id()), tenant=tenant, name=EVERYTHING, created_at=tx.now,
                updated_at=tx.now,
            )  # fmt: skip
            made = Job(
                id=JobId(new_id()), tenant=tenant, pool=pool.id, name=EVERYTHING, everything=True,
                steps=(), stops=False, mode=Mode.FULL, cron=None, next_run=None,
                created_at=tx.now, updated_at=tx.now,
            )  # fmt: skip
            jobs.add_pool(tx, pool)
            self._keep(tx, made)
        return made

    def listed(
        self, caller: Principal, pool: str | None = None, window: Window = HUNDRED
    ) -> tuple[list[Job], int]:
        """Return one page of the jobs that the caller may see, and how many there are."""
        with self._database.read() as tx:
            hidden = pools.hidden(tx, caller)
            return jobs.listed(tx, caller.tenant.id, pool, window, hidden)

    def remove(self, caller: Principal, id_: str) -> None:
        """Remove a job; its runs stay. Raises Conflict while an execution is under way."""
        with self._database.begin() as tx:
            thing = self._get(tx, caller, id_, Permission.MANAGE, lock=True)
            if thing.everything:
                raise Conflict("The built-in job cannot be removed.")
            if active := jobs.active_of(tx, thing.id):
                raise Conflict(f"The job has an execution: {active.id}.", hint="Cancel it first.")
            jobs.remove(tx, thing.id)
            audit.add(tx, caller, "job.removed", thing.id)

    # Executions.

    def start(
        self, caller: Principal, id_: str, *, mode: Mode | None = None,
        trigger: Trigger = Trigger.API,
    ) -> Execution:  # fmt: skip
        """Start a job, in its own mode if none is given.

        Raises Conflict, naming the execution, while one is under way.
        """
        if id_ == EVERYTHING:
            id_ = self.everything(caller).id
        with self._database.begin() as tx:
            thing = self._get(tx, caller, id_, Permission.MANAGE, lock=True)
            if active := jobs.active_of(tx, thing.id):
                raise Conflict(
                    f"The job has an execution that is {active.state}: {active.id}.",
                    hint="Wait for its end, or cancel it.", execution=active.id,
                )  # fmt: skip
            self._runs.judge_queue(tx, thing.tenant)
            steps = self._steps_of(tx, thing)
            found = self._start(tx, thing, mode or thing.mode, trigger, steps)
            audit.add(tx, caller, "execution.started", found.id)
        self._wake()
        return found

    def retry(self, caller: Principal, id_: str) -> Execution:
        """Start the steps of an execution that has ended again which did not succeed."""
        with self._database.begin() as tx:
            old = self._execution(tx, caller, id_, Permission.MANAGE)
            if old.state not in OVER:
                raise Conflict("The execution is not over.", hint="Cancel it, or wait.")
            if old.job is None:
                raise Conflict(
                    "The execution is of a task that was started alone.",
                    hint=f"Start it again: POST /v1/tasks/{old.steps[0].task}/runs",
                )
            thing = self._get(tx, caller, old.job, Permission.MANAGE, lock=True)
            if active := jobs.active_of(tx, thing.id):
                raise Conflict(f"The job has an execution: {active.id}.", execution=active.id)
            good = {
                run.task
                for run in jobs.runs_of(tx, old.id)
                if run.state in (RunState.SUCCEEDED, RunState.SKIPPED)
            }
            steps = tuple(
                replace(step, after=tuple(one for one in step.after if one not in good))
                for step in old.steps
                if step.task not in good
            )
            if not steps:
                raise Conflict("Every step of the execution has succeeded.")
            found = self._start(tx, thing, old.mode, Trigger.API, steps)
            audit.add(tx, caller, "execution.retried", found.id)
        self._wake()
        return found

    def _steps_of(self, tx: Tx, thing: Job) -> tuple[Step, ...]:
        """Return the steps that a start has: of the built-in job, every task that can be run."""
        names = [step.task for step in thing.steps]
        if not thing.everything:
            tasks = resources.some(tx, Task, thing.tenant, names)
            able = {task.id for task in tasks if self._runs.can_start(tx, task)}
            return tuple(
                replace(step, after=tuple(one for one in step.after if one in able))
                for step in thing.steps
                if step.task in able
            )
        found, _ = resources.listed(
            tx, Task, thing.tenant, {"enabled": [True]}, Order("created_at", descending=False),
            Window(STEPS_MAX),
        )  # fmt: skip
        return tuple(Step(task=task.id) for task in found if self._runs.can_start(tx, task))

    def _start(
        self, tx: Tx, thing: Job, mode: Mode, trigger: Trigger, steps: tuple[Step, ...]
    ) -> Execution:
        made = Execution(
            id=ExecutionId(new_id()), tenant=thing.tenant, job=thing.id, mode=mode,
            trigger=trigger, state=ExecutionState.QUEUED, steps=steps, stops=thing.stops,
            cancelled=False, percent=0, queued_at=tx.now, started_at=None, finished_at=None,
        )  # fmt: skip
        jobs.add_execution(tx, made)
        aliases.give(tx, made.tenant, alias.Kind.EXECUTION, made.id)
        return self._move_on(tx, made)

    def execution(self, caller: Principal, id_: str) -> Execution:
        """Return an execution. Raises NotFound, Denied."""
        with self._database.read() as tx:
            return self._execution(tx, caller, id_, Permission.VIEW)

    def _execution(
        self, tx: Tx, caller: Principal, id_: str, permission: Permission, *, lock: bool = False
    ) -> Execution:
        tenant = caller.tenant.id
        found = jobs.find_execution(tx, tenant, id_, lock=lock) if is_id(id_) else None
        if found is None:
            raise NotFound(f"cannot find execution {id_[:80]}")
        if found.job is not None:
            self._get(tx, caller, found.job, permission)
        return found

    def executions(
        self, caller: Principal, asked: ExecutionsAsked = ANY, window: Window = HUNDRED
    ) -> list[Execution]:
        """Return one page of the executions that the caller may see, newest first."""
        with self._database.read() as tx:
            hidden = pools.hidden(tx, caller)
            return jobs.executions(tx, caller.tenant.id, asked, window, hidden)

    def count_executions(self, caller: Principal, asked: ExecutionsAsked = ANY) -> int:
        """Return how many executions there are that the caller may see."""
        with self._database.read() as tx:
            hidden = pools.hidden(tx, caller)
            return jobs.count_executions(tx, caller.tenant.id, asked, hidden)

    def names(self, found: Sequence[Execution]) -> dict[ExecutionId, str]:
        """Return the names of the executions' jobs, or of the tasks that were started alone."""
        with self._database.read() as tx:
            of_jobs = jobs.names(tx, [one.job for one in found if one.job])
            alone = [one.steps[0].task for one in found if not one.job]
            of_tasks = {
                task.id: task.name or task.id
                for task in (resources.some(tx, Task, found[0].tenant, alone) if alone else ())
            }
        return {
            one.id: of_jobs[one.job] if one.job else of_tasks[one.steps[0].task] for one in found
        }

    def last_executions(self, ids: Sequence[JobId]) -> dict[JobId, Execution]:
        """Return the newest execution of each job that has one."""
        with self._database.read() as tx:
            return jobs.last_executions(tx, ids)

    def execution_at(self, job: Job, moment: Millis) -> Execution | None:
        """Return the execution of a job that was queued at a moment."""
        with self._database.read() as tx:
            return jobs.execution_at(tx, job.tenant, job.id, moment)

    def runs_of(self, execution: Execution) -> Mapping[TaskId, tuple[str, RunState]]:
        """Return run and state of the steps that were started."""
        with self._database.read() as tx:
            found = jobs.runs_of(tx, execution.id)
        return {run.task: (run.id, run.state) for run in found}

    def cancel(self, caller: Principal, id_: str) -> Execution:
        """Stop an execution: what runs is cancelled, what has not started never will. Repeatable.

        Raises Conflict for one that has ended otherwise.
        """
        tenant = caller.tenant.id
        with self._database.begin() as tx:
            found = self._execution(tx, caller, id_, Permission.MANAGE, lock=True)
            if found.state in OVER and found.state is not ExecutionState.CANCELLED:
                raise Conflict(f"The execution has {found.state} already.")
            if found.state not in OVER:
                if found.job is not None:
                    jobs.write_execution(tx, found.id, cancelled=True)
                for step in jobs.runs_of(tx, found.id):
                    run = runs.find(tx, tenant, step.id) if step.state not in ENDED else None
                    if run is not None:
                        self._runs.stop(tx, run)
                audit.add(tx, caller, "execution.cancelled", found.id)
                if found.job is not None:
                    found = self._move_on(tx, replace(found, cancelled=True))
                else:
                    found = self._execution(tx, caller, id_, Permission.MANAGE)
        self._wake()
        return found

    def tick(self) -> int:
        """Start jobs that are due, move on what is under way; return how many are under way."""
        with self._database.read() as tx:
            due = jobs.due(tx, DUE_MAX)
            busy = jobs.active_ids(tx)
            owing = jobs.owing(tx)
        for thing in due:
            with _alone("job", thing.id), self._database.begin() as tx:
                self._fire(tx, thing)
        for thing in owing:
            with _alone("job", thing.id), self._database.begin() as tx:
                self._settle(tx, thing.id, thing.tenant)
        for id_ in busy:
            with _alone("execution", id_), self._database.begin() as tx:
                if execution := jobs.taken(tx, id_):
                    self._move_on(tx, execution)
        return len(busy)

    def _fire(self, tx: Tx, thing: Job) -> None:
        """Start a job whose schedule is due, or note that it is owed an execution."""
        assert thing.cron is not None  # of a schedule
        assert thing.next_run is not None
        moment = next_moment(thing.cron, tx.now, thing.timing, thing.id)
        if not jobs.move_schedule(tx, thing, moment):
            return  # another server was quicker
        moments, _ = due_moments(thing.cron, thing.next_run, tx.now, thing.timing, thing.id)
        made_up = sum(is_made_up(thing.timing, one, tx.now) for one in moments)
        count = len(moments)
        if count and not jobs.active_of(tx, thing.id):
            self._start(tx, thing, thing.mode, Trigger.SCHEDULE, self._steps_of(tx, thing))
            count -= 1
        match thing.timing.overlap:
            case Overlap.QUEUE_ONE:
                owed = max(min(thing.owed + count, 1), thing.owed, min(made_up, count))
            case Overlap.QUEUE_ALL:
                owed = thing.owed + count
            case Overlap.SKIP:
                owed = thing.owed + min(made_up, count)
        if owed != thing.owed:
            jobs.owe(tx, thing.id, owed)

    def all_of(self, tx: Tx, tenant: TenantId) -> list[Job]:
        """Return every job of a tenant."""
        return jobs.listed(tx, tenant, None, Window(JOBS_MAX))[0]

    def start_either(
        self, tx: Tx, tenant: TenantId, *, task: str | None, job: str | None, mode: Mode | None,
        trigger: Trigger,
    ) -> str:  # fmt: skip
        """Start a task or a job for a hook or trigger; return the id of the execution.

        While one is under way another waits for its end, and only one. Raises NotFound.
        """
        if job is not None:
            return self._start_or_owe(tx, tenant, job, mode, trigger)
        thing = resources.locked_task(tx, tenant, task or "")
        if thing is None:
            raise NotFound("The task is gone.")
        return self._runs.start_or_wait(tx, thing, mode, trigger)

    def judge_either(self, tx: Tx, caller: Principal, task: str | None, job: str | None) -> None:
        """Raise Invalid unless what is named is there, Denied for a job of others."""
        self.judge_task(tx, caller, task, "task")
        self.judge_job(tx, caller, job, "job", Permission.MANAGE)

    @staticmethod
    def judge_task(tx: Tx, caller: Principal, id_: str | None, field: str) -> None:
        """Raise Invalid for a task that is not there."""
        tenant = caller.tenant.id
        if id_ is not None and not (is_id(id_) and resources.find(tx, Task, tenant, id_)):
            raise Invalid(f"cannot find task {id_[:80]}", field=field)

    @staticmethod
    def judge_job(
        tx: Tx, caller: Principal, id_: str | None, field: str, permission: Permission
    ) -> None:
        """Raise Invalid for a job that is not there, Denied for one of a pool of others."""
        if id_ is None:
            return
        thing = jobs.find(tx, caller.tenant.id, id_) if is_id(id_) else None
        if thing is None:
            raise Invalid(f"cannot find job {id_[:80]}", field=field)
        pools.of(tx, caller, thing.pool, permission)

    def _start_or_owe(
        self, tx: Tx, tenant: TenantId, id_: str, mode: Mode | None, trigger: Trigger
    ) -> str:
        """Start a job for a hook or trigger; while one is under way another waits for its end.

        Returns the id of the execution that is started, or of the one that it waits for.
        """
        thing = jobs.find(tx, tenant, id_, lock=True)
        if thing is None:
            raise NotFound("The job is gone.")
        if active := jobs.active_of(tx, thing.id):
            jobs.owe(tx, thing.id, max(thing.owed, 1))
            return active.id
        self._runs.judge_queue(tx, tenant)
        steps = self._steps_of(tx, thing)
        return self._start(tx, thing, mode or thing.mode, trigger, steps).id

    def _settle(self, tx: Tx, id_: JobId, tenant: TenantId) -> None:
        """Start an execution that a job is owed."""
        thing = jobs.find(tx, tenant, id_, lock=True)
        if thing is None or not thing.owed or jobs.active_of(tx, id_):
            return
        jobs.owe(tx, id_, thing.owed - 1)
        self._start(tx, thing, thing.mode, Trigger.SCHEDULE, self._steps_of(tx, thing))

    def _move_on(self, tx: Tx, old: Execution) -> Execution:
        """Start what may start, and write down where an execution stands."""
        found = jobs.runs_of(tx, old.id)
        states = {run.task: run.state for run in found}
        gone: set[TaskId] = set()
        assert old.job is not None  # one of a lone task is never moved on
        pool = jobs.pool_of(tx, old.job)
        for step in self._judged(old, states).start:
            task = resources.find(tx, Task, old.tenant, step.task)
            if task is None or not self._runs.can_start(tx, task):
                gone.add(step.task)  # removed or disabled since the execution began
            elif run := self._runs.queue_step(tx, task, old.trigger, old.mode, old.id, pool):
                states[step.task] = run.state
        seen = self._judged(old, states, gone)
        shares = {run.task: share(run.state, run.progress) for run in found}
        now: dict[str, Any] = {
            "state": seen.state, "percent": max(old.percent, percent(old.steps, shares, seen.state))
        }  # fmt: skip
        if old.started_at is None and seen.state is not ExecutionState.QUEUED:
            begun = [run.started_at for run in found if run.started_at is not None]
            now["started_at"] = min(begun, default=tx.now)
        if seen.state in OVER:
            now["finished_at"] = tx.now
            if seen.state is ExecutionState.SUCCEEDED:
                triggers.job_succeeded(tx, old.job, old.id)
        changed = {name: value for name, value in now.items() if getattr(old, name) != value}
        if changed:
            jobs.write_execution(tx, old.id, **changed)
        return replace(old, **now)

    @staticmethod
    def _judged(
        old: Execution, states: Mapping[TaskId, RunState], gone: Collection[TaskId] = ()
    ) -> Outlook:
        return outlook(old.steps, states, stops=old.stops, cancelled=old.cancelled, gone=gone)


def judge_one_of(task: str | None, job: str | None) -> None:
    """Raise Invalid unless it is a task that is named, or a job."""
    if (task is None) == (job is None):
        raise Invalid("Name what to start: a task or a job, and not both.", field="task")


@contextlib.contextmanager
def _alone(what: str, id_: str) -> Iterator[None]:
    """Keep what goes wrong with one job from the others."""
    try:
        yield
    except Unavailable:
        raise
    except Exception:
        logger().exception("tick", what=what, id=id_)
