"""The queue: claims, fences, leases, limits, deaths; on SQLite and PostgreSQL."""

import threading
import time

import pytest
import sqlalchemy as sa

from headrace.domain.errors import (
    Conflict,
    Invalid,
    LostClaim,
    Misconfigured,
    NotFound,
    Unavailable,
)
from headrace.domain.run import ARROWS, RunState
from headrace.service.queue import DEATHS_MAX, Queue
from headrace.store import tables
from headrace.store.database import Database
from headrace.store.migrate import migrate

RECEIPT = {
    "books": {"inserted": 1, "updated": 0, "read": 1},
    "tables": [],
    "files": [],
    "rules": {},
}


def test_a_run_is_queued_with_its_event_and_the_dispatcher_woken(world):
    run = world.start(world.task())
    events, total = world.runs.events(world.tenant.id, run.id)
    assert (run.state, total, events[0].message) == (RunState.QUEUED, 1, "queued")
    assert world.woken == 1


def test_the_same_idempotency_key_gives_the_same_run_even_from_50_threads(world):
    task = world.task()
    found, errors = [], []

    def ask():
        try:
            found.append(world.start(task, key="k").id)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(found) == 50
    assert len(set(found)) == 1


def test_a_second_start_while_one_is_queued_is_a_conflict(world):
    task = world.task()
    world.start(task)
    with pytest.raises(Conflict):
        world.start(task)


def test_a_disabled_task_does_not_start(world):
    task = world.catalog.change_task(world.tenant.id, world.task().id, enabled=False)
    with pytest.raises(Invalid, match="disabled"):
        world.start(task)


def test_a_claim_has_a_higher_fence_than_every_earlier_one(world):
    queue = world.queue()
    fences = []
    for name in "abc":
        world.start(world.task(name))
        fences += [claim.fence for claim, _ in queue.claim(1)]
    assert fences == sorted(set(fences))
    assert len(fences) == 3


