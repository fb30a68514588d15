"""Retention on both databases: what is old is gone, with all that belongs to it; the rest stays."""

import pytest
import sqlalchemy as sa

from headrace.domain.event import EventKind, NewEvent
from headrace.domain.principal import Principal, Role
from headrace.domain.upload import Form
from headrace.service import retention
from headrace.service.jobs import Jobs
from headrace.service.pools import Pools
from headrace.service.retention import Retention
from headrace.service.uploads import Uploads
from headrace.settings import Settings
from headrace.store import runs, tables
from headrace.store.jobs import ExecutionsAsked

DAY_MS = 86_400_000


@pytest.fixture
def scene(world):
    return Scene(world)


class Scene:
    def __init__(self, world):
        self.world = world
        settings = Settings(data_dir=world.folder)
        self.caller = Principal(tenant=world.tenant, role=Role.ADMIN, key="k", key_id="k")
        self.jobs = Jobs(world.database, world.runs, lambda: None)
        self.pools = Pools(world.database)
        self.uploads = Uploads(
            world.database, world.catalog, world.runs, settings, lambda *_: ["id"]
        )
        world.runs.quarantine.mkdir(exist_ok=True)

    def clean(self, days=10):
        return Retention(self.world.database, self.world.runs, self.uploads, days).clean()

    def ended(self, task, days_ago, *, segment=False):
        """Make a run that ended so many days ago."""
        run = self.world.start(task)
        with self.world.database.begin() as tx:
            at = tx.now - round(days_ago * DAY_MS)
            times = {"queued_at": at, "started_at": at, "finished_at": at, "state": "succeeded"}
            tx.run(sa.update(tables.run).where(tables.run.c.id == run.id).values(**times))
            if segment:
                name = f"{run.id}-1.jsonl"
                (self.world.runs.quarantine / name).write_text("{}\n")
                runs.add_segments(tx, run.id, [{"name": name, "rows": 1, "bytes": 3}])
        return run

    def executed(self, job, days_ago):
        """Make an execution of a job that ended so many days ago."""
        execution = self.jobs.start(self.caller, job.id)
        with self.world.database.begin() as tx:
            at = tx.now - days_ago * DAY_MS
            for table, test in ((tables.run, tables.run.c.execution == execution.id),
                                (tables.execution, tables.execution.c.id == execution.id)):  # fmt: skip
                tx.run(
                    sa.update(table)
                    .where(test)
                    .values(state="succeeded", queued_at=at, finished_at=at)
                )
        return execution

    def there(self):
        with self.world.database.read() as tx:
            return {row.id for row in tx.all(sa.select(tables.run.c.id))}

    def left_over(self):
        """Count rows that belong to a run that is gone."""
        known = sa.select(tables.run.c.id)
        with self.world.database.read() as tx:
            return sum(
                tx.first(sa.select(sa.func.count()).where(column.not_in(known)))[0]
                for column in (tables.event.c.run, tables.event_count.c.run, tables.reject_segment.c.run)
            ) + tx.first(sa.select(sa.func.count()).where(
                tables.alias.c.kind == "run", tables.alias.c.thing.not_in(known)))[0]  # fmt: skip


def test_old_runs_go_with_all_that_belongs_to_them_but_the_newest_of_a_task(scene, monkeypatch):
    monkeypatch.setattr(retention, "EVENTS_AT_ONCE", 7)
    busy, idle = scene.world.task("a"), scene.world.task("b")
    old = [scene.ended(busy, days, segment=True) for days in (30, 20, 11)]
    young = scene.ended(busy, 5, segment=True)
    only = scene.ended(idle, 300)
    with scene.world.database.begin() as tx:
        for number in range(20):
            runs.add_event(
                tx, old[0].id, NewEvent(kind=EventKind.LOG, status=None, message=f"{number}")
            )
    assert scene.clean() == 3
    assert scene.there() == {young.id, only.id}
    assert scene.left_over() == 0
    assert [path.name for path in scene.world.runs.quarantine.iterdir()] == [f"{young.id}-1.jsonl"]
    assert scene.clean() == 0
    assert scene.clean(days=0) == 0  # for ever


def test_runs_that_have_not_ended_stay_however_old(scene):
    task = scene.world.task()
    scene.ended(task, 40)
    waiting = scene.world.start(task)
    with scene.world.database.begin() as tx:
        table = tables.run
        tx.run(
            sa.update(table).where(table.c.id == waiting.id).values(queued_at=1000, not_before=1000)
        )
    scene.clean()
    assert waiting.id in scene.there()


def test_an_execution_goes_whole_and_the_newest_of_a_job_stays(scene):
    tasks = [scene.world.task(name) for name in "ab"]
    pool = scene.pools.add(scene.caller, "p")
    from headrace.domain.job import Step

    job = scene.jobs.add(
        scene.caller, pool=pool.id, name="j", steps=[Step(task=task.id) for task in tasks]
    )
    made = []
    for days in (40, 30, 2):
        execution = scene.executed(job, days)
        made.append(execution.id)
    assert scene.clean() == 4
    left = [one.id for one in scene.jobs.executions(scene.caller)]
    assert left == [made[2]]
    assert len(scene.jobs.runs_of(scene.jobs.execution(scene.caller, made[2]))) == 2
    assert scene.left_over() == 0


def test_uploads_that_nobody_started_go_with_their_files(scene):
    pool = scene.pools.add(scene.caller, "p")
    form = Form(replaces=True, format="csv", types={}, options={})
    old, young = (
        scene.uploads.add(scene.caller, pool.id, table="t", form=form, extra={}) for _ in range(2)
    )
    for one in (old, young):
        path = scene.uploads.incoming(scene.caller, pool.id, one.id, deletes=False)
        path.write_text("id\n1\n")
        scene.uploads.keep(scene.caller, pool.id, one.id, path, deletes=False, size=5, checksum="x")
    with scene.world.database.begin() as tx:
        tx.run(sa.update(tables.upload).where(tables.upload.c.id == old.id).values(updated_at=1000))
    scene.clean()
    assert [one.id for one, _ in scene.uploads.listed(scene.caller, pool.id)] == [young.id]
    assert [path.name for path in scene.uploads.folder.iterdir()] == [young.id]


def test_the_audit_log_is_kept_as_long_as_is_said(scene):
    world = scene.world
    world.limit("server", 5)
    with world.database.begin() as tx:
        tx.run(sa.update(tables.audit).values(at=tables.audit.c.at - 20 * DAY_MS))
    world.limit("server", 6)

    def deeds():
        with world.database.read() as tx:
            return len(tx.all(sa.select(tables.audit)))

    scene.clean()
    assert deeds() == 2  # for ever
    Retention(world.database, world.runs, scene.uploads, 10, 10).clean()
    assert deeds() == 1


def test_however_many_executions_are_old_they_go_at_once(scene, monkeypatch):
    monkeypatch.setattr(retention, "AT_ONCE", 2)
    from headrace.domain.job import Step

    task = scene.world.task("a")
    pool = scene.pools.add(scene.caller, "p")
    job = scene.jobs.add(scene.caller, pool=pool.id, name="j", steps=[Step(task=task.id)])
    for days in range(40, 33, -1):
        execution = scene.executed(job, days)
    scene.ended(task, 1)  # newer than the job's: it is not what keeps the runs of the newest
    assert scene.clean() == 6
    [left] = scene.jobs.executions(scene.caller, ExecutionsAsked(alone=False))
    assert left.id == execution.id
    assert len(scene.jobs.runs_of(left)) == 1
