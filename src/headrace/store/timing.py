"""A schedule's timing as it is kept: JSON."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from headrace.domain.schedule import Missed, Overlap, Timing


def kept(timing: Timing) -> dict[str, Any]:
    """Return what is kept of a timing."""
    return asdict(timing)


def made(row: Mapping[str, Any]) -> Timing:
    """Undo `kept`."""
    return Timing(
        timezone=row["timezone"], missed=Missed(row["missed"]), missed_max=row["missed_max"],
        overlap=Overlap(row["overlap"]), jitter=row["jitter"],
    )  # fmt: skip
