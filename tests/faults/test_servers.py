"""Several servers over one PostgreSQL: real processes, stopped, frozen, killed, cut off."""

import base64
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import psycopg
import pytest

from headrace.domain.errors import HeadraceError
from tests.algolia_fake import until
from tests.faults.test_pushes import Pusher
from tests.serving import KEY, Serving, send, website

MASTER = base64.b64encode(bytes(range(32))).decode()


class Cluster:
    """Servers over one database, with a shared folder; each has a data folder of its own."""

    def __init__(self, folder, database):
        self.folder = folder
        self.database = database
        self.servers = []

    def server(self, name, *, start=True, **env):
        env = {
            "HEADRACE_MASTER_KEY": MASTER, "HEADRACE_SHARED": str(self.folder / "shared"),
            "HEADRACE_LEASE": "1.5", "HEADRACE_FILES_ROOTS": str(self.folder / "files"),
        } | env  # fmt: skip
        made = Serving(self.folder / name, database=self.database, env=env)
        self.servers.append(made)
        return made.start() if start else made

    def stop(self):
        for server in self.servers:
            server.stop()


@pytest.fixture
def cluster(tmp_path, fresh_database):
    (tmp_path / "files").mkdir()
    made = Cluster(tmp_path, fresh_database)
    yield made
    made.stop()


class Shop:
    """A website's CSV into PostgreSQL: nothing of it lies on a server's disk."""

    def __init__(self, client, url, target):
        self.client = client
        self.url = url
        self.end = client.add("destinations", type="postgresql", name="d", input={"url": target})

    def task(self, table, action="append", **more):
        source = self.client.add(
            "sources", type="csv", name="s",
            input={"url": f"{self.url}/{table}", "mapping": {"id": "string"}},
        )  # fmt: skip
        return self.client.add(
            "tasks", source=source["id"], destination=self.end["id"], action=action, table=table,
            **more,
        )["id"]  # fmt: skip


@pytest.fixture
def slow_site():
    """A website whose body comes when it is let; `calls` counts who asked."""
    site = SimpleNamespace(free=threading.Event(), calls=[])

    def answer(request):
        site.calls.append(request.path)
        if request.path.startswith("/slow"):
            site.free.wait(30)
        send(request, b"id,name\n1,a\n2,b\n")

    with website(answer) as url:
        site.url = url
        yield site
        site.free.set()


def rows(database, table):
    with psycopg.connect(database) as con:
        return con.execute(f'select count(*), count(distinct id) from public."{table}"').fetchone()


def ended(client, run, seconds=30):
    return until(
        lambda: (
            found if (found := client.run(run))["state"] in ("succeeded", "failed") else None
        ), seconds,
    )  # fmt: skip


@pytest.mark.faults
def test_a_frozen_server_that_thaws_writes_nothing(cluster, slow_site, fresh_database):
    first = cluster.server("one", HEADRACE_WORKERS="1")
    shop = Shop(first.client, slow_site.url, fresh_database)
    task = shop.task("slow")
    run = first.client.start(task)["id"]
    until(lambda: "/slow" in slow_site.calls)
    children = [int(pid) for pid in subprocess.check_output(
        ["ps", "-o", "pid=", "--ppid", str(first.process.pid)], text=True).split()]  # fmt: skip
    for pid in (first.process.pid, *children):
        os.kill(pid, signal.SIGSTOP)
    second = cluster.server("two")
    until(lambda: len(slow_site.calls) >= 2)  # the lease is over: it was claimed again
    slow_site.free.set()
    found = ended(second.client, run)
    assert found["state"] == "succeeded"
    assert found["attempt"] == 2
    for pid in (*children, first.process.pid):
        os.kill(pid, signal.SIGCONT)
    time.sleep(3)  # the zombie's child has the whole body, and tries to commit
    assert rows(fresh_database, "slow") == (2, 2)
    again = second.client.run(run)
    assert again == found
    assert first.client.run(run) == found
    events = second.client.events(run)
    assert [one["status"] for one in events if one["kind"] == "record"] == ["succeeded"]


