"""Breakers on both databases: what is down is left alone, then tried by one run."""

import pytest
import sqlalchemy as sa

from headrace.domain.errors import NotFound
from headrace.domain.resources import Source
from headrace.domain.run import RunState
from headrace.store import breakers, tables

DOWN = {"code": "unavailable", "message": "it is down"}


def due_now(world):
    with world.database.begin() as tx:
        tx.run(sa.update(tables.run).values(not_before=0))


def later(world):
    """As if the breakers had been open for long enough."""
    with world.database.begin() as tx:
        tx.run(sa.update(tables.breaker).values(open_until=1))


def fail(world, queue, times):
    """Have runs meet the source down so often."""
    for _ in range(times):
        due_now(world)
        [(claim, run)] = queue.claim(1)
        queue.retry(claim, run, DOWN, "source")


@pytest.fixture
def scene(world):
    source = world.source()
    runs = [world.start(world.task(f"f{n}", source)) for n in range(3)]
    return world, source, runs


def test_after_some_failures_in_a_row_nobody_tries_for_a_while_then_one_does(scene):
    world, source, runs = scene
    queue = world.queue()
    fail(world, queue, breakers.OPENS_AT - 1)
    due_now(world)
    told = [world.runs.get(world.tenant.id, run.id).waiting_for for run in runs]
    assert told == ["a free worker"] * 3
    fail(world, queue, 1)
    due_now(world)
    assert queue.claim(9) == []
    told = [world.runs.get(world.tenant.id, run.id).waiting_for for run in runs]
    assert all(text.startswith("its source, which is down (it is down)") for text in told)
    other = world.start(world.task("other"))  # of another source
    [(_, run)] = queue.claim(9)
    assert run.id == other.id
    later(world)
    [(claim, _)] = queue.claim(9)
    waiting = [world.runs.get(world.tenant.id, run.id).waiting_for for run in runs]
    assert waiting.count("its source, which was down: another run tries it") == 2
    queue.finish(claim)
    assert len(queue.claim(9)) == 2
    assert world.runs.breakers(world.caller) == []
    assert {world.state(run) for run in runs} == {RunState.SUCCEEDED, RunState.RUNNING}
    assert source


def test_each_failure_that_follows_doubles_the_wait_up_to_a_limit(scene):
    world, source, _ = scene
    waits = []
    for _ in range(12):
        with world.database.begin() as tx:
            breakers.failed(tx, f"source:{source.id}", "down")
            [one] = breakers.known(tx).values()
            waits.append(max(one.open_until - tx.now, 0))
    assert waits[: breakers.OPENS_AT - 1] == [0] * (breakers.OPENS_AT - 1)
    assert waits[breakers.OPENS_AT - 1 :][:3] == [30_000, 60_000, 120_000]
    assert waits[-1] == breakers.OPEN_MAX_MS


def test_who_mends_it_need_not_wait(scene):
    world, source, _ = scene
    queue = world.queue()
    fail(world, queue, breakers.OPENS_AT)
    due_now(world)
    assert queue.claim(9) == []
    world.runs.reset_breaker(world.caller, f"source:{source.id}")
    [(claim, run), *_] = queue.claim(9)
    for name in (f"source:{source.id}", "source:x"):
        with pytest.raises(NotFound):
            world.runs.reset_breaker(world.caller, name)
    queue.retry(claim, run, DOWN, "source")
    fail_more = world.another("other")
    with pytest.raises(NotFound):  # another tenant's is not there
        fail_more.runs.reset_breaker(fail_more.caller, f"source:{source.id}")
    assert fail_more.runs.breakers(fail_more.caller) == []
    world.catalog.change_end(Source, world.tenant.id, source.id, name="mended")
    assert world.runs.breakers(world.caller) == []
