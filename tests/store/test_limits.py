"""Limits, priorities, fairness and what waiting runs say, on both databases."""

import pytest
import sqlalchemy as sa

from headrace.domain.errors import Denied, Invalid, NotFound
from headrace.domain.job import Step
from headrace.domain.principal import Principal, Role
from headrace.domain.run import RunState
from headrace.service.jobs import Jobs
from headrace.service.pools import Pools
from headrace.store import tables


def claimed(world, room=100):
    return [run.id for _, run in world.queue().claim(room)]


def waits(world, run):
    return world.runs.get(world.tenant.id, run.id).waiting_for


def test_runs_of_a_higher_priority_go_first_then_the_oldest(world):
    tasks = [world.task(name) for name in "abc"]
    world.catalog.change_task(world.tenant.id, tasks[1].id, priority=5)
    world.catalog.change_task(world.tenant.id, tasks[0].id, priority=-5)
    runs = [world.start(task) for task in tasks]
    order = [claimed(world, 1)[0] for _ in runs]
    assert order == [runs[1].id, runs[2].id, runs[0].id]
    with pytest.raises(Invalid, match="priority"):
        world.catalog.change_task(world.tenant.id, tasks[0].id, priority=101)


def test_the_least_served_tenant_goes_first_whatever_the_priorities(world):
    crowd = [world.task(f"f{n}") for n in range(6)]
    for task in crowd:
        world.catalog.change_task(world.tenant.id, task.id, priority=100)
        world.start(task)
    other = world.another("other")
    late = [other.start(other.task(f"o{n}")) for n in range(3)]
    first = claimed(world, 2)
    assert late[0].id in first
    assert len({run.id for run in late} & {*first, *claimed(world, 4)}) == 3


def test_a_limit_of_a_pool_holds_over_its_jobs_and_no_others(world):
    pool, other = (Pools(world.database).add(world.caller, name) for name in ("p", "q"))
    jobs = Jobs(world.database, world.runs, lambda: None)
    for owner, names in ((pool, "ab"), (pool, "cd"), (other, "ef")):
        steps = [Step(task=world.task(name).id) for name in names]
        jobs.start(world.caller, jobs.add(world.caller, pool=owner.id, name="j", steps=steps).id)
    world.limit(f"pool:{pool.id}", 3)
    started = claimed(world)
    assert len(started) == 5
    [waiting], _ = world.runs.listed(world.tenant.id, states=[RunState.QUEUED])
    assert waiting.waiting_for == "the limit of 3 runs at a time of its pool"


def test_no_run_of_any_pool_holds_up_none_of_those_of_no_pool(world):
    pool = Pools(world.database).add(world.caller, "p")
    jobs = Jobs(world.database, world.runs, lambda: None)
    steps = [Step(task=world.task(f"f{n}").id) for n in range(5)]
    jobs.start(world.caller, jobs.add(world.caller, pool=pool.id, name="j", steps=steps).id)
    alone = world.start(world.task("alone"))
    world.limit("pool", 0)
    assert claimed(world, 2) == [alone.id]  # however many of the others come before it
    world.limit("pool")
    assert len(claimed(world)) == 5


def test_so_many_runs_of_a_source_start_in_a_minute(world):
    source = world.source()
    runs = [world.start(world.task(f"f{n}", source)) for n in range(3)]
    free = world.start(world.task("free"))
    world.limit(f"source:{source.id}", per_minute=60)
    assert set(claimed(world)) == {runs[0].id, free.id}
    assert waits(world, runs[1]) == "the limit of 60 runs a minute of its source"
    assert claimed(world) == []
    with world.database.begin() as tx:  # a second later
        tx.run(sa.update(tables.run_limit).values(next_at=tables.run_limit.c.next_at - 1000))
    assert claimed(world) == [runs[1].id]


def test_a_limit_that_was_set_outlives_a_pause(world):
    task = world.task()
    world.limit(f"task:{task.id}", 1)
    for paused in (True, False):
        world.runs.pause(world.caller, task.id, paused=paused)
    assert world.runs.limits(world.caller)[f"task:{task.id}"].runs == 1


def test_what_a_run_waits_for_is_true_when_it_is_told(world):
    first, second = world.start(world.task("same")), world.start(world.task("same"))
    assert waits(world, first) == "a free worker"
    queue = world.queue()
    [(claim, _)] = queue.claim(9)
    assert "same.duckdb" in waits(world, second)
    queue.fail(claim, {"code": "x", "message": "x"}, None, ())
    assert waits(world, second) == "a free worker"
    world.limit("server", 0)
    assert waits(world, second) == "the limit of 0 runs at a time of the server"
    assert claimed(world) == []
    world.limit("server")
    assert claimed(world) == [second.id]


@pytest.mark.parametrize(
    ("name", "given", "error"),
    [
        ("nothing", {"most": 1}, Invalid), ("source", {"per_minute": 3}, Invalid),
        ("task:01a00000-0000-7000-8000-000000000000", {"most": 1}, NotFound),
        ("pool:x", {"most": 1}, NotFound), ("server", {"most": -1}, Invalid),
        ("server", {"per_minute": 0}, Invalid),
    ],
)  # fmt: skip
def test_limits_that_cannot_be(world, name, given, error):
    with pytest.raises(error):
        world.limit(name, **given)


def test_another_tenants_limits_are_not_there(world):
    task = world.task()
    world.limit(f"task:{task.id}", 1)
    other = world.another("other")
    assert other.runs.limits(other.caller) == {}
    with pytest.raises(NotFound):
        other.limit(f"task:{task.id}", 2)
    operator = Principal(tenant=world.tenant, role=Role.OPERATOR, key="k", key_id="k")
    with pytest.raises(Denied):
        world.runs.limit(operator, "server", most=1)
    with pytest.raises(Denied):
        world.runs.pause_server(operator, paused=True)
