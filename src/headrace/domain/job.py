"""Pools, jobs and executions: tasks that are started together, and one such start.

A pool groups jobs. A job names tasks, perhaps in an order. An execution is one start of a job: it
queues the runs of its steps, those of dependent steps when their time comes, and ends with them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from headrace.domain.clock import Millis
from headrace.domain.ids import ExecutionId, JobId, PoolId, TaskId, TenantId
from headrace.domain.run import Mode, RunState, Trigger


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A group of jobs."""

    id: PoolId
    tenant: TenantId
    name: str
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
    next_run: Millis | None
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
    """One start of a job. `steps` are the job's at that moment; `percent` never goes back."""

    id: ExecutionId
    tenant: TenantId
    job: JobId
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