@pytest.mark.faults
def test_a_server_that_is_killed_leaves_its_runs_to_the_others(cluster, slow_site, fresh_database):
    first = cluster.server("one")
    shop = Shop(first.client, slow_site.url, fresh_database)
    run = first.client.start(shop.task("slow"))["id"]
    until(lambda: slow_site.calls)
    second = cluster.server("two")
    first.kill()
    slow_site.free.set()
    found = ended(second.client, run)
    assert (found["state"], found["attempt"]) == ("succeeded", 2)
    assert rows(fresh_database, "slow") == (2, 2)


def test_roles_share_the_work_and_wake_each_other(cluster, slow_site, fresh_database):
    api = cluster.server("api", HEADRACE_ROLE="api")
    shop = Shop(api.client, slow_site.url, fresh_database)
    run = api.client.start(shop.task("quick"))["id"]
    time.sleep(1)
    assert api.client.run(run)["state"] == "queued"  # nobody works yet
    # One that looks every three seconds only: what it does sooner it was woken for.
    seldom = cluster.folder / "seldom"
    seldom.mkdir()
    (seldom / "sitecustomize.py").write_text(
        "from headrace.runtime import dispatcher\ndispatcher.POLL_S = 3.0\n"
    )
    cluster.server(
        "worker", HEADRACE_ROLE="dispatcher", HEADRACE_LEASE="30", PYTHONPATH=str(seldom)
    )
    ticker = cluster.server("ticker", HEADRACE_ROLE="ticker")
    assert ended(api.client, run)["state"] == "succeeded"
    waits = []
    for _ in range(10):
        task = shop.task("quick")
        begun = time.monotonic()
        run = api.client.start(task)["id"]
        until(lambda run=run: api.client.run(run)["state"] != "queued")
        waits.append(time.monotonic() - begun)
        ended(api.client, run)
        time.sleep(0.3)  # what its end wakes is asleep again
    assert sorted(waits)[5] < 1.0
    found = api.client.call("GET", "/v1/servers")["items"]
    assert sorted(one["roles"] for one in found) == [["api"], ["dispatcher"], ["ticker"]]
    assert all(one["alive"] for one in found)
    pool = api.client.call("POST", "/v1/pools", {"name": "p"})["id"]
    steps = [{"task": shop.task("a")}, {"task": shop.task("b")}]
    steps[1]["after"] = [steps[0]["task"]]
    job = api.client.call("POST", "/v1/jobs", {"pool": pool, "name": "j", "steps": steps})["id"]
    execution = api.client.call("POST", f"/v1/jobs/{job}/executions")["id"]
    done = until(
        lambda: (
            found
            if (found := api.client.call("GET", f"/v1/executions/{execution}"))["finishedAt"]
            else None
        )
    )  # fmt: skip
    assert done["state"] == "succeeded"
    ticker.stop()
    until(lambda: not [o for o in api.client.call("GET", "/v1/servers")["items"]
                       if o["roles"] == ["ticker"] and o["alive"]], 10)  # fmt: skip


def test_what_lies_on_a_servers_disk_is_done_and_read_by_that_server(cluster):
    one, two = cluster.server("one"), cluster.server("two")
    (cluster.folder / "files" / "x.csv").write_text("id,name\n1,a\n2,b\n3,x\n")
    source = one.client.add(
        "sources", type="csv", name="s", input={"url": f"file://{cluster.folder}/files/x.csv"}
    )
    end = one.client.add(
        "destinations", type="duckdb", name="d", input={"path": f"{one.data_dir}/files/own.duckdb"}
    )
    task = one.client.add(
        "tasks", source=source["id"], destination=end["id"], action="replace", table="t"
    )["id"]
    assert source["server"] == end["server"] is not None
    for _ in range(3):  # started by the other, done by the owner
        run = two.client.start(task)["id"]
        assert ended(two.client, run)["state"] == "succeeded"
    assert [row["name"] for row in two.client.rows(end["id"], "t")] == ["a", "b", "x"]
    with pytest.raises(HeadraceError, match="no table 'nothing'"):
        list(two.client.rows(end["id"], "nothing"))
    elsewhere = two.client.add(
        "destinations", type="duckdb", name="d", input={"path": f"{two.data_dir}/files/x.duckdb"}
    )
    with pytest.raises(HeadraceError, match="different servers"):
        two.client.add("tasks", source=source["id"], destination=elsewhere["id"], action="replace")
    one.kill()
    run = two.client.start(task)["id"]
    with psycopg.connect(cluster.database, autocommit=True) as con:  # as if half a minute went by
        con.execute("update server set seen_at = seen_at - 60000 where id = %s", [end["server"]])
    waits = two.client.run(run)["waitingFor"]
    assert waits.startswith("the server ")
    assert waits.endswith("on whose disk its files lie")
    with pytest.raises(HeadraceError, match="is not running"):
        list(two.client.rows(end["id"], "t"))
    one.start()
    assert ended(two.client, run)["state"] == "succeeded"


