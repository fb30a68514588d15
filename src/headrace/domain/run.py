"""A run: one execution of one task, and the arrows between its states."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from headrace.domain.clock import Millis
from headrace.domain.ids import ExecutionId, RunId, TaskId, TenantId


class RunState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


# Invariant 5: only along these arrows.
ARROWS: Final[Mapping[RunState, frozenset[RunState]]] = {
    RunState.QUEUED: frozenset({RunState.RUNNING, RunState.CANCELLED, RunState.SKIPPED}),
    RunState.RUNNING: frozenset(
        {
            RunState.SUCCEEDED,
            RunState.FAILED,
            RunState.CANCELLING,
            RunState.QUEUED,
            RunState.SKIPPED,
        }
    ),
    # A cancel that comes after the last commit loses: what landed is told as landed. Where nobody
    # knows, because the worker died in its commit, another attempt finds out, and does no more.
    RunState.CANCELLING: frozenset(
        {
            RunState.CANCELLED,
            RunState.SUCCEEDED,
            RunState.FAILED,
            RunState.SKIPPED,
            RunState.QUEUED,
        }
    ),
    RunState.SUCCEEDED: frozenset(),
    RunState.FAILED: frozenset(),
    RunState.CANCELLED: frozenset(),
    RunState.SKIPPED: frozenset(),
}
ACTIVE: Final = frozenset({RunState.RUNNING, RunState.CANCELLING})
ENDED: Final = frozenset(state for state, after in ARROWS.items() if not after)


class Trigger(StrEnum):
    API = "api"
    CLI = "cli"
    SCHEDULE = "schedule"
    RETRY = "retry"
    HOOK = "hook"  # somebody outside called
    AFTER = "after"  # another task or job succeeded
    WATCH = "watch"  # files have come


class RunKind(StrEnum):
    """What a run is for."""

    REINDEX = "reindex"  # the task's whole source
    UPDATE = "update"  # a part of it
    PUSH = "push"  # what was pushed to the task
    VALIDATE = "validate"
    DISCOVER = "discover"


class Mode(StrEnum):
    """How much a run reads."""

    FULL = "full"
    DELTA = "delta"  # what has changed since the last commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """What a back-fill reads: from a value of the source's cursor, to one that is not read.

    Of files the cursor is when they were changed.
    """

    since: str
    until: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to write about a run until it is lost; `fence` proves it."""

    run: RunId
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One execution of one task. Times are None until they happened."""

    id: RunId
    tenant: TenantId
    task: TaskId
    execution: ExecutionId
    state: RunState
    trigger: Trigger
    kind: RunKind = RunKind.REINDEX
    action: str
    fence: int
    attempt: int  # claims so far
    deaths: int  # how often its worker or server died under it
    table: str | None = None  # instead of the destination's own (a push to a temporary index)
    waiting_for: str | None
    progress: Mapping[str, Any]
    receipt: Mapping[str, Any] | None
    error: Mapping[str, Any] | None
    failure_threshold: int
    queued_at: Millis
    started_at: Millis | None
    finished_at: Millis | None
    not_before: Millis
    updated_at: Millis
    mode: Mode = Mode.FULL
    stopping: bool = False  # a cancel was asked for: it only finds out what has landed already
    priority: int = 0  # runs of a higher one go first, of the same tenant
    range: Range | None = None  # a back-fill: it leaves the task's position alone
    fire: Millis | None = None  # the moment of its task's schedule that it is for
    metadata: Mapping[str, Any] | None = None  # as the caller gave it, for this run only
