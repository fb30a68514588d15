"""Triggers: a task or job that starts after another has succeeded, or when files have come.

A cause is noted in its own transaction and starts its thing once, whatever is killed when.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from headrace.domain.errors import HeadraceError, Invalid, NotFound, TooMany
from headrace.domain.ids import TenantId, TriggerId, is_id, new_id
from headrace.domain.principal import Permission, Principal
from headrace.domain.resources import Source
from headrace.domain.run import Mode
from headrace.domain.run import Trigger as Cause
from headrace.observe import faults
from headrace.observe.log import logger
from headrace.service.jobs import Jobs, judge_one_of
from headrace.service.runs import Runs
from headrace.store import audit, resources, triggers
from headrace.store.database import Database, Tx
from headrace.store.triggers import Look, Trigger

NAME_MAX: Final = 200
EVERY_MIN_S: Final = 1
EVERY_MAX_S: Final = 86_400
AT_ONCE: Final = 100
PROBLEM_MAX: Final = 1_000


class Triggers:
    """Triggers of every tenant."""

    def __init__(
        self, database: Database, runs: Runs, jobs_: Jobs, here: str | None = None, *,
        own_only: bool = False,
    ) -> None:  # fmt: skip
        """`here`: of several servers this one; `own_only`: it looks at its own disk only."""
        self._own_only = own_only
        self._database = database
        self._runs = runs
        self._jobs = jobs_
        self._here = here

    def add(
        self, caller: Principal, *, name: str, task: str | None = None, job: str | None = None,
        mode: Mode | None = None, after_task: str | None = None, after_job: str | None = None,
        source: str | None = None, every_s: int = 60,
    ) -> Trigger:  # fmt: skip
        """Make a trigger: of a task or job, on one cause. Raises Invalid, naming the member."""
        if not name.strip() or len(name) > NAME_MAX:
            raise Invalid(f"name must have 1 to {NAME_MAX} characters.", field="name")
        judge_one_of(task, job)
        causes = {"afterTask": after_task, "afterJob": after_job, "source": source}
        if sum(value is not None for value in causes.values()) != 1:
            raise Invalid(
                "A trigger has one cause: afterTask, afterJob or source.", field="afterTask"
            )
        if not EVERY_MIN_S <= every_s <= EVERY_MAX_S:
            raise Invalid(
                f"every must be a number from {EVERY_MIN_S} to {EVERY_MAX_S} (seconds).",
                field="every",
            )
        tenant = caller.tenant.id
        with self._database.begin() as tx:
            self._jobs.judge_either(tx, caller, task, job)
            self._jobs.judge_task(tx, caller, after_task, "afterTask")
            self._jobs.judge_job(tx, caller, after_job, "afterJob", Permission.VIEW)
            if source is not None:
                found = resources.find(tx, Source, tenant, source) if is_id(source) else None
                if found is None:
                    raise Invalid(f"cannot find source {source[:80]}", field="source")
                self._runs.judge_watched(found)
            made = Trigger(
                id=TriggerId(new_id()), tenant=tenant, name=name, task=task, job=job, mode=mode,
                after_task=after_task, after_job=after_job, source=source, every_s=every_s,
                problem=None, created_at=tx.now,
            )  # fmt: skip
            self._judge_circle(tx, made)
            triggers.add(tx, made)
            audit.add(tx, caller, "trigger.added", made.id)
        return made

    def _judge_circle(self, tx: Tx, made: Trigger) -> None:
        """Raise Invalid for what would start itself again and again."""
        cause = made.after_task or made.after_job
        if cause is None:
            return
        pairs = [*triggers.edges(tx, made.tenant), (cause, made.task or made.job or "")]
        for job in self._jobs.all_of(tx, made.tenant):
            pairs += [(job.id, step.task) for step in job.steps]
        reached: set[str] = set()
        todo = [made.task or made.job or ""]
        while todo:
            at = todo.pop()
            following = {after for before, after in pairs if before == at} - reached
            reached |= following
            todo += following
            if at == cause or cause in following:
                raise Invalid(
                    "The trigger would start itself, again and again.",
                    hint="Remove one of the triggers of the circle first.", field="afterTask",
                )  # fmt: skip

    def listed(self, caller: Principal) -> Sequence[Trigger]:
        """Return a tenant's triggers, oldest first."""
        with self._database.read() as tx:
            return triggers.listed(tx, caller.tenant.id)

    def remove(self, caller: Principal, id_: str) -> None:
        """Remove a trigger: it starts nothing from now on."""
        with self._database.begin() as tx:
            if not is_id(id_) or not triggers.remove(tx, caller.tenant.id, id_):
                raise NotFound(f"cannot find trigger {id_[:80]}")
            audit.add(tx, caller, "trigger.removed", id_)

    # The clockwork.

    def tick(self) -> int:
        """Start what the causes say that have been noted; return how much was started."""
        with self._database.read() as tx:
            if not triggers.is_any_waiting(tx):
                return 0
        begun = 0
        full: set[TenantId] = set()
        while True:
            with self._database.begin() as tx:
                found = triggers.waiting(tx, 1, full)
                if not found:
                    return begun
                one, cause = found[0]
                try:
                    with tx.con.begin_nested():
                        what = self._start(tx, one, Cause.AFTER)
                except TooMany:
                    full.add(one.tenant)  # its queue is full: later
                    continue
                except HeadraceError as error:
                    what = ""
                    triggers.failed(tx, one.id, str(error)[:PROBLEM_MAX])
                triggers.started(tx, one.id, cause, what)
            begun += 1
            faults.reach("server.triggered")
            self._runs.wake()

    def look(self, stopped: Callable[[], bool] = lambda: False) -> int:
        """Look at the sources whose time has come; return how many things were started."""
        with self._database.read() as tx:
            if not triggers.is_any_look_due(tx):
                return 0
        with self._database.begin() as tx:
            found = triggers.looks(tx, self._here, AT_ONCE, own_only=self._own_only)
        return sum(self._look(one) for one in found if not stopped())

    def _look(self, old: Look) -> int:
        one = old.trigger
        assert one.source is not None  # of a look
        try:
            seen = self._runs.looked(one.tenant, one.source)
        except HeadraceError as error:
            self._fail(one, error)
            return 0
        except Exception:
            logger().exception("look", trigger=one.id)
            return 0
        # What is there at the first look is not new; what still changes has not come yet.
        told = old.told if old.told is not None else seen
        comes = bool(seen) and seen == old.seen and _is_news(seen, told)
        with self._database.begin() as tx:
            if not triggers.saw(tx, old, seen=seen, told=told):
                return 0
            if comes:
                try:
                    with tx.con.begin_nested():
                        self._start(tx, one, Cause.WATCH)
                except HeadraceError as error:  # the next look tries again
                    triggers.failed(tx, one.id, str(error)[:PROBLEM_MAX])
                    return 0
                triggers.has_told(tx, one.id, seen)
        if comes:
            self._runs.wake()
        return int(comes)

    def _fail(self, one: Trigger, error: HeadraceError) -> None:
        with self._database.begin() as tx:
            triggers.failed(tx, one.id, str(error)[:PROBLEM_MAX])

    def _start(self, tx: Tx, one: Trigger, cause: Cause) -> str:
        return self._jobs.start_either(
            tx, one.tenant, task=one.task, job=one.job, mode=one.mode, trigger=cause
        )


def _is_news(seen: Mapping[str, str], told: Mapping[str, str]) -> bool:
    return any(told.get(name) != version for name, version in seen.items())
