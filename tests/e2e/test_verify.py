"""Verifying through a server: a run of its own, that moves no position and starts nothing."""

import psycopg
import pytest
from typer.testing import CliRunner

from headrace.domain.errors import CallerError
from tests.serving import KEY, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("verify") / "data") as running:
        yield running


class Task:
    def __init__(self, server, url, con):
        self.client, self.con, self.url = server.client, con, url
        con.execute("create schema there")
        con.execute("create table orders (id int primary key, v text, at timestamptz)")
        con.execute(
            "insert into orders select n, 'v' || n, timestamptz '2026-01-01' + n * interval '1 s'"
            " from generate_series(1, 2000) n"
        )
        source = self.client.add(
            "sources", type="postgresql", name="s",
            input={"url": url, "table": "orders", "cursor": "at"},
        )["id"]  # fmt: skip
        end = self.client.add(
            "destinations", type="postgresql", name="d", input={"url": url, "schema": "there"}
        )["id"]
        self.id = self.client.add(
            "tasks", source=source, destination=end, action="save", table="orders", key=["id"],
            name=f"orders {source}",
        )["id"]  # fmt: skip
        self.name = f"orders {source}"

    def run(self, path):
        started = self.client.call("POST", f"/v1/tasks/{self.id}/{path}", {})
        return self.client.wait(started["id"])


@pytest.fixture
def task(server, fresh_database):
    with psycopg.connect(fresh_database, autocommit=True) as con:
        made = Task(server, fresh_database, con)
        assert made.run("runs?mode=delta")["state"] == "succeeded"
        yield made


def test_a_run_compares_and_mends(server, task):
    client = server.client
    position = client.call("GET", f"/v1/tasks/{task.id}/position")
    good = client.wait(client.verify(task.id)["id"])
    assert (good["state"], good["kind"], good["error"]) == ("succeeded", "validate", None)
    found = client.receipt(good["id"])["verification"]
    assert (found["same"], found["tableRows"], found["pushed"]) == (True, 2000, True)
    messages = [event["message"] for event in client.events(good["id"])]
    assert "The table is as its source." in messages

    task.con.execute("delete from there.orders where id = 1000")
    task.con.execute("insert into orders values (3000, 'late', '2026-02-01')")
    bad = client.wait(client.verify(task.id)["id"])
    assert (bad["state"], bad["error"]["code"]) == ("failed", "differs")
    found = client.receipt(bad["id"])["verification"]
    assert (found["missing"], found["pending"]) == (1, 1)
    assert found["examples"] == [{"what": "missing", "key": {"id": "1000"}}]

    mended = client.wait(client.verify(task.id, repair=True)["id"])
    assert mended["state"] == "succeeded"
    receipt = client.receipt(mended["id"])
    assert receipt["verification"]["repaired"]
    assert receipt["balanced"]
    assert receipt["books"]["inserted"] >= 1
    assert task.con.execute("select count(*) from there.orders where id = 1000").fetchone() == (1,)
    assert client.call("GET", f"/v1/tasks/{task.id}/position") == position
    # What had come late is the next run's, and that finds it.
    assert task.run("runs?mode=delta")["state"] in ("succeeded", "skipped")
    assert task.con.execute("select count(*) from there.orders").fetchone() == (2001,)
    assert client.wait(client.verify(task.id)["id"])["state"] == "succeeded"


def test_a_failed_comparison_is_tried_again_and_blocks_no_task(server, task):
    client = server.client
    task.con.execute("update there.orders set v = 'x' where id = 5")
    for _ in range(6):  # as many critical failures in a row would block it
        bad = task.run("verify?by=cursor&buckets=10")
        assert bad["state"] == "failed"
    assert client.call("GET", f"/v1/tasks/{task.id}")["enabled"]
    again = client.wait(client.call("POST", f"/v1/runs/{bad['id']}/retry", {})["id"])
    found = client.receipt(again["id"])["verification"]
    assert (found["by"], found["different"]) == ("cursor", 1)


def test_it_starts_nothing_after_it(server, task):
    client = server.client
    task.con.execute("create table more (id int)")
    other = client.add(
        "tasks", source=client.add(
            "sources", type="postgresql", name="m",
            input={"url": task.url, "table": "more"},
        )["id"], destination=client.call("GET", f"/v1/tasks/{task.id}")["destination"],
        action="replace", table="more", name="more",
    )["id"]  # fmt: skip
    client.call("POST", "/v1/triggers", {"name": "t", "task": other, "afterTask": task.id})
    assert task.run("verify")["state"] == "succeeded"
    assert task.run("runs?mode=full")["state"] == "succeeded"
    for _ in range(100):
        found = client.call("GET", f"/v1/runs?task={other}&limit=10")["items"]
        if found:
            break
        client.wait(client.verify(task.id)["id"])
    assert len(found) == 1


def test_what_cannot_be_verified_is_refused_at_once(server, task):
    client = server.client
    index = client.add("destinations", type="search", name="i", input={"indexName": "verify-me"})[
        "id"
    ]
    source = client.call("GET", f"/v1/tasks/{task.id}")["source"]
    searched = client.add("tasks", source=source, destination=index, action="save", key=["id"])
    for id_, told in ((searched["id"], "cannot be compared"), ("nobody", "cannot find task")):
        with pytest.raises(CallerError, match=told):
            client.verify(id_)
    for query in ("buckets=0", "buckets=100000", "by=colour", "repair=perhaps"):
        with pytest.raises(CallerError):
            client.call("POST", f"/v1/tasks/{task.id}/verify?{query}", {})


def test_the_cli_has_a_server_compare(server, task, monkeypatch):
    from headrace.cli.main import app

    monkeypatch.setenv("HEADRACE_URL", server.client.url)
    monkeypatch.setenv("HEADRACE_ADMIN_KEY", KEY)
    runner = CliRunner()
    good = runner.invoke(app, ["tasks", "verify", task.name])
    assert good.exit_code == 0, good.output
    assert "2,000 rows compared with 2,000 · the same" in good.output
    task.con.execute("update there.orders set v = 'x' where id = 5")
    bad = runner.invoke(app, ["tasks", "verify", task.id])
    assert bad.exit_code == 1
    assert "different id = 5" in bad.output
    mended = runner.invoke(app, ["tasks", "verify", task.id, "--repair"])
    assert mended.exit_code == 0, mended.output
    assert "loaded again" in mended.output
