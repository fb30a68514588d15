"""A task: source to destination, what to do, when, and how much may fail."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from headrace.domain.clock import Millis
from headrace.domain.ids import DestinationId, SourceId, TaskId, TenantId
from headrace.domain.schedule import DEFAULT, Timing
from headrace.domain.shape import PLAIN, Shape


class Action(StrEnum):
    """What a run does to the table that is there."""

    REPLACE = "replace"  # the table ends up holding exactly this run's rows
    SAVE = "save"  # each row replaces the row of the same key whole, or is added
    PARTIAL = "partial"  # the attributes that a row carries are merged; missing rows are made
    PARTIAL_NO_CREATE = "partialNoCreate"  # as partial, missing rows are filtered
    APPEND = "append"  # rows are added
    DELETE = "delete"  # the rows with the keys that came are removed
    DROP = "drop"  # the table is removed; of pushes only


OF_TASKS: frozenset[Action] = frozenset(Action) - {Action.DROP}
KEYED: frozenset[Action] = frozenset(
    {Action.SAVE, Action.PARTIAL, Action.PARTIAL_NO_CREATE, Action.DELETE}
)


class TriggerType(StrEnum):
    ON_DEMAND = "onDemand"
    SCHEDULE = "schedule"
    SUBSCRIPTION = "subscription"
    STREAMING = "streaming"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task. `failure_threshold` is percent of rows read; `key` overrides the source's."""

    id: TaskId
    tenant: TenantId
    name: str
    source: SourceId
    destination: DestinationId
    action: Action
    trigger: TriggerType
    enabled: bool
    failure_threshold: int
    table: str | None
    key: tuple[str, ...]
    cron: str | None = None  # of a schedule
    timing: Timing = DEFAULT
    shape: Shape = PLAIN
    deletes: bool = False  # rows whose keys are gone from the source are removed
    priority: int = 0  # its runs go before those of a lower one, of the same tenant
    next_run: Millis | None = None  # of a schedule
    blocked: str | None = None  # why it was taken out of use; `enabled` is false then
    extra: Mapping[str, Any]  # Any: members of a dialect that are kept and given back as they came
    created_at: Millis
    updated_at: Millis
