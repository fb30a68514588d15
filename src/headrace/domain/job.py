"""Pools, jobs and executions: tasks that are started together, and one such start.

A pool groups jobs. A job names tasks, perhaps in an order. An execution is one start of a job: it
queues the runs of its steps, those of dependent steps when their time comes, and ends with them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

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
from headrace.domain.principal import Permission
from headrace.domain.run import ENDED, Mode, Run, RunState, Trigger
from headrace.domain.schedule import DEFAULT, Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A group of jobs, and the place of the tables that are uploaded to it.

    `permissions`: what each key may do; None: every key, what its role allows. `destination` is
    made with the first upload where nobody has given one.
    """

    id: PoolId
    tenant: TenantId
    name: str
    permissions: Mapping[KeyId, Permission] | None = None
    destination: DestinationId | None = None
    created_at: Millis
    updated_at: Millis


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One task of a job; it is started when those that it comes `after` have succeeded."""

    task: TaskId
    after: tuple[TaskId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """`everything`: the built-in job of a tenant, all of its enabled tasks; its steps are empty.

    `stops`: a step that fails keeps the steps that have not started from starting. `mode` is how
    much the scheduled executions read.
    """

    id: JobId
    tenant: TenantId
    pool: PoolId
    name: str
    everything: bool
    steps: tuple[Step, ...]
    stops: bool
    mode: Mode
    cron: str | None
    timing: Timing = DEFAULT
    next_run: Millis | None
    owed: int = 0  # moments of the schedule that wait for the execution under way
    created_at: Millis
    updated_at: Millis


class ExecutionState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"  # every step had nothing to do


OVER: frozenset[ExecutionState] = frozenset(
    {
        ExecutionState.SUCCEEDED, ExecutionState.FAILED, ExecutionState.CANCELLED,
        ExecutionState.SKIPPED,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One start of a job. `steps` are the job's at that moment; `percent` never goes back.

    A task that was started alone has one too, which is of no job.
    """

    id: ExecutionId
    tenant: TenantId
    job: JobId | None
    mode: Mode
    trigger: Trigger
    state: ExecutionState
    steps: tuple[Step, ...]
    stops: bool
    cancelled: bool
    percent: int
    queued_at: Millis
    started_at: Millis | None
    finished_at: Millis | None


@dataclass(frozen=True, slots=True)
class Outlook:
    """What follows from the states of an execution's runs.

    `start` are steps whose time has come; `never` those that will not start any more.
    """

    state: ExecutionState
    start: tuple[Step, ...]
    never: tuple[Step, ...]


_DONE = frozenset({RunState.SUCCEEDED, RunState.SKIPPED})
_BROKEN = frozenset({RunState.FAILED, RunState.CANCELLED})


def outlook(
    steps: Sequence[Step], runs: Mapping[TaskId, RunState], *, stops: bool, cancelled: bool,
    gone: Collection[TaskId] = (),
) -> Outlook:  # fmt: skip
    """Judge an execution by its runs, one a step that was started.

    `gone`: tasks that cannot be started any more.
    """
    halted = cancelled or (stops and any(state in _BROKEN for state in runs.values()))
    never: dict[TaskId, Step] = {}
    for step in steps:  # a step comes after those that it waits for
        lost = any(one in never or runs.get(one) in _BROKEN for one in step.after)
        if step.task not in runs and (halted or lost or step.task in gone):
            never[step.task] = step
    waiting = [step for step in steps if step.task not in runs and step.task not in never]
    start = tuple(step for step in waiting if all(runs.get(one) in _DONE for one in step.after))
    states = set(runs.values())
    if waiting or states - _DONE - _BROKEN:
        begun = bool(states - {RunState.QUEUED})
        state = ExecutionState.RUNNING if begun else ExecutionState.QUEUED
    elif cancelled or (RunState.CANCELLED in states and RunState.FAILED not in states):
        state = ExecutionState.CANCELLED
    elif RunState.FAILED in states or never:
        state = ExecutionState.FAILED
    elif states and states <= {RunState.SKIPPED}:
        state = ExecutionState.SKIPPED
    else:
        state = ExecutionState.SUCCEEDED
    return Outlook(state, start, tuple(never.values()))


def percent(steps: Sequence[Step], shares: Mapping[TaskId, float], state: ExecutionState) -> int:
    """Return how far an execution is, from 0 to 100; 100 only when it is over."""
    if state in OVER:
        return 100
    if state is ExecutionState.QUEUED:
        return 0
    done = sum(shares.get(step.task, 0.0) for step in steps)
    return max(1, min(99, int(100 * done / max(len(steps), 1))))


def share(state: RunState, progress: Mapping[str, Any]) -> float:
    """Return how much of a run is done, from 0 to 1."""
    if state in ENDED:
        return 1.0
    total = progress.get("total") or 0
    if state is not RunState.RUNNING or not total or progress.get("phase") != "loading":
        return 0.0
    return min(float(progress.get("done") or 0) / total, 1.0) * 0.9  # a commit comes after


_ALONE: Mapping[RunState, ExecutionState] = {
    RunState.QUEUED: ExecutionState.QUEUED, RunState.RUNNING: ExecutionState.RUNNING,
    RunState.CANCELLING: ExecutionState.RUNNING, RunState.SUCCEEDED: ExecutionState.SUCCEEDED,
    RunState.FAILED: ExecutionState.FAILED, RunState.CANCELLED: ExecutionState.CANCELLED,
    RunState.SKIPPED: ExecutionState.SKIPPED,
}  # fmt: skip


def alone(run: Run) -> Execution:
    """Return the execution of a task that was started alone: its one run."""
    state = _ALONE[run.state]
    steps = (Step(task=run.task),)
    return Execution(
        id=run.execution, tenant=run.tenant, job=None, mode=run.mode, trigger=run.trigger,
        state=state, steps=steps, stops=False, cancelled=run.state is RunState.CANCELLING,
        percent=percent(steps, {run.task: share(run.state, run.progress)}, state),
        queued_at=run.queued_at, started_at=run.started_at, finished_at=run.finished_at,
    )  # fmt: skip


def alone_in(states: Collection[ExecutionState]) -> list[RunState]:
    """Return the states of a run whose execution is in one of `states`."""
    return [of_run for of_run, state in _ALONE.items() if state in states]
