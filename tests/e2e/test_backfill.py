"""Back-fills by range, and runs that are retried."""

import os

import psycopg
import pytest

from headrace.domain.errors import HeadraceError
from tests.serving import serving


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("backfill") / "data") as running:
        yield running


@pytest.fixture
def table(server, fresh_database):
    """A task with a cursor over a table of ten rows, loaded once, that then lost three of them."""
    client = server.client
    with psycopg.connect(fresh_database, autocommit=True) as con:
        con.execute("create table orders (id int primary key, at timestamptz, note text)")
        con.execute(
            "insert into orders select n, timestamptz '2026-01-01' + n * interval '1 day', 'old'"
            " from generate_series(1, 10) n"
        )
        source = client.add(
            "sources", type="postgresql", name="s",
            input={"url": fresh_database, "table": "orders", "cursor": "at",
                   "uniqueIDColumn": "id"},
        )["id"]  # fmt: skip
        end = client.add(
            "destinations", type="postgresql", name="d",
            input={"url": fresh_database, "schema": "landed"},
        )["id"]  # fmt: skip
        con.execute("create schema landed")
        task = client.add(
            "tasks", source=source, destination=end, action="save", table="orders", key=["id"]
        )["id"]
        run = client.call("POST", f"/v1/tasks/{task}/runs?mode=delta", {})
        assert client.wait(run["id"])["books"]["inserted"] == 10
        con.execute("update orders set note = 'new' where id < 10")  # not the row at the edge
        yield task, con


def landed(con):
    return dict(con.execute("select note, count(*) from landed.orders group by 1").fetchall())


def test_a_back_fill_reads_its_range_and_leaves_the_tasks_place_alone(server, table):
    task, con = table
    client = server.client
    run = client.call(
        "POST", f"/v1/tasks/{task}/runs?from=2026-01-03T00:00:00Z&to=2026-01-06T00:00:00Z", {}
    )
    found = client.wait(run["id"])
    assert found["state"] == "succeeded"
    assert (found["books"]["read"], found["books"]["updated"]) == (3, 3)
    assert landed(con) == {"old": 7, "new": 3}
    con.execute("insert into orders values (11, '2026-02-01', 'new')")
    run = client.call("POST", f"/v1/tasks/{task}/runs?mode=delta", {})
    assert client.wait(run["id"])["books"]["read"] == 1  # it goes on where it was
    run = client.call("POST", f"/v1/tasks/{task}/runs?from=2026-01-09T00:00:00Z", {})
    assert client.wait(run["id"])["books"]["read"] == 4  # from there on


@pytest.mark.parametrize(
    ("query", "says"),
    [("to=2026-01-01", "to needs from"), ("from=2026-01-01&mode=delta", "mode=delta")],
)
def test_a_range_that_cannot_be_says_why(server, table, query, says):
    task, _ = table
    with pytest.raises(HeadraceError, match=says):
        server.client.call("POST", f"/v1/tasks/{task}/runs?{query}", {})


def test_a_value_that_the_cursor_cannot_have_fails_the_run_clearly(server, table):
    task, con = table
    run = server.client.call("POST", f"/v1/tasks/{task}/runs?from=yesterday'; drop table", {})
    found = server.client.wait(run["id"])
    assert found["state"] == "failed"
    assert "invalid input syntax" in found["error"]["message"]
    assert landed(con) == {"old": 10}


def test_files_are_back_filled_by_when_they_were_changed(server):
    client = server.client
    folder = server.data_dir / "files" / "days"
    folder.mkdir()
    for day in (1, 2, 3):
        path = folder / f"{day}.csv"
        path.write_text(f"id\n{day}\n")
        os.utime(path, (1_767_225_600 + day * 86_400,) * 2)  # 2026-01-01 and so many days
    source = client.add("sources", type="csv", name="s", input={"url": f"file://{folder}/*.csv"})
    end = client.add("destinations", type="duckdb", name="d", input={
        "path": f"{server.data_dir}/files/days.duckdb"})["id"]  # fmt: skip
    task, replaces = (
        client.add("tasks", source=source["id"], destination=end, action=action, table="t")["id"]
        for action in ("append", "replace")
    )
    range_ = "from=2026-01-02T00:00:00Z&to=2026-01-03T12:00:00Z"
    run = client.call("POST", f"/v1/tasks/{task}/runs?{range_}", {})
    assert client.wait(run["id"])["books"]["inserted"] == 2
    assert sorted(row["id"] for row in client.rows(end, "t")) == [1, 2]
    with pytest.raises(HeadraceError, match="cannot be back-filled"):
        client.call("POST", f"/v1/tasks/{replaces}/runs?{range_}", {})
    with pytest.raises(HeadraceError, match="must be a moment"):
        client.call("POST", f"/v1/tasks/{task}/runs?from=yesterday", {})
    run = client.call("POST", f"/v1/tasks/{task}/runs?from=2027-01-01T00:00:00Z", {})
    assert client.wait(run["id"])["state"] == "skipped"


def test_a_failed_run_is_retried_as_it_was_started(server):
    client = server.client
    path = server.data_dir / "files" / "later.csv"
    source = client.add("sources", type="csv", name="s", input={"url": f"file://{path}"})["id"]
    end = client.add("destinations", type="duckdb", name="d", input={
        "path": f"{server.data_dir}/files/later.duckdb"})["id"]  # fmt: skip
    task = client.add("tasks", source=source, destination=end, action="append", table="t")["id"]
    first = client.wait(client.start(task)["id"])
    assert first["state"] == "failed"
    path.write_text("id\n1\n")
    again = client.call("POST", f"/v1/runs/{first['id']}/retry", {})
    assert again["trigger"] == "retry"
    found = client.wait(again["id"])
    assert found["state"] == "succeeded"
    assert client.run(first["id"])["state"] == "failed"  # history stays as it was
    with pytest.raises(HeadraceError, match="nothing to retry"):
        client.call("POST", f"/v1/runs/{found['id']}/retry", {})
