"""Events: what happened in a run, in order. Written with the change they tell of (invariant 4)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from headrace.domain.clock import Millis
from headrace.domain.ids import EventId, RunId


class EventKind(StrEnum):
    """`fetch` is reading the source, `record` a commit of rows, `log` free text."""

    FETCH = "fetch"
    RECORD = "record"
    LOG = "log"
    TRANSFORM = "transform"


class EventStatus(StrEnum):
    CREATED = "created"
    STARTED = "started"
    RETRIED = "retried"
    FAILED = "failed"
    SUCCEEDED = "succeeded"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """An event that is about to be written; `rows` is how many it tells of."""

    kind: EventKind
    status: EventStatus | None
    message: str
    rows: int = 0
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event as it is kept. `number` counts up within its run, from 1."""

    id: EventId
    run: RunId
    number: int
    kind: EventKind
    status: EventStatus | None
    message: str
    rows: int
    data: Mapping[str, Any]
    at: Millis
