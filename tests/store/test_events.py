"""Pages of a run's events, held against a plain list of them."""

import random
import time

import pytest

from headrace.domain.event import EventKind, EventStatus, NewEvent
from headrace.store import positions, runs, tables
from headrace.store.paging import Order, Window

KINDS = (EventKind.RECORD, EventKind.LOG, EventKind.FETCH)
STATUSES = (EventStatus.SUCCEEDED, EventStatus.FAILED, None)


@pytest.fixture
def told(world):
    """A run with many events, most of one kind, and what they are."""
    run = world.start(world.task()).id
    chance = random.Random(7)
    with world.database.begin() as tx:
        runs_before = runs.events(
            tx, run, runs.EventsAsked(), Order("number", descending=False), Window(99)
        )[0]
        for number in range(400):
            kind = chance.choices(KINDS, (30, 2, 1))[0]
            status = chance.choices(STATUSES, (30, 2, 1))[0]
            runs.add_event(
                tx, run, NewEvent(kind=kind, status=status, message=str(number), rows=number)
            )
        whole, total = runs.events(
            tx, run, runs.EventsAsked(), Order("number", descending=False), Window(1_000)
        )
    assert total == len(whole) == 400 + len(runs_before)
    assert [one.number for one in whole] == list(range(1, total + 1))
    return run, whole


@pytest.mark.parametrize("rare", [0, 10, 5_000])
def test_a_page_is_the_slice_of_the_whole(world, told, rare, monkeypatch):
    monkeypatch.setattr(runs, "RARE", rare)
    run, whole = told
    chance = random.Random(rare)
    moments = sorted(one.at for one in whole)
    with world.database.begin() as tx:
        for _ in range(150):
            asked = runs.EventsAsked(
                kinds=chance.choice([None, None, ["record"], ["log", "fetch"], ["transform"], []]),
                statuses=chance.choice([None, None, ["succeeded"], ["failed"], ["critical", "failed"]]),
                since=chance.choice([None, chance.choice(moments), moments[-1] + 1]),
                until=chance.choice([None, chance.choice(moments), moments[0] - 1]),
                after=chance.choice([0, 0, chance.randrange(420)]),
            )  # fmt: skip
            column, descending = (
                chance.choice(["number", "at", "kind", "status"]),
                chance.random() < 0.5,
            )
            window = Window(chance.choice([1, 10, 100]), chance.choice([0, 5, 350, 1_000]))
            wanted = [
                one for one in whole
                if (asked.kinds is None or one.kind in asked.kinds)
                and (asked.statuses is None or one.status in asked.statuses)
                and (asked.since is None or one.at >= asked.since)
                and (asked.until is None or one.at <= asked.until)
                and one.number > asked.after
            ]  # fmt: skip
            if asked.statuses is None and column == "status":
                continue  # where null sorts is the database's matter
            first = {"kind": lambda one: one.kind, "status": lambda one: one.status}.get(
                column, lambda one: 0
            )
            wanted.sort(key=lambda one: (first(one), one.number), reverse=descending)
            found, total = runs.events(tx, run, asked, Order(column, descending=descending), window)
            assert total == len(wanted)
            shown = wanted[window.offset : window.offset + window.limit]
            assert [one.number for one in found] == [one.number for one in shown]


@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_a_reset_holds_against_a_run_that_has_read_the_old_source(world, when):
    task = world.task()
    receipt = {"files": [{"name": "a.csv", "version": "1"}]}

    def reset():
        time.sleep(0.005)
        with world.database.begin() as tx:
            positions.reset(tx, tables.task.c.id == task.id)
        time.sleep(0.005)

    if when == "before":
        reset()
    run = world.start(task)
    if when == "between":  # queued, and not yet looked up
        reset()
    world.runs.order(run)
    if when == "after":
        reset()
    with world.database.begin() as tx:
        positions.moved(tx, run.id, receipt)
        found = positions.find(tx, task.id)
    assert (found is None) == (when == "after")
    assert found is None or found.versions == {"a.csv": "1"}


def test_moments_never_go_back(world):
    run = world.start(world.task()).id
    with world.database.begin() as tx:
        now = tx.now
        tx.__dict__["now"] = now + 60_000  # a clock that is corrected later
        runs.add_event(tx, run, NewEvent(kind=EventKind.LOG, status=None, message="ahead"))
        tx.__dict__["now"] = now
        runs.add_event(tx, run, NewEvent(kind=EventKind.LOG, status=None, message="behind"))
        found, _ = runs.events(tx, run, runs.EventsAsked(), Order("number"), Window(2))
    assert (found[0].number, found[0].at >= found[1].at) == (found[1].number + 1, True)
