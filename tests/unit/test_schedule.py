"""Schedules as sums: zones, nights on which clocks change, missed moments, jitter."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.domain.clock import rfc3339
from headrace.domain.errors import Invalid
from headrace.domain.schedule import Missed, Timing
from headrace.service.schedule import JITTER_MAX_S, check_timing, due_moments, next_moment

BERLIN = Timing(timezone="Europe/Berlin")


def ms(text, zone="UTC"):
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


@pytest.mark.parametrize(
    ("cron", "after", "timing", "expected"),
    [
        ("*/5 * * * *", "2026-01-01 00:00", Timing(), "2026-01-01T00:05:00Z"),
        ("@hourly", "2026-01-01 00:30", Timing(), "2026-01-01T01:00:00Z"),
        ("@daily", "2026-01-01 00:00", BERLIN, "2026-01-01T23:00:00Z"),
        (" @Weekly", "2026-01-01 00:00", Timing(), "2026-01-04T00:00:00Z"),
        ("0 9 * * 1-5", "2026-07-03 12:00", BERLIN, "2026-07-06T07:00:00Z"),
        # The night of 29 March 2026 has no 02:30 in Berlin; that of 25 October has two.
        ("30 2 * * *", "2026-03-28 12:00", BERLIN, "2026-03-29T01:00:00Z"),
        ("30 2 * * *", "2026-10-24 12:00", BERLIN, "2026-10-25T00:30:00Z"),
        ("0 0 29 2 *", "2026-01-01 00:00", Timing(), "2028-02-29T00:00:00Z"),
    ],
)  # fmt: skip
def test_the_next_moment(cron, after, timing, expected):
    assert rfc3339(next_moment(cron, ms(after), timing)) == expected


@pytest.mark.parametrize(
    "cron", ["", "* * * *", "* * * * * *", "61 * * * *", "@never", "0 0 31 2 *", "x"]
)
def test_what_is_no_cron_line_is_told(cron):
    with pytest.raises(Invalid, match="@hourly") as caught:
        next_moment(cron, ms("2026-01-01"))
    assert caught.value.field == "cron"


@pytest.mark.parametrize(
    ("timing", "field"),
    [
        (Timing(timezone="Mars/Olympus"), "timezone"), (Timing(timezone="../etc/passwd"), "timezone"),
        (Timing(timezone=""), "timezone"), (Timing(missed_max=0), "missedMax"), (Timing(jitter=-1), "jitter"),
        (Timing(jitter=JITTER_MAX_S + 1), "jitter"),
    ],
)  # fmt: skip
def test_a_timing_that_cannot_be(timing, field):
    with pytest.raises(Invalid) as caught:
        check_timing(timing)
    assert caught.value.field == f"timing.{field}"


def test_two_in_the_morning_comes_once_on_every_night():
    """A year of nights in Berlin: 365 moments, one a night, whatever the clocks do."""
    at, found = ms("2026-01-01", "Europe/Berlin"), []
    while (at := next_moment("30 2 * * *", at, BERLIN)) < ms("2027-01-01", "Europe/Berlin"):
        found.append(datetime.fromtimestamp(at / 1000, ZoneInfo("Europe/Berlin")).date())
    assert len(found) == len(set(found)) == 365


def due(missed, since, now, missed_max=10):
    found, passed_over = due_moments(
        "*/10 * * * *", ms(since), ms(now), Timing(missed=missed, missed_max=missed_max), "x"
    )
    return [rfc3339(one)[11:16] for one in found], passed_over


def test_missed_moments():
    on_time = ("2026-01-01 10:00", "2026-01-01 10:00:20")
    for missed in Missed:
        assert due(missed, *on_time) == (["10:00"], 0)
    hour = ("2026-01-01 09:00", "2026-01-01 10:05")  # down since nine
    assert due(Missed.SKIP, *hour) == ([], 7)
    assert due(Missed.LATEST, *hour) == (["10:00"], 6)
    assert due(Missed.ALL, *hour) == (
        ["09:00", "09:10", "09:20", "09:30", "09:40", "09:50", "10:00"],
        0,
    )
    assert due(Missed.ALL, *hour, missed_max=2) == (["09:50", "10:00"], 5)
    just = ("2026-01-01 09:00", "2026-01-01 10:00:01")
    assert due(Missed.SKIP, *just) == (["10:00"], 6)
    year = ("2025-01-01 00:00", "2026-01-01 00:05")  # of a year, what is looked at has an end
    assert due(Missed.LATEST, *year)[0] == ["00:00"]
    assert len(due(Missed.ALL, *year, missed_max=1000)[0]) == 1000


@given(st.text(min_size=1), st.integers(1, 3600), st.integers(0, 10**12))
def test_jitter_is_the_same_for_the_same_and_within_its_bounds(who, jitter, after):
    timing = Timing(jitter=jitter)
    plain = next_moment("0 * * * *", after)
    first = next_moment("0 * * * *", after, timing, who)
    second = next_moment("0 * * * *", first, timing, who)
    assert first > after
    assert second - first == 3_600_000
    assert (first - plain) % 3_600_000 <= jitter * 1000
    found, _ = due_moments("0 * * * *", first, first, timing, who)
    assert found == [first]
