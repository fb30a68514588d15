"""Schedules: cron lines in a time zone, the next moment that they name, and those that are due."""

import hashlib
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from headrace.domain.clock import Millis
from headrace.domain.errors import Invalid
from headrace.domain.schedule import DEFAULT, Missed, Timing

LATE_MS: Final = 60_000  # a moment that passed longer ago was missed
MISSED_MAX: Final = 1_000
JITTER_MAX_S: Final = 86_400
NAMED: Final = {
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0", "@daily": "0 0 * * *", "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}  # fmt: skip


def check_timing(given: Timing) -> Timing:
    """Return it if it can be kept. Raises Invalid, naming the member."""
    _zone(given.timezone)
    for name, value, low, high in (
        ("missedMax", given.missed_max, 1, MISSED_MAX), ("jitter", given.jitter, 0, JITTER_MAX_S),
    ):  # fmt: skip
        if not low <= value <= high:
            raise Invalid(
                f"timing.{name} must be a number from {low} to {high}.", field=f"timing.{name}"
            )
    return given


def next_moment(cron: str, after: Millis, timing: Timing = DEFAULT, who: str = "") -> Millis:
    """Return the first moment after `after`, for whoever has the id `who`.

    Raises Invalid for what is no cron line.
    """
    shift = _shift(timing, who)
    return Millis(next(_moments(cron, Millis(after - shift), timing)) + shift)


def due_moments(
    cron: str, since: Millis, now: Millis, timing: Timing, who: str
) -> tuple[list[Millis], int]:
    """Return the moments from `since` to `now` that are to be fired, and how many are passed over.

    Of more than are made up for the newest count; those beyond MISSED_MAX are not counted.
    """
    shift = _shift(timing, who)
    back = _moments(cron, Millis(now - shift + 1), timing, reverse=True)
    passed = itertools.takewhile(lambda moment: moment + shift >= since, back)
    found = [Millis(one + shift) for one in itertools.islice(passed, MISSED_MAX)][::-1]
    timely = [one for one in found if now - one <= LATE_MS]
    match timing.missed:
        case Missed.SKIP:
            fired = timely
        case Missed.LATEST:
            fired = timely or found[-1:]
        case Missed.ALL:
            fired = found[-max(timing.missed_max, len(timely)) :]
    return fired, len(found) - len(fired)


def is_made_up(timing: Timing, moment: Millis, now: Millis) -> bool:
    """Tell whether a moment was missed and counts all the same, whatever it overlaps with."""
    return timing.missed is Missed.ALL and now - moment > LATE_MS


def _moments(
    cron: str, after: Millis, timing: Timing, *, reverse: bool = False
) -> Iterator[Millis]:
    line = NAMED.get(cron.strip().lower(), cron)
    try:
        if len(line.split()) != 5:
            raise CronSimError("it has five fields")
        begin = datetime.fromtimestamp(after / 1000, _zone(timing.timezone))
        found = CronSim(line, begin, reverse=reverse)
        first = next(found)
    except (CronSimError, StopIteration) as error:
        if reverse:
            return
        raise Invalid(
            f"cron: {cron[:80]!r} is not a cron line that ever comes up.",
            hint="Write minute, hour, day of month, month and day of week, as in 0 6 * * 1-5,"
            f" or one of {', '.join(NAMED)}.",
            field="cron",
        ) from error
    for moment in itertools.chain([first], found):
        yield Millis(round(moment.timestamp() * 1000))


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Invalid(
            f"timing.timezone: there is no zone {name[:40]!r}.",
            hint="Write an IANA name such as Europe/Berlin.", field="timing.timezone",
        ) from None  # fmt: skip


def _shift(timing: Timing, who: str) -> int:
    """Return by how many milliseconds the moments of `who` are shifted: always the same."""
    if not timing.jitter:
        return 0
    number = int.from_bytes(hashlib.sha256(who.encode()).digest()[:8])
    return number % (timing.jitter * 1000 + 1)
