"""For every promise something that breaks it on purpose, and is caught."""

import contextlib
import json
import os
import signal
import sqlite3
import threading
import time

import duckdb
import psycopg
import pytest

from headrace.assembly import work
from headrace.connectors.destinations import duckdb as duckdb_destination
from headrace.connectors.destinations import search as search_destination
from headrace.connectors.sources import csv as csv_source
from headrace.contract.destination import TIDY_EVERY
from headrace.domain.errors import LostClaim, OutsideError, Unbalanced
from headrace.engine.plan import Stopped
from tests.engine import Memory, order
from tests.serving import Serving


@pytest.fixture
def csv_file(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("id,name\n" + "".join(f"{n},n{n}\n" for n in range(50)))
    return path


def duckdb_end(tmp_path):
    return ("duckdb", {"path": str(tmp_path / "out.duckdb")})


def rows(tmp_path):
    with duckdb.connect(str(tmp_path / "out.duckdb"), read_only=True) as con:
        return con.execute("select count(*) from t").fetchone()[0]


@pytest.mark.parametrize("key", [(), ("id",)])
def test_a_reader_that_drops_a_row_turns_the_run_red(tmp_path, csv_file, monkeypatch, key):
    work(order(tmp_path, ("csv", {"url": str(csv_file)}), duckdb_end(tmp_path)), Memory())
    real = csv_source.CsvScan.relation
    monkeypatch.setattr(
        csv_source.CsvScan,
        "relation",
        lambda self, files, *, with_file: (
            f"(from {real(self, files, with_file=with_file)} where c0 <> '7')"
        ),
    )
    with pytest.raises(Stopped) as caught:
        work(
            order(tmp_path, ("csv", {"url": str(csv_file)}), duckdb_end(tmp_path), key=key,
                  failure_threshold=100, fence=2),
            Memory(),
        )  # fmt: skip
    assert isinstance(caught.value.error, Unbalanced)
    assert rows(tmp_path) == 50  # the old table is untouched


def test_a_duckdb_destination_that_swallows_a_row_turns_the_run_red(
    tmp_path, csv_file, monkeypatch
):
    real = duckdb_destination.DuckdbLoad._swap

    def swallow(self, **how):
        counts = real(self, **how)
        self._con.execute(f"delete from {self._table} where id = 3")
        return counts

    monkeypatch.setattr(duckdb_destination.DuckdbLoad, "_swap", swallow)
    with pytest.raises(Stopped) as caught:
        work(order(tmp_path, ("csv", {"url": str(csv_file)}), duckdb_end(tmp_path)), Memory())
    assert isinstance(caught.value.error, Unbalanced)


def test_an_index_that_swallows_a_row_turns_the_run_red(tmp_path, csv_file, monkeypatch):
    real = search_destination.SearchLoad._write_chunk
    monkeypatch.setattr(
        search_destination.SearchLoad,
        "_write_chunk",
        lambda self, chunk, *, with_file: real(self, chunk[1:], with_file=with_file),
    )
    (tmp_path / "data").mkdir()
    with pytest.raises(Stopped) as caught:
        work(
            order(tmp_path, ("csv", {"url": str(csv_file)}), ("search", {"indexName": "i"})),
            Memory(),
        )
    assert isinstance(caught.value.error, Unbalanced)


@pytest.mark.parametrize("end", ["duckdb", "postgresql", "search", "parquet"])
def test_a_stale_fence_is_refused_at_the_destination(tmp_path, csv_file, end, fresh_database):
    """A zombie that comes back after a newer attempt began cannot write, nor can it publish."""
    (tmp_path / "data").mkdir(exist_ok=True)
    ends = {
        "duckdb": duckdb_end(tmp_path), "postgresql": ("postgresql", {"url": fresh_database}),
        "search": ("search", {"indexName": "i"}),
        "parquet": ("parquet", {"path": str(tmp_path / "lake")}),
    }  # fmt: skip
    source = ("csv", {"url": str(csv_file)})
    work(order(tmp_path, source, ends[end], fence=5), Memory())
    with pytest.raises(LostClaim):
        work(order(tmp_path, source, ends[end], fence=4), Memory())


@pytest.mark.parametrize("end", ["postgresql", "search"])
def test_a_zombie_that_has_staged_already_cannot_publish(
    tmp_path, csv_file, end, fresh_database, monkeypatch
):
    (tmp_path / "data").mkdir(exist_ok=True)
    ends = {
        "postgresql": ("postgresql", {"url": fresh_database}),
        "search": ("search", {"indexName": "i"}),
    }
    source = ("csv", {"url": str(csv_file)})
    staged, go_on = threading.Event(), threading.Event()

    class Zombie(Memory):
        def told(self, phase, **more):
            super().told(phase, **more)
            if phase == "committing":
                staged.set()
                go_on.wait(20)

    outcome = []

    def be_a_zombie():
        try:
            work(order(tmp_path, source, ends[end], fence=1), Zombie())
        except (LostClaim, Stopped) as error:
            outcome.append(error)

    thread = threading.Thread(target=be_a_zombie)
    thread.start()
    assert staged.wait(20)
    work(order(tmp_path, source, ends[end], fence=2), Memory())
    go_on.set()
    thread.join()
    assert isinstance(outcome[0], LostClaim), outcome


@pytest.mark.parametrize("end", ["duckdb", "postgresql", "search", "parquet"])
def test_a_commit_is_found_and_told_not_repeated(tmp_path, csv_file, end, fresh_database):
    (tmp_path / "data").mkdir(exist_ok=True)
    ends = {
        "duckdb": duckdb_end(tmp_path), "postgresql": ("postgresql", {"url": fresh_database}),
        "search": ("search", {"indexName": "i"}),
        "parquet": ("parquet", {"path": str(tmp_path / "lake")}),
    }  # fmt: skip
    source = ("csv", {"url": str(csv_file)})
    first = order(tmp_path, source, ends[end], action="append")
    told = work(first, Memory())
    csv_file.unlink()  # nothing is read again
    import msgspec

    again = Memory()
    assert work(msgspec.structs.replace(first, fence=9, attempt=2), again) == told
    assert again.advanced[0][1] == told


@pytest.mark.parametrize("end", ["duckdb", "postgresql", "search"])
def test_notes_of_commits_go_when_nobody_can_ask_for_them(tmp_path, csv_file, end, fresh_database):
    """Those of the last weeks stay: a run that is tried again finds its commit."""
    (tmp_path / "data").mkdir(exist_ok=True)
    ends = {
        "duckdb": duckdb_end(tmp_path), "postgresql": ("postgresql", {"url": fresh_database}),
        "search": ("search", {"indexName": "i"}),
    }  # fmt: skip
    source = ("csv", {"url": str(csv_file)})

    def load(fence):
        return work(order(tmp_path, source, ends[end], fence=fence), Memory())

    def notes(sql=""):
        name = "commits" if end == "search" else "_headrace_commits"
        query = f"select fence from {name} order by fence"
        if end == "postgresql":
            with psycopg.connect(fresh_database) as con:
                con.execute(sql) if sql else None
                return [row[0] for row in con.execute(query)]
        if end == "duckdb":
            with duckdb.connect(ends[end][1]["path"]) as con:
                con.execute(sql) if sql else None
                return [row[0] for row in con.execute(query).fetchall()]
        [path] = (tmp_path / "data" / "indexes").glob("*.db")
        with contextlib.closing(sqlite3.connect(path)) as con, con:
            con.execute(sql) if sql else None
            return [row[0] for row in con.execute(query)]

    for fence in (1, 2):
        load(fence)
    name = "commits" if end == "search" else "_headrace_commits"
    assert notes(f"update {name} set committed_at = '2020-01-01 00:00:00' where fence = 1") == [
        1,
        2,
    ]
    load(3)
    assert notes() == [1, 2, 3]  # not each load looks
    load(TIDY_EVERY)
    assert notes() == [2, 3, TIDY_EVERY]


def test_a_server_that_slept_past_its_lease_is_fenced_off(tmp_path, fresh_database):
    """Two servers on one PostgreSQL; the one that works is stopped, and continued too late."""
    files = tmp_path / "shared" / "files"
    files.mkdir(parents=True)
    (files / "in.csv").write_text("id,name\n" + "".join(f"{n},n{n}\n" for n in range(1000)))
    env = {
        "HEADRACE_LEASE": "1.5", "HEADRACE_SHARED": str(tmp_path / "shared"),
        "HEADRACE_MASTER_KEY": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    }  # fmt: skip
    database = fresh_database
    one = Serving(tmp_path / "one", database=database, env=env)
    two = Serving(tmp_path / "two", database=database, env=env)
    marker = tmp_path / "stopped"
    try:
        one.start(HEADRACE_FAULT="server.before_advance:stop", HEADRACE_FAULT_ONCE=str(marker))
        client = one.client
        source = client.add(
            "sources", type="csv", name="s", input={"url": f"file://{files / 'in.csv'}"}
        )
        end = client.add("destinations", type="postgresql", name="d", input={"url": database})
        task = client.add(
            "tasks", source=source["id"], destination=end["id"], action="append", table="t"
        )
        run = client.start(task["id"])["id"]
        until = time.monotonic() + 30
        while not marker.exists() and time.monotonic() < until:
            time.sleep(0.02)
        assert marker.exists()
        two.start()
        found = two.client.wait(run, 60)
        assert found["state"] == "succeeded"
        assert found["books"]["inserted"] == 1000
        one.process.send_signal(signal.SIGCONT)
        time.sleep(3)
        assert two.client.run(run) == found  # the zombie changed nothing
        with psycopg.connect(database) as con:
            assert con.execute("select count(*) from t").fetchone()[0] == 1000
        committed = [e for e in two.client.events(run) if e["kind"] == "record"]
        assert len(committed) == 1
    finally:
        one.stop()
        two.stop()


def test_a_child_ends_when_its_server_is_killed(tmp_path):
    server = Serving(tmp_path / "data").start()
    try:
        import psutil

        children = psutil.Process(server.process.pid).children()
        assert children
        server.kill()
        _, alive = psutil.wait_procs(children, timeout=3)
        # A zombie has ended; whoever adopted it has only not looked yet.
        assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []
    finally:
        server.stop()


def test_a_store_that_is_gone_is_told_and_comes_back(tmp_path, monkeypatch):
    """A transaction that the disk refuses is an Unavailable, not a crash."""
    from headrace.store.database import Database

    database = Database(f"sqlite:///{tmp_path / 'c.db'}")

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    import sqlalchemy as sa

    sa.event.listen(database.engine, "before_cursor_execute", full)
    with pytest.raises((OutsideError, sqlite3.OperationalError)), database.begin() as tx:
        tx.run(sa.text("select 1"))
    database.close()


def test_a_cancel_while_scanning_stops_and_leaves_the_old_table(tmp_path):
    path = tmp_path / "big.csv"
    with path.open("w") as out:
        out.write("id,name\n")
        for block in range(300):
            out.write("".join(f"{block * 10_000 + n},some name\n" for n in range(10_000)))
        out.write('cut "here"\n')  # so it is read by the tolerant way, which takes seconds
    server = Serving(tmp_path / "data").start(HEADRACE_FILES_ROOTS=str(tmp_path))
    try:
        client = server.client
        end = client.add(
            "destinations", type="duckdb", name="d",
            input={"path": str(tmp_path / "data/files/o.duckdb")},
        )  # fmt: skip
        source = client.add("sources", type="csv", name="s", input={"url": f"file://{path}"})
        task = client.add(
            "tasks",
            source=source["id"],
            destination=end["id"],
            action="replace",
            failureThreshold=1,
        )
        run = client.start(task["id"])["id"]
        until = time.monotonic() + 20
        while client.run(run)["state"] != "running" and time.monotonic() < until:
            time.sleep(0.02)
        client.call("POST", f"/v1/runs/{run}/cancel", {})
        assert client.wait(run, 60)["state"] == "cancelled"
        again = client.start(task["id"])["id"]  # the slot is free
        assert client.wait(again, 60)["books"]["inserted"] == 3_000_000
    finally:
        server.stop()


def test_rejects_are_durable_before_the_commit(tmp_path):
    (tmp_path / "in.csv").write_text("id,n\n1,2\n2,x\n")
    journal = Memory()
    work(
        order(
            tmp_path,
            ("csv", {"url": str(tmp_path / "in.csv"), "mapping": {"n": "integer"}}),
            duckdb_end(tmp_path),
            failure_threshold=60,
        ),
        journal,
    )
    [(_, receipt, (segment,))] = journal.advanced
    kept = (tmp_path / "rejects" / segment.name).read_text().splitlines()
    assert len(kept) == segment.rows == receipt.books.rejected == 1
    assert json.loads(kept[0])["raw"] == "2,x"
    assert os.stat(tmp_path / "rejects" / segment.name).st_size == segment.bytes


def test_a_commit_that_takes_its_time_is_told_of_while_it_lasts(tmp_path, csv_file, monkeypatch):
    """The server ends who says nothing: a long commit would be ended, tried again, and ended."""
    from headrace.connectors.destinations.search import SearchLoad

    real = SearchLoad.commit

    def slow(self, sign):
        time.sleep(1.5)
        return real(self, sign)

    monkeypatch.setattr(SearchLoad, "commit", slow)
    (tmp_path / "data").mkdir(exist_ok=True)
    heard = []

    class Listening(Memory):
        def told(self, phase, **more):
            heard.append((phase, more.get("rows"), time.monotonic()))
            super().told(phase, **more)

    source = ("csv", {"url": str(csv_file)})
    receipt = work(order(tmp_path, source, ("search", {"indexName": "i"})), Listening())
    told = [one for one in heard if one[0] == "committing"]
    assert len(told) >= 3
    assert {rows for _, rows, _ in told} == {receipt.books.inserted}
    assert told[-1][2] - told[0][2] > 0.7
    count = len(heard)
    time.sleep(0.6)
    assert len(heard) == count  # nobody goes on about it
