"""Aliases: short names for our things in the forms of a dialect, made once and stored.

Runs and executions are named by their day, the second of it, and chance; tasks and jobs by chance.
"""

import secrets
import string
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from headrace.domain.clock import Millis

LETTERS: Final = string.ascii_letters + string.digits


class Kind(StrEnum):
    """What an alias names."""

    RUN = "run"
    EXECUTION = "execution"
    TASK = "task"
    JOB = "job"


def new_alias(kind: Kind, at: Millis) -> str:
    """Return a name such as 20240701-48815-6dcXdk of a run, or 5L6d1veh of a task."""
    if kind in (Kind.TASK, Kind.JOB):
        return _chance(8)
    moment = datetime.fromtimestamp(at / 1000, UTC)
    second = moment.hour * 3600 + moment.minute * 60 + moment.second
    return f"{moment:%Y%m%d}-{second:05}-{_chance(6)}"


def _chance(length: int) -> str:
    return "".join(secrets.choice(LETTERS) for _ in range(length))
