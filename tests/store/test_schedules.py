"""Schedules on both databases: each moment once, overlaps, what was missed, pauses."""

import threading

import pytest
import sqlalchemy as sa

from headrace.domain.errors import NotFound
from headrace.domain.run import RunState, Trigger
from headrace.domain.schedule import Missed, Overlap, Timing
from headrace.domain.task import Task
from headrace.store import tables

MINUTE = 60_000


@pytest.fixture
def caller(world):
    return world.caller


def scheduled(world, name="a", **timing):
    task = world.task(name)
    return world.catalog.change_task(
        world.tenant.id, task.id, cron="* * * * *", timing=Timing(**timing)
    )


def due(world, task, minutes=0):
    """Make a task due, since so many minutes."""
    with world.database.begin() as tx:
        at = tx.now // MINUTE * MINUTE - minutes * MINUTE
        tx.run(sa.update(tables.task).where(tables.task.c.id == task.id).values(next_run=at))


def runs(world, task):
    found, _ = world.runs.listed(world.tenant.id, task=task.id)
    return found


def test_a_moment_is_fired_once_by_any_number_of_tickers(world):
    tasks = [scheduled(world, f"f{n}") for n in range(20)]
    for task in tasks:
        due(world, task)
    threads = [threading.Thread(target=world.runs.tick) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(runs(world, task)) for task in tasks] == [1] * 20
    assert {run.trigger for task in tasks for run in runs(world, task)} == {Trigger.SCHEDULE}
    assert world.runs.tick() == 0
    due(world, tasks[0])  # the same moment again: it has its run
    assert world.runs.tick() == 0
    assert len(runs(world, tasks[0])) == 1


def test_the_database_itself_forbids_two_runs_of_one_moment(world):
    task = scheduled(world)
    due(world, task)
    world.runs.tick()
    [run] = runs(world, task)
    with pytest.raises(sa.exc.IntegrityError), world.database.begin() as tx:
        table = tables.run
        row = dict(tx.first(sa.select(table).where(table.c.id == run.id))._mapping)
        tx.run(sa.insert(table).values(row | {"id": "01a00000-0000-7000-8000-000000000000"}))


@pytest.mark.parametrize(
    ("overlap", "expected"), [(Overlap.SKIP, 1), (Overlap.QUEUE_ONE, 2), (Overlap.QUEUE_ALL, 4)]
)
def test_what_comes_while_a_run_is_under_way(world, overlap, expected):
    task = scheduled(world, overlap=overlap)
    world.start(task)
    [(_, _)] = world.queue().claim(1)
    for _ in range(3):  # three moments, each on its time
        due(world, task)
        with world.database.begin() as tx:  # as if the earlier ones had been earlier
            tx.run(
                sa.update(tables.run)
                .where(tables.run.c.task == task.id, tables.run.c.fire.is_not(None))
                .values(fire=tables.run.c.fire - 7 * MINUTE)
            )
        world.runs.tick()
    assert len(runs(world, task)) == expected
    if overlap is not Overlap.QUEUE_ALL:
        events, _ = world.runs.events(world.tenant.id, runs(world, task)[-1].id)
        others, _ = world.runs.events(world.tenant.id, runs(world, task)[0].id)
        assert any("the schedule was due" in one.message for one in [*events, *others])


@pytest.mark.parametrize(
    ("missed", "expected"), [(Missed.SKIP, (0, 1)), (Missed.LATEST, (1, 1)), (Missed.ALL, (5, 6))]
)
def test_what_was_missed_while_no_server_ran(world, missed, expected):
    task = scheduled(world, missed=missed, missed_max=50)
    with world.database.begin() as tx:  # every minute between five minutes ago and two
        at = tx.now // MINUTE * MINUTE
        tx.run(
            sa.update(tables.task)
            .where(tables.task.c.id == task.id)
            .values(next_run=at - 5 * MINUTE)
        )
    world.runs.tick()
    assert expected[0] <= len(runs(world, task)) <= expected[1] + 1
    if missed is Missed.LATEST:
        events, _ = world.runs.events(world.tenant.id, runs(world, task)[0].id)
        assert any("were missed" in event.message for event in events)


def test_a_pause_keeps_runs_and_schedules_from_starting(world, caller):
    task, other = scheduled(world, "a"), scheduled(world, "b")
    world.runs.pause(caller, task.id, paused=True)
    due(world, task, 3)
    due(world, other)
    assert world.runs.tick() == 1
    queued = world.start(task)
    [(_, run)] = world.queue().claim(9)
    assert run.task == other.id
    assert (
        world.runs.get(world.tenant.id, queued.id).waiting_for == "the end of the pause of its task"
    )
    world.runs.pause(caller, None, paused=True)
    world.runs.pause(caller, task.id, paused=False)
    assert world.queue().claim(9) == []
    assert (
        world.runs.get(world.tenant.id, queued.id).waiting_for
        == "the end of the pause of everything"
    )
    assert world.runs.tick() == 0
    world.runs.pause(caller, None, paused=False)
    world.runs.pause_server(caller, paused=True)
    assert world.queue().claim(9) == []
    assert world.runs.tick() == 0
    world.runs.pause_server(caller, paused=False)
    assert [run.id for _, run in world.queue().claim(9)] == [queued.id]
    assert world.runs.tick() == 1  # what was missed in the pause is made up for, once
    with pytest.raises(NotFound):
        world.runs.pause(caller, "01a00000-0000-7000-8000-000000000000", paused=True)


def test_a_task_with_many_runs_waiting_holds_up_no_other(world):
    crowded, other = world.task("a"), world.task("b")
    timing = Timing(overlap=Overlap.QUEUE_ALL)
    crowded = world.catalog.change_task(
        world.tenant.id, crowded.id, cron="* * * * *", timing=timing
    )
    with world.database.begin() as tx:
        task = world.catalog.get(Task, world.tenant.id, crowded.id)
        for moment in range(400):
            world.runs._queued(tx, task, Trigger.SCHEDULE, None, fire=moment)
    last = world.start(other)
    claimed = {run.task for _, run in world.queue().claim(10)}
    assert claimed == {crowded.id, other.id}
    assert world.state(last) is RunState.RUNNING