def test_an_embedded_index_is_searched_and_pushed_to_through_any_server(cluster):
    one, two = cluster.server("one"), cluster.server("two")
    _, task = Pusher(one).index("songs")
    told = Pusher(two).push(
        task, "addObject", *({"objectID": f"{n}", "title": f"song {n}"} for n in range(3))
    )
    Pusher(two).event(told)
    for server in (one, two):
        pusher = Pusher(server)
        found = pusher.call("POST", "/1/indexes/songs/query", {"query": "song", "hitsPerPage": 2})
        assert (found["nbHits"], len(found["hits"])) == (3, 2)
        found = pusher.call("POST", "/1/indexes/*/queries", {
            "requests": [{"indexName": "songs", "query": "2"}]})  # fmt: skip
        assert [hit["objectID"] for hit in found["results"][0]["hits"]] == ["2"]
        assert len(pusher.call("POST", "/1/indexes/songs/browse", {})["hits"]) == 3
        assert pusher.call("GET", "/1/indexes/songs/1")["title"] == "song 1"
        asked = [{"indexName": "songs", "objectID": id_} for id_ in ("0", "none")]
        found = pusher.call("POST", "/1/indexes/*/objects", {"requests": asked})["results"]
        assert [one and one["title"] for one in found] == ["song 0", None]
        assert "does not exist" in pusher.call("GET", "/1/indexes/songs/no", status=404)["message"]
        pusher.call("POST", "/1/indexes/other/query", {"query": "x"}, status=404)


def test_rejected_rows_are_seen_by_every_server(cluster, slow_site, fresh_database):
    one = cluster.server("one")
    shop = Shop(one.client, slow_site.url, fresh_database)
    source = one.client.add(
        "sources", type="csv", name="s",
        input={"url": f"{slow_site.url}/x", "mapping": {"name": "integer"}},
    )  # fmt: skip
    task = one.client.add(
        "tasks", source=source["id"], destination=shop.end["id"], action="append", table="r",
        failureThreshold=100,
    )["id"]  # fmt: skip
    run = one.client.start(task)["id"]
    assert ended(one.client, run)["state"] == "succeeded"
    one.stop()
    two = cluster.server("two")
    found = two.client.call("GET", f"/v1/runs/{run}/rejects")
    assert [row["raw"] for row in found["items"]] == ["1,a", "2,b"]


def refused(server):
    """Start a server that does not come up; return what it says."""
    with pytest.raises(AssertionError, match="did not start"):
        server.start()
    return server.log.read_text()


def test_servers_that_cannot_work_together_are_refused(cluster):
    one = cluster.server("one")
    assert "HEADRACE_SHARED" in refused(cluster.server("two", start=False, HEADRACE_SHARED=""))
    other = str(cluster.folder / "other")
    assert "HEADRACE_SHARED" in refused(cluster.server("three", start=False, HEADRACE_SHARED=other))
    key = base64.b64encode(bytes(32)).decode()
    said = refused(cluster.server("four", start=False, HEADRACE_MASTER_KEY=key))
    assert "another master key" in said
    assert "Traceback" not in said
    refused(Serving(one.data_dir, database=cluster.database, env=one.env))  # the same data folder
    assert one.alive


def test_two_servers_over_one_sqlite_file_are_refused(tmp_path):
    url = f"sqlite:///{tmp_path / 'both.db'}"
    one = Serving(tmp_path / "one", database=url)
    one.start()
    try:
        said = refused(Serving(tmp_path / "two", database=url))
        assert "Another headrace serves over" in said
    finally:
        one.stop()


