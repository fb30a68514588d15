"""DELTA: only what has changed since the last run that landed is read; nothing is lost by it."""

import os
import threading
import time
from email.utils import formatdate

import psycopg
import pytest

from tests.serving import serving, website


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("delta") / "data") as found:
        yield found


class Files:
    """A task over a folder of files."""

    def __init__(self, server, name, action="save", **more):
        self.server, self.client = server, server.client
        self.folder = server.data_dir / "files" / name
        self.folder.mkdir()
        self.name = name
        source = self.client.add("sources", type="csv", name="s", input={
            "url": f"file://{self.folder}/*.csv", "uniqueIDColumn": "id"})  # fmt: skip
        self.end = self.client.add(
            "destinations", type="search", name="d", input={"indexName": name}
        )["id"]
        self.source = source["id"]
        self.task = self.client.add(
            "tasks", source=self.source, destination=self.end, action=action, **more
        )["id"]

    def write(self, name, *ids):
        (self.folder / name).write_text("id,n\n" + "".join(f"{one},{name}\n" for one in ids))

    def run(self, mode="delta"):
        query = f"?mode={mode}" if mode else ""
        run = self.client.call("POST", f"/v1/tasks/{self.task}/runs{query}")
        return self.client.wait(run["id"], 60)

    def read(self, mode="delta"):
        run = self.run(mode)
        if run["state"] == "skipped":
            return None
        assert run["state"] == "succeeded", run
        return self.client.call("GET", f"/v1/runs/{run['id']}/receipt")["books"]["read"]

    def ids(self):
        rows = self.client.call("GET", f"/v1/tables/{self.end}/{self.name}/rows?limit=1000")["rows"]
        return {row["objectID"] for row in rows}


