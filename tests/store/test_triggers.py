"""Triggers on both databases: a cause starts its thing once; what cannot be started says why."""

import threading

import sqlalchemy as sa

from headrace.domain.errors import TooMany
from headrace.domain.resources import Source
from headrace.domain.run import RunState
from headrace.service.jobs import Jobs
from headrace.service.triggers import Triggers
from headrace.store import tables


def scene(world):
    jobs = Jobs(world.database, world.runs, lambda: None)
    return Triggers(world.database, world.runs, jobs)


def succeed(world, task):
    run = world.start(task)
    queue = world.queue()
    [claim] = [claim for claim, one in queue.claim(9) if one.id == run.id]
    queue.finish(claim)


def runs(world, task):
    return world.runs.listed(world.tenant.id, task=task.id)[0]


def test_many_tickers_start_what_a_cause_says_once(world):
    triggers = scene(world)
    first, second = world.task("a"), world.task("b")
    triggers.add(world.caller, name="t", task=second.id, after_task=first.id)
    succeed(world, first)
    threads = [threading.Thread(target=triggers.tick) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs(world, second)) == 1
    assert triggers.tick() == 0


def test_what_cannot_be_started_says_why_and_holds_up_no_other(world):
    triggers = scene(world)
    first, off, on = world.task("a"), world.task("b"), world.task("c")
    for task in (off, on):
        triggers.add(world.caller, name="t", task=task.id, after_task=first.id)
    world.catalog.change_task(world.tenant.id, off.id, enabled=False)
    succeed(world, first)
    triggers.tick()
    assert (len(runs(world, off)), len(runs(world, on))) == (0, 1)
    problems = {one.task: one.problem for one in triggers.listed(world.caller)}
    assert "disabled" in problems[off.id]
    assert problems[on.id] is None


def test_two_causes_while_one_waits_are_one_run(world):
    triggers = scene(world)
    first, second = world.task("a"), world.task("b")
    triggers.add(world.caller, name="t", task=second.id, after_task=first.id)
    for _ in range(2):
        run = world.start(first)
        queue = world.queue()
        world.runs.pause(world.caller, second.id, paused=True)
        [(claim, _)] = queue.claim(9)
        queue.finish(claim)
        triggers.tick()
        assert world.state(run) is RunState.SUCCEEDED
    assert [one.state for one in runs(world, second)] == [RunState.QUEUED]


def test_a_tenant_whose_queue_is_full_holds_up_no_other_and_loses_no_start(world, monkeypatch):
    other = world.another("other")
    triggers = scene(world)
    pairs = [(one, one.task(f"{n}a"), one.task(f"{n}b")) for n, one in enumerate((world, other))]
    for one, first, second in pairs:
        triggers.add(one.caller, name="t", task=second.id, after_task=first.id)
        succeed(one, first)
    judge = world.runs.judge_queue

    def is_full(tx, tenant):
        if tenant == world.tenant.id:
            raise TooMany("full")
        judge(tx, tenant)

    monkeypatch.setattr(world.runs, "judge_queue", is_full)
    triggers.tick()
    assert [len(runs(one, second)) for one, _, second in pairs] == [0, 1]
    monkeypatch.undo()
    triggers.tick()
    assert [len(runs(one, second)) for one, _, second in pairs] == [1, 1]


def test_files_that_come_while_nothing_can_start_are_not_forgotten(world):
    triggers = scene(world)
    folder = world.folder / "files" / "in"
    folder.mkdir()
    source = world.catalog.add_end(
        Source, world.tenant.id, type_="csv", name="s", given={"url": f"file://{folder}/*.csv"}
    )
    task = world.task("a", source)
    triggers.add(world.caller, name="t", task=task.id, source=source.id, every_s=1)

    def look():
        with world.database.begin() as tx:
            tx.run(sa.update(tables.trigger).values(look_at=0))
        return triggers.look()

    look()
    (folder / "new.csv").write_text("id\n1\n")
    world.catalog.change_task(world.tenant.id, task.id, enabled=False)
    assert [look() for _ in range(3)] == [0, 0, 0]
    assert "disabled" in triggers.listed(world.caller)[0].problem
    world.catalog.change_task(world.tenant.id, task.id, enabled=True)
    assert [look() for _ in range(2)] == [1, 0]
    assert triggers.listed(world.caller)[0].problem is None
    assert len(runs(world, task)) == 1
