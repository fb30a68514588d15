"""Schedules: five-field cron lines, in UTC, and the next moment that they name."""

from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

from headrace.domain.clock import Millis
from headrace.domain.errors import Invalid


def next_moment(cron: str, after: Millis) -> Millis:
    """Return the first moment after `after`. Raises Invalid for what is no cron line."""
    try:
        if len(cron.split()) != 5:
            raise CronSimError("it has five fields")
        found = next(CronSim(cron, datetime.fromtimestamp(after / 1000, UTC)))
    except (CronSimError, StopIteration) as error:
        raise Invalid(
            f"cron: {cron[:80]!r} is not a cron line that ever comes up.",
            hint="Write minute, hour, day of month, month and day of week, as in 0 6 * * 1-5.",
            field="cron",
        ) from error
    return Millis(int(found.timestamp() * 1000))
