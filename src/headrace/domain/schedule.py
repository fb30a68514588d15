"""How a schedule is kept: in which zone, what becomes of missed moments, of those that overlap."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Missed(StrEnum):
    """Which of the moments are made up for that passed while no server ran, or all was paused."""

    SKIP = "skip"
    LATEST = "latest"
    ALL = "all"


class Overlap(StrEnum):
    """What happens to a moment that comes while an earlier one is still being worked on."""

    SKIP = "skip"
    QUEUE_ONE = "queueOne"  # one waits; more are passed over
    QUEUE_ALL = "queueAll"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How one schedule is kept.

    `missed_max`: how many moments are made up for at the most. `jitter`: seconds within which the
    moments of each task or job are shifted, always by the same amount.
    """

    timezone: str = "UTC"
    missed: Missed = Missed.LATEST
    missed_max: int = 10
    overlap: Overlap = Overlap.QUEUE_ONE
    jitter: int = 0


DEFAULT: Final = Timing()
