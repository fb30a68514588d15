"""The queue and the clockwork, on SQLite and PostgreSQL, without any rows.

bench/runtime.py                   the bars
bench/runtime.py --short           small numbers; bars are shown, not judged
"""

import argparse
import gc
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import sqlalchemy as sa

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.measure import Bars  # noqa: E402
from tests.postgres import postgres  # noqa: E402
from tests.store.conftest import World  # noqa: E402

from headrace.domain.errors import Conflict  # noqa: E402
from headrace.domain.schedule import Overlap, Timing  # noqa: E402
from headrace.domain.task import Task  # noqa: E402
from headrace.service.queue import Queue  # noqa: E402
from headrace.store import tables  # noqa: E402
from headrace.store.database import Database  # noqa: E402
from headrace.store.migrate import migrate  # noqa: E402

MINUTE = 60_000


def copies(world: World, table: sa.Table, id_: str, count: int, **changed: str) -> None:
    """Make copies of a row in SQL. `changed`: SQL over n, the number of the copy."""
    sqlite = world.database.is_sqlite
    hexed = "printf('%012x', n)" if sqlite else "lpad(to_hex(n), 12, '0')"
    numbers = (
        f"with recursive c(n) as (select 1 union all select n + 1 from c where n < {count})"
        if sqlite
        else f"with c(n) as (select generate_series(1, {count}))"
    )
    changed = {"id": f"'00000000-0000-7000-8000-' || {hexed}"} | changed
    names = ", ".join(f'"{column.name}"' for column in table.c)
    values = ", ".join(changed.get(column.name, f't."{column.name}"') for column in table.c)
    with world.database.begin() as tx:
        tx.con.exec_driver_sql(
            f'{numbers} insert into "{table.name}" ({names}) select {values}'
            f" from c, \"{table.name}\" t where t.id = '{id_}'"
        )
    analyse(world)


def analyse(world: World) -> None:
    with world.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as con:
        con.exec_driver_sql("analyze")


def holder(url: str, name: str) -> None:
    """Claim and finish runs until it is killed: a process of its own, without any work."""
    queue = Queue(Database(url), name, 60_000)
    while True:
        claimed = queue.claim(10)
        for claim, _ in claimed:
            queue.finish(claim)
        if not claimed:
            time.sleep(0.005)


def throughput(world: World, runs: int) -> float:
    """Return runs a second: started one by one, claimed and finished by two other processes."""
    tasks = [world.task(f"f{n}") for n in range(100)]
    for name in ("source", "destination", "tenant"):
        world.limit(name, 100_000)
    url = world.database.url.render_as_string(hide_password=False)
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from bench.runtime import holder; "
    holders = [
        subprocess.Popen([sys.executable, "-c", f"{code}holder({url!r}, 'h{n}')"]) for n in range(2)
    ]
    try:
        for task in tasks[:2]:  # they have imported what they need when these are done
            world.start(task)
        until_idle(world)
        begun = time.perf_counter()
        for number in range(runs):
            start(world, tasks[number % len(tasks)])
        until_idle(world)
        return runs / (time.perf_counter() - begun)
    finally:
        for one in holders:
            one.kill()
            one.wait()


def start(world: World, task: Task) -> None:
    while True:
        try:
            world.start(task)
        except Conflict:  # its last run is still there
            time.sleep(0.0005)
        else:
            return


def until_idle(world: World) -> None:
    going = sa.select(tables.run.c.id).where(tables.run.c.state.in_(["queued", "running"]))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with world.database.read() as tx:
            if tx.first(going.limit(1)) is None:
                return
        time.sleep(0.005)
    raise SystemExit("the runs do not end")