def test_one_run_is_claimed_once_by_many_claimers(world):
    for name in range(6):
        world.start(world.task(f"f{name}"))
    claimed = []

    def claim(number):
        for _ in range(4):
            claimed.extend(run.id for _, run in world.queue(f"h{number}").claim(2))

    threads = [threading.Thread(target=claim, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == len(set(claimed)) == 6


def test_the_database_itself_forbids_two_active_runs_of_a_task(world):
    task = world.task()
    run = world.start(task)
    world.queue().claim(1)
    with pytest.raises(sa.exc.IntegrityError), world.database.begin() as tx:
        row = tx.first(sa.select(tables.run).where(tables.run.c.id == run.id))
        values = row._asdict() | {"id": "another", "idempotency_key": None}
        tx.run(sa.insert(tables.run).values(**values))


def test_a_second_run_for_the_same_file_waits_and_says_so(world):
    first, second = world.start(world.task("same")), world.start(world.task("same"))
    queue = world.queue()
    assert [run.id for _, run in queue.claim(5)] == [first.id]
    waiting = world.runs.get(world.tenant.id, second.id)
    assert waiting.state is RunState.QUEUED
    assert "same.duckdb" in waiting.waiting_for


@pytest.mark.parametrize("kind", ["source", "task", "tenant", "destination"])
def test_limits_hold(world, kind):
    source = world.source()
    runs = [world.start(world.task(f"f{n}", source)) for n in range(3)]
    world.limit(kind, 2 if kind in ("source", "tenant") else 1)
    claimed = world.queue().claim(10)
    assert len(claimed) == (2 if kind in ("source", "tenant") else 3)
    if kind in ("source", "tenant"):
        told = [world.runs.get(world.tenant.id, run.id).waiting_for for run in runs]
        assert [text for text in told if text] == [f"the limit of 2 runs at a time of its {kind}"]


def test_only_the_holder_writes_about_a_run(world):
    run = world.start(world.task())
    old = world.queue("old", lease_ms=1)
    [(stale, _)] = old.claim(1)
    time.sleep(0.05)
    new = world.queue("new")
    new.claim(0)  # buries what has expired
    [(fresh, claimed)] = new.claim(1)
    assert claimed.id == run.id
    for write in (
        lambda: old.advance(stale, "t", RECEIPT, ()),
        lambda: old.finish(stale),
        lambda: old.fail(stale, {"code": "x"}, None, ()),
        lambda: old.cancelled(stale),
        lambda: old.record(stale, ()),
        lambda: old.give_back(stale),
    ):
        with pytest.raises(LostClaim):
            write()
    new.advance(fresh, "t", RECEIPT, ())
    new.finish(fresh)
    assert world.state(run) is RunState.SUCCEEDED


def test_an_expired_lease_writes_nothing_even_if_nobody_else_claimed(world):
    world.start(world.task())
    queue = world.queue(lease_ms=1)
    [(claim, _)] = queue.claim(1)
    time.sleep(0.05)
    with pytest.raises(LostClaim):
        queue.finish(claim)
    assert queue.beat([claim], {}).held == frozenset()


def test_a_beat_renews_carries_progress_up_and_cancel_down(world):
    run = world.start(world.task())
    queue = world.queue()
    [(claim, _)] = queue.claim(1)
    assert queue.beat([claim], {claim: ({"rows": 5}, "a lock")}).held == {run.id}
    seen = world.runs.get(world.tenant.id, run.id)
    assert (seen.progress, seen.waiting_for) == ({"rows": 5}, "a lock")
    world.runs.cancel(world.tenant.id, run.id)
    assert queue.beat([claim], {}).cancelling == {run.id}
    assert world.state(run) is RunState.CANCELLING


def test_a_run_that_its_server_forgot_is_not_kept_alive_by_the_others(world):
    for file in "ab":
        world.start(world.task(file))
    queue = world.queue()
    [(claim, kept)] = queue.claim(1)
    [(_, forgotten)] = world.queue(lease_ms=400).claim(1)  # the same server
    until = time.monotonic() + 10
    while world.state(forgotten) is RunState.RUNNING and time.monotonic() < until:
        assert queue.beat([claim], {}).held == {kept.id}
        queue.claim(0)
        time.sleep(0.05)
    assert world.state(forgotten) is RunState.QUEUED
    assert world.state(kept) is RunState.RUNNING


def test_a_cancelled_run_keeps_its_slot_until_its_work_is_gone(world):
    task = world.task()
    run = world.start(task)
    queue = world.queue()
    [(claim, _)] = queue.claim(1)
    world.runs.cancel(world.tenant.id, run.id)
    with pytest.raises(Conflict):
        world.start(task)
    queue.cancelled(claim)
    assert world.state(run) is RunState.CANCELLED
    world.start(task)


def test_a_queued_run_is_cancelled_at_once_and_twice_is_once(world):
    run = world.start(world.task())
    for _ in range(2):
        assert world.runs.cancel(world.tenant.id, run.id).state is RunState.CANCELLED


def test_a_finished_run_cannot_be_cancelled(world):
    run = world.start(world.task())
    queue = world.queue()
    [(claim, _)] = queue.claim(1)
    queue.advance(claim, "t", RECEIPT, ())
    queue.finish(claim)
    with pytest.raises(Conflict, match="succeeded"):
        world.runs.cancel(world.tenant.id, run.id)


def test_three_deaths_fail_a_run_clearly(world):
    run = world.start(world.task())
    queue = world.queue()
    for death in range(DEATHS_MAX):
        [(claim, claimed)] = queue.claim(1)
        assert claimed.deaths == death
        queue.died(claim, "it was killed")
    seen = world.runs.get(world.tenant.id, run.id)
    assert seen.state is RunState.FAILED
    assert "died repeatedly" in seen.error["message"]


def test_a_down_destination_is_tried_again_with_back_off_then_fails(world):
    run = world.start(world.task())
    queue = Queue(world.database, "h", 60_000, chance=lambda: 0.5)
    [(claim, claimed)] = queue.claim(1)
    at = queue.retry(claim, claimed, {"code": "unavailable", "message": "down"})
    seen = world.runs.get(world.tenant.id, run.id)
    assert seen.state is RunState.QUEUED
    assert at > seen.queued_at
    assert "down" in seen.waiting_for
    assert queue.claim(1) == []  # not before its time


def test_a_server_that_stops_gives_its_runs_back_uncharged(world):
    run = world.start(world.task())
    queue = world.queue()
    [(claim, _)] = queue.claim(1)
    queue.give_back(claim)
    seen = world.runs.get(world.tenant.id, run.id)
    assert (seen.state, seen.deaths) == (RunState.QUEUED, 0)


@pytest.mark.parametrize("how", ["give_back", "retry", "died"])
def test_a_cancelled_run_that_may_have_committed_is_asked_about(world, how):
    run = world.start(world.task())
    queue = world.queue()
    [(claim, claimed)] = queue.claim(1)
    world.runs.cancel(world.tenant.id, run.id)
    match how:
        case "give_back":
            queue.give_back(claim, unsure=True)
        case "retry":
            queue.retry(claim, claimed, {"code": "unavailable", "message": "cut"}, unsure=True)
        case "died":
            queue.died(claim, "it was killed")
    world.runs.cancel(world.tenant.id, run.id)  # again: it changes nothing
    assert world.state(run) is RunState.QUEUED
    with world.database.begin() as tx:
        tx.run(sa.update(tables.run).values(not_before=0))
    [(again, found)] = queue.claim(1)
    assert found.stopping
    assert world.runs.order(found).only_tells
    queue.cancelled(again)
    assert world.state(run) is RunState.CANCELLED


def test_an_advance_that_comes_twice_is_told_once(world):
    run = world.start(world.task())
    queue = world.queue()
    [(claim, _)] = queue.claim(1)
    segment = {"name": "r.jsonl", "rows": 1, "bytes": 2}
    for _ in range(2):
        queue.advance(claim, "t", RECEIPT, [segment])
    events, _ = world.runs.events(world.tenant.id, run.id)
    told = [(event.status, event.rows) for event in events if event.kind == "record"]
    assert told == [("failed", 1), ("succeeded", 1)]


def test_events_are_numbered_without_gaps(world):
    run = world.start(world.task())
    queue = world.queue()
    [(claim, _)] = queue.claim(1)
    queue.advance(claim, "t", RECEIPT, ())
    queue.finish(claim)
    events, total = world.runs.events(world.tenant.id, run.id)
    assert [event.number for event in events] == list(range(1, total + 1))


def test_another_tenants_things_are_not_there(world):
    run = world.start(world.task())
    other = world.access.add_tenant("other", "other-key-0123456789")
    with pytest.raises(NotFound):
        world.runs.get(other.id, run.id)
    with pytest.raises(NotFound):
        world.runs.cancel(other.id, run.id)
    assert world.runs.listed(other.id)[1] == 0


def test_a_database_with_tables_of_others_is_refused_and_left_alone(request, tmp_path):
    for url in (f"sqlite:///{tmp_path / 'x.db'}", request.getfixturevalue("fresh_database")):
        database = Database(url)
        with database.begin() as tx:
            tx.run(sa.text("create table task (mine text)"))
        with pytest.raises(Misconfigured, match="no store of headrace: task"):
            migrate(database)
        with database.read() as tx:
            assert sa.inspect(tx.con).get_table_names() == ["task"]
        database.close()


def test_migrating_twice_changes_nothing(database):
    migrate(database)
    with database.read() as tx:
        assert [row.value for row in tx.all(sa.select(tables.counter.c.value))] == [0, 0]


def test_the_arrows_end_and_every_state_is_reachable():
    reached, todo = set(), [RunState.QUEUED]
    while todo:
        state = todo.pop()
        if state not in reached:
            reached.add(state)
            todo += ARROWS[state]
    assert reached == set(RunState)


def test_the_newest_revision_is_named_and_a_newer_store_is_refused(database):
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    from headrace.store import migrate

    config = Config()
    config.set_main_option("script_location", str(migrate.FOLDER))
    assert ScriptDirectory.from_config(config).get_current_head() == migrate.NEWEST
    migrate.migrate(database)  # again: nothing to do
    with database.begin() as tx:
        tx.run(sa.text("update alembic_version set version_num = '9999'"))
    with pytest.raises(Misconfigured, match="newer headrace"):
        migrate.migrate(database)


def test_a_server_that_is_frozen_in_a_transaction_does_not_hold_up_the_others(
    fresh_database, monkeypatch
):
    monkeypatch.setattr("headrace.store.database.IDLE_MS", 1_000)
    url = fresh_database.replace("postgresql://", "postgresql+psycopg://")
    frozen, other = Database(url), Database(url)
    begun = time.monotonic()
    with pytest.raises(Unavailable), frozen.begin() as tx:
        tx.lock_claims()
        with other.begin() as free:  # it waits for the lock until the frozen one has lost it
            free.lock_claims()
        assert 0.5 < time.monotonic() - begun < 5
        tx.run(sa.text("select 1"))
    frozen.close()
    other.close()


def test_a_run_like_an_earlier_one_makes_no_statement_of_its_own(world):
    """To make one takes several times as long as to run it: the pace of the queue hangs on it."""
    made = {}  # kept, so that no other gets the place of one

    @sa.event.listens_for(world.database.engine, "before_execute")
    def note(_con, statement, *_):
        made[id(statement)] = statement

    queue = world.queue()
    task = world.task()

    def whole():
        world.start(task)
        ((claim, run),) = queue.claim(1)
        queue.beat([claim], {claim: ({"rows": 1}, None)})
        queue.advance(claim, "token", RECEIPT, ())
        queue.finish(claim)
        world.runs.get(world.tenant.id, run.id)

    whole()  # the first run of a task notes its position; later ones change it
    made.clear()
    whole()
    known = set(made)
    assert len(known) > 20
    whole()
    new = [str(made[one]) for one in set(made) - known]
    assert not new