def test_only_changed_files_are_read_and_nothing_at_all_is_skipped(server):
    files = Files(server, "changed")
    files.write("a.csv", 1, 2)
    files.write("b.csv", 3)
    assert files.read() == 3  # there was no run before
    assert files.read() is None
    files.write("c.csv", 4)
    assert files.read() == 1
    files.write("a.csv", 1, 2, 5)
    assert files.read() == 3
    assert files.ids() == {"1", "2", "3", "4", "5"}
    assert files.read() is None
    assert files.read("full") == 5
    assert files.read() is None
    # The same size, the same second: another file all the same.
    before = (files.folder / "b.csv").stat()
    files.write("b.csv", 9)
    os.utime(files.folder / "b.csv", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert files.read() == 1


def test_a_replace_reads_everything_when_anything_has_changed(server):
    files = Files(server, "whole", "replace")
    files.write("a.csv", 1)
    files.write("b.csv", 2)
    assert files.read() == 2
    assert files.read() is None
    files.write("b.csv", 3)
    assert files.read() == 2
    assert files.ids() == {"1", "3"}


def test_a_run_that_fails_moves_nothing(server):
    files = Files(server, "failed")
    files.write("a.csv", 1)
    assert files.read() == 1
    files.write("b.csv", 2)
    (files.folder / "c.csv").write_text("id,n\n,x\n")  # a row without its key
    assert files.run()["state"] == "failed"
    (files.folder / "c.csv").unlink()
    assert files.read() == 1
    assert files.ids() == {"1", "2"}


def test_another_source_or_table_is_read_from_the_start(server):
    files = Files(server, "moved")
    files.write("a.csv", 1)
    assert files.read() == 1
    files.client.call("PATCH", f"/v1/sources/{files.source}", {"input": {
        "url": f"file://{files.folder}/*.csv", "uniqueIDColumn": "id", "mapping": {"n": "string"}}})  # fmt: skip
    assert files.read() == 1
    files.client.call("PATCH", f"/v1/destinations/{files.end}", {"input": {"indexName": "moved"}})
    assert files.read() == 1
    assert files.read() is None


@pytest.mark.parametrize("by", ["etag", "date"])
def test_a_url_is_asked_whether_it_has_changed(server, by):
    state = {"version": 1, "body": b"id,n\n1,a\n"}
    asked = []

    def handler(request):
        now = formatdate(1_700_000_000 + state["version"], usegmt=True)
        etag = f'"v{state["version"]}"'
        asked.append(
            (request.headers.get("If-None-Match"), request.headers.get("If-Modified-Since"))
        )
        if etag == request.headers.get("If-None-Match") or now == request.headers.get(
            "If-Modified-Since"
        ):
            request.send_response(304)
            request.end_headers()
            return
        request.send_response(200)
        request.send_header(
            "ETag" if by == "etag" else "Last-Modified", etag if by == "etag" else now
        )
        request.send_header("Content-Length", str(len(state["body"])))
        request.end_headers()
        request.wfile.write(state["body"])

    with website(handler) as url:
        files = Files(server, f"url_{by}")
        files.client.call("PATCH", f"/v1/sources/{files.source}", {"input": {
            "url": f"{url}/a.csv", "uniqueIDColumn": "id"}})  # fmt: skip
        assert files.read() == 1
        assert files.read() is None
        state.update(version=2, body=b"id,n\n1,a\n2,b\n")
        assert files.read() == 2
        assert files.read() is None
        assert files.read("full") == 2
    assert asked[0] == (None, None)
    assert any(one is not None for one in asked[1])
    assert asked[-1] == (None, None)


def test_a_cursor_starts_at_its_date_and_moves(server):
    from tests.contract.test_algolia import Api

    api = Api(server)
    files = Files(server, "cursor")
    files.write("old.csv", 1)
    os.utime(files.folder / "old.csv", (1_600_000_000, 1_600_000_000))
    files.write("new.csv", 2)
    given = {
        "sourceID": files.source,
        "destinationID": files.end,
        "action": "save",
        "cursor": "2024-01-08T16:47:41Z",
    }
    files.task = api("POST", "/2/tasks", given)["taskID"]
    assert files.read(None) == 1
    assert files.ids() == {"2"}
    moved = api("GET", f"/2/tasks/{files.task}")["cursor"]
    assert moved > "2026"
    assert files.read(None) is None
    run = api("GET", f"/1/runs?taskID={files.task}")["runs"][0]
    assert (run["status"], run["reasonCode"]) == ("skipped", "no_events")
    # A file that is moved in with an old date is new all the same.
    files.write("late.csv", 3)
    os.utime(files.folder / "late.csv", (1_600_000_000, 1_600_000_000))
    files.write("new.csv", 2, 4)
    assert files.read(None) == 3
    assert files.ids() >= {"2", "3", "4"}
    api("PUT", f"/2/tasks/{files.task}", {"destinationID": files.end, "action": "save",
                                          "cursor": "2020-01-01T00:00:00Z"})  # fmt: skip
    assert files.read(None) == 4
    assert files.ids() == {"1", "2", "3", "4"}


@pytest.mark.faults
@pytest.mark.parametrize(
    "point", ["child.committed", "server.before_advance", "server.after_advance"]
)
def test_a_kill_around_the_commit_loses_no_file_and_doubles_none(point, tmp_path):
    marker = tmp_path / "happened"
    marker.touch()
    fault = {"HEADRACE_FAULT": point, "HEADRACE_FAULT_ONCE": str(marker), "HEADRACE_LEASE": "1.5"}
    with serving(tmp_path / "data", **fault) as server:
        files = Files(server, "killed", "append")
        files.write("a.csv", 1)
        assert files.read() == 1
        files.write("b.csv", 2)
        marker.unlink()
        run = files.client.call("POST", f"/v1/tasks/{files.task}/runs?mode=delta")["id"]
        until = time.monotonic() + 40
        while not marker.exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(0.5)
        if not server.alive:
            server.start(**fault)
        assert server.client.wait(run, 60)["state"] == "succeeded"
        files.client = server.client
        assert files.read() is None
        files.write("c.csv", 3)
        assert files.read() == 1
        rows = files.client.call("GET", f"/v1/tables/{files.end}/killed/rows?limit=100")["rows"]
        assert sorted(row["id"] for row in rows) == ["1", "2", "3"] or sorted(
            row["id"] for row in rows
        ) == [1, 2, 3]


def test_files_that_come_while_a_run_reads_are_read_by_a_later_one(server):
    files = Files(server, "racing")
    done = threading.Event()
    written = []

    def write():
        for number in range(60):
            files.write(f"f{number}.csv", number)
            written.append(str(number))
            time.sleep(0.01)
        done.set()

    thread = threading.Thread(target=write)
    files.write("first.csv", 1000)
    thread.start()
    while not done.is_set():
        files.run()
    thread.join()
    files.run()
    assert files.ids() == {*written, "1000"}


def test_a_table_is_read_by_its_cursor_and_a_job_of_it_is_skipped(server, fresh_database):
    with psycopg.connect(fresh_database) as con:
        con.execute("create table orders (id int primary key, v text, at timestamptz)")
        con.execute("insert into orders values (1, 'a', now()), (2, 'b', now())")
    client = server.client
    source = client.add("sources", type="postgresql", name="shop", input={
        "url": fresh_database, "table": "orders", "cursor": "at", "uniqueIDColumn": "id"})  # fmt: skip
    assert source["input"]["url"] is None  # sealed
    end = client.add("destinations", type="search", name="d", input={"indexName": "orders"})["id"]
    task = client.add("tasks", source=source["id"], destination=end, action="save", name="orders")[
        "id"
    ]
    pool = client.call("POST", "/v1/pools", {"name": "p"})["id"]
    job = client.call("POST", "/v1/jobs", {"pool": pool, "name": "j", "steps": [{"task": task}]})[
        "id"
    ]

    def run(mode="delta"):
        id_ = client.call("POST", f"/v1/jobs/{job}/executions?mode={mode}")["id"]
        until = time.monotonic() + 30
        while (found := client.call("GET", f"/v1/executions/{id_}"))["finishedAt"] is None:
            assert time.monotonic() < until
            time.sleep(0.05)
        books = client.run(found["steps"][0]["run"])["books"]
        return found["state"], books and books["read"]

    assert run() == ("succeeded", 2)  # there is nothing to go by yet
    assert run() == ("skipped", None)
    with psycopg.connect(fresh_database) as con:
        con.execute("update orders set v = 'B', at = now() where id = 2")
        con.execute("insert into orders select n, 'x', now() from generate_series(3, 5) n")
    assert run() == ("succeeded", 4)
    assert run() == ("skipped", None)
    rows = {row["objectID"]: row["v"] for row in client.rows(end, "orders")}
    assert rows == {"1": "a", "2": "B", "3": "x", "4": "x", "5": "x"}
    assert run("full") == ("succeeded", 5)
    # Another source may mean other rows: everything is read again.
    client.call("PATCH", f"/v1/sources/{source['id']}", {"input": {"overlap": 5}})
    assert run() == ("succeeded", 5)


def test_rows_that_are_written_all_the_while_are_all_read_once(server, fresh_database):
    """Many writers, a delta run again and again: the table that is appended to ends up equal."""
    with psycopg.connect(fresh_database) as con:
        con.execute("create table log (id serial, at timestamptz default clock_timestamp())")
    client = server.client
    source = client.add("sources", type="postgresql", name="log", input={
        "url": fresh_database, "table": "log", "cursor": "at", "overlap": 2})["id"]  # fmt: skip
    end = client.add("destinations", type="duckdb", name="d", input={
        "path": str(server.data_dir / "files" / "log.duckdb")})["id"]  # fmt: skip
    task = client.add("tasks", source=source, destination=end, action="append", table="log")["id"]
    stop = threading.Event()

    def write():
        with psycopg.connect(fresh_database) as con:
            while not stop.is_set():
                for _ in range(20):
                    con.execute("insert into log default values")
                    time.sleep(0.004)  # so that moments of writers interleave before they commit
                con.commit()

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(6):
            run = client.call("POST", f"/v1/tasks/{task}/runs?mode=delta")
            assert client.wait(run["id"], 60)["state"] in ("succeeded", "skipped")
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    run = client.call("POST", f"/v1/tasks/{task}/runs?mode=delta")
    assert client.wait(run["id"], 60)["state"] in ("succeeded", "skipped")
    with psycopg.connect(fresh_database) as con:
        written = [row[0] for row in con.execute("select id from log order by id")]
    assert sorted(row["id"] for row in client.rows(end, "log")) == written