def schedules(world: World, count: int) -> tuple[float, float]:
    """Return the milliseconds of a tick with nothing due, and how many fire in a second."""
    source = world.source()
    task = world.task("scheduled", source)
    task = world.catalog.change_task(
        world.tenant.id, task.id, cron="* * * * *", timing=Timing(overlap=Overlap.QUEUE_ALL)
    )
    copies(world, tables.task, task.id, count)
    with world.database.begin() as tx:
        tx.run(sa.update(tables.task).values(next_run=tx.now + 60 * MINUTE))
    ticks = []
    for _ in range(21):
        begun = time.perf_counter()
        world.runs.tick()
        ticks.append(time.perf_counter() - begun)
    due = min(count, 6_000)
    with world.database.begin() as tx:
        some = sa.select(tables.task.c.id).where(tables.task.c.next_run.is_not(None)).limit(due)
        tx.run(
            sa.update(tables.task)
            .where(tables.task.c.id.in_(some))
            .values(next_run=tx.now // MINUTE * MINUTE)
        )
    fired = 0
    begun = time.perf_counter()
    while fired < due:  # more, where a minute ends meanwhile
        more = world.runs.tick()
        assert more, (fired, due)
        fired += more
    spent = time.perf_counter() - begun
    return statistics.median(ticks) * 1000, fired / spent


def history(world: World, count: int) -> float:
    """Return the milliseconds of a page of runs with so many in history."""
    task = world.task("old")
    run = world.start(task)
    with world.database.begin() as tx:
        tx.run(
            sa.update(tables.run)
            .where(tables.run.c.id == run.id)
            .values(state="succeeded", finished_at=tx.now)
        )
    copies(
        world, tables.run, run.id, count, execution="'00000000-0000-7000-8000-' || n",
        queued_at="t.queued_at - n * 10", finished_at="t.queued_at - n * 10", fire="null",
    )  # fmt: skip
    with world.database.begin() as tx:
        tx.run(sa.update(tables.run_count).values(runs=count + 1))
    pages = []
    for _ in range(7):
        begun = time.perf_counter()
        found, total = world.runs.listed(world.tenant.id)
        pages.append(time.perf_counter() - begun)
        assert len(found) == 50
        assert total >= count
    return statistics.median(pages) * 1000


def memory(world: World, runs: int) -> float:
    """Return by how many MiB this process grows over so many runs, the first tenth left out."""
    process = psutil.Process()
    throughput(world, runs // 10)
    gc.collect()
    before = process.memory_info().rss
    throughput(world, runs)
    gc.collect()
    return (process.memory_info().rss - before) / 2**20


def latency(url: str | None, folder: Path, count: int) -> float:
    """Return the median milliseconds from a call to the start of its run, on a real server."""
    from tests.serving import serving

    with serving(folder / "served", database=url) as server:
        client = server.client
        (server.data_dir / "files" / "x.csv").write_text("id\n1\n")
        source = client.add(
            "sources", type="csv", name="s", input={"url": f"file://{server.data_dir}/files/x.csv"}
        )["id"]
        for number in range(count):
            end = client.add("destinations", type="duckdb", name="d", input={
                "path": str(server.data_dir / "files" / f"{number % 5}.duckdb")})["id"]  # fmt: skip
            task = client.add("tasks", source=source, destination=end, action="replace", table="t")
            time.sleep(0.1)
            client.wait(client.start(task["id"])["id"])
    opened = Database(url or f"sqlite:///{folder / 'served' / 'control.db'}")
    with opened.read() as tx:
        found = tx.all(sa.select(tables.run.c.started_at - tables.run.c.queued_at))
    opened.close()
    return statistics.median(row[0] for row in found)


def measure(name: str, url: str | None, folder: Path, bars: Bars, *, short: bool) -> None:
    bars.begin(f"The queue over {name}")

    def world(part: str) -> World:
        (folder / part).mkdir()
        opened = Database(fresh(url, part) if url else f"sqlite:///{folder / part / 'control.db'}")
        migrate(opened)
        return World(opened, folder / part)

    bar = 30 if url else 120
    own = fresh(url, "latency") if url else None
    bars.hold("enqueue to start, p50", latency(own, folder, 3 if short else 31), bar, "ms")
    rate = throughput(world("throughput"), 50 if short else 5_000)
    bars.least("no-op runs a second", rate, 200, "/s")
    many = 1_000 if short else 100_000
    tick, fires = schedules(world("schedules"), many)
    bars.hold(f"idle tick over {many:,} schedules", tick, 5, "ms")
    bars.least("fires a second", fires, 2_000, "/s")
    many = 5_000 if short else 5_000_000
    page = history(world("history"), many)
    bars.hold(f"page of runs with {many:,} in history", page, 50, "ms")
    many = 50 if short else 20_000
    grown = memory(world("memory"), many)
    bars.hold(f"growth over {many:,} runs", grown, 4, "MiB")


def fresh(url: str, name: str) -> str:
    import psycopg

    with psycopg.connect(url, autocommit=True) as con:
        con.execute(f"drop database if exists bench_{name} with (force)")
        con.execute(f"create database bench_{name}")
    return url.rpartition("/")[0] + f"/bench_{name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    given = parser.parse_args()
    bars = Bars(__file__, judged=not given.short)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name in ("sqlite", "postgresql"):
        if given.only not in (None, name):
            continue
        folder = Path(tempfile.mkdtemp(prefix="headrace-runtime-"))
        try:
            if name == "sqlite":
                measure(name, None, folder, bars, short=given.short)
            else:
                with postgres("fsync=on") as url:
                    measure(name, url, folder, bars, short=given.short)
        finally:
            shutil.rmtree(folder)
    bars.end()


if __name__ == "__main__":
    main()