def test_a_server_that_is_asked_to_stop_lets_its_runs_end(cluster, slow_site, fresh_database):
    one = cluster.server("one", HEADRACE_DRAIN="30")
    shop = Shop(one.client, slow_site.url, fresh_database)
    run = one.client.start(shop.task("slow"))["id"]
    until(lambda: slow_site.calls)
    one.process.terminate()
    time.sleep(1)
    assert one.alive
    slow_site.free.set()
    one.process.wait(10)
    two = cluster.server("two")
    found = two.client.run(run)
    assert (found["state"], found["attempt"]) == ("succeeded", 1)


def test_what_does_not_end_in_time_is_given_back_uncharged(cluster, slow_site, fresh_database):
    one = cluster.server("one", HEADRACE_DRAIN="0.2")
    shop = Shop(one.client, slow_site.url, fresh_database)
    run = one.client.start(shop.task("slow"))["id"]
    until(lambda: slow_site.calls)
    one.stop()
    slow_site.free.set()
    two = cluster.server("two")
    found = ended(two.client, run)
    assert (found["state"], found["attempt"]) == ("succeeded", 1)
    assert rows(fresh_database, "slow") == (2, 2)


def test_a_run_that_only_a_newer_server_understands_is_left_to_it(
    cluster, slow_site, fresh_database
):
    """Two versions over one database: the older leaves alone what it does not know."""
    one = cluster.server("one")
    shop = Shop(one.client, slow_site.url, fresh_database)
    one.client.call("POST", "/v1/server/pause")
    run = one.client.start(shop.task("quick"))["id"]
    with psycopg.connect(cluster.database, autocommit=True) as con:
        con.execute("update run set format = format + 1 where id = %s", [run])
    one.client.call("POST", "/v1/server/resume")
    time.sleep(1.5)
    found = one.client.run(run)
    assert (found["state"], found["waitingFor"]) == ("queued", "a newer server")
    with psycopg.connect(cluster.database, autocommit=True) as con:
        con.execute("update run set format = format - 1 where id = %s", [run])
    assert ended(one.client, run)["state"] == "succeeded"


def test_many_start_on_an_empty_database_at_once(tmp_path, fresh_database):
    cluster = Cluster(tmp_path, fresh_database)
    (tmp_path / "files").mkdir()
    servers = [cluster.server(f"s{n}", start=False) for n in range(3)]
    logs = [(tmp_path / f"{n}.log").open("wb") for n in range(3)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "headrace", "serve", "--port", "0", "--data-dir",
             str(server.data_dir), "--database", fresh_database],
            env=os.environ | server.env | {"HEADRACE_ADMIN_KEY": KEY},
            stdout=log, stderr=subprocess.STDOUT,
        )
        for server, log in zip(servers, logs, strict=True)
    ]  # fmt: skip
    try:
        for n in range(3):
            until(lambda n=n: "listens on" in (tmp_path / f"{n}.log").read_text())
    finally:
        for process in processes:
            process.terminate()
            process.wait(20)
        for log in logs:
            log.close()


def test_a_folder_on_one_servers_disk_is_watched_by_that_server(cluster, fresh_database):
    """Whatever its role: the tickers cannot see it."""
    worker = cluster.server("worker", HEADRACE_ROLE="api,dispatcher")
    cluster.server("ticker", HEADRACE_ROLE="ticker")
    folder = worker.data_dir / "files"
    client = worker.client
    source = client.add("sources", type="csv", name="s", input={"url": f"file://{folder}/*.csv"})
    end = client.add("destinations", type="postgresql", name="d", input={"url": fresh_database})
    task = client.add(
        "tasks", source=source["id"], destination=end["id"], action="append", table="t"
    )["id"]
    client.call(
        "POST", "/v1/triggers", {"name": "t", "source": source["id"], "task": task, "every": 1}
    )
    time.sleep(2.5)
    (folder / "new.csv").write_text("id\n1\n")
    [run] = until(lambda: client.call("GET", f"/v1/runs?task={task}")["items"])
    assert ended(client, run["id"])["state"] == "succeeded"
    assert rows(fresh_database, "t") == (1, 1)
