"""How far a task has read: shown, set and reset."""

import os
import time

import psycopg
import pytest
from typer.testing import CliRunner

from headrace.domain.errors import HeadraceError
from tests.serving import KEY, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("positions") / "data") as running:
        yield running


@pytest.fixture
def table(server, fresh_database):
    """A task with a cursor over a table of ten rows, and a connection to it."""
    client = server.client
    with psycopg.connect(fresh_database, autocommit=True) as con:
        con.execute("create table orders (id int primary key, at timestamptz)")
        con.execute(
            "insert into orders select n, timestamptz '2026-01-01' + n * interval '1 day'"
            " from generate_series(1, 10) n"
        )
        source = client.add(
            "sources", type="postgresql", name="s",
            input={"url": fresh_database, "table": "orders", "cursor": "at"},
        )["id"]  # fmt: skip
        end = client.add(
            "destinations", type="duckdb", name="d",
            input={"path": str(server.data_dir / "files" / f"{source}.duckdb")},
        )["id"]  # fmt: skip
        yield client.add("tasks", source=source, destination=end, action="append", table="orders")[
            "id"
        ]


def delta(server, task):
    run = server.client.call("POST", f"/v1/tasks/{task}/runs?mode=delta", {})
    found = server.client.wait(run["id"])
    assert found["state"] in ("succeeded", "skipped"), found
    return found["books"]["read"] if found["books"] else 0


def test_a_cursor_is_shown_set_and_reset(server, table):
    path = f"/v1/tasks/{table}/position"
    call = server.client.call
    nothing = {"task": table, "cursor": None, "after": None, "files": None, "fileCount": None}
    assert call("GET", path) == nothing
    assert delta(server, table) == 10
    shown = call("GET", path)["cursor"]
    assert shown["column"] == "at"
    assert shown["value"].startswith("2026-01-11")
    assert delta(server, table) == 0
    set_ = {"cursor": {"column": "at", "value": "2026-01-09T00:00:00Z"}}
    assert call("PUT", path, set_)["cursor"] == set_["cursor"]
    assert delta(server, table) == 3  # that of the 9th too
    assert delta(server, table) == 0
    assert call("DELETE", path) is None
    assert call("GET", path) == nothing
    assert delta(server, table) == 10


def test_a_position_that_was_shown_can_be_set_again(server, table):
    path = f"/v1/tasks/{table}/position"
    delta(server, table)
    server.client.call("PUT", path, {"cursor": server.client.call("GET", path)["cursor"]})
    assert delta(server, table) == 1  # the row at the edge: a shown position does not name it


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "cursor"), ({"after": "2026-01-01", "files": {}}, "cursor"),
        ({"after": "yesterday"}, "after"),
        ({"cursor": {"column": "id", "value": "1"}}, "cursor.column"),
    ],
)  # fmt: skip
def test_a_position_that_cannot_be_is_refused(server, table, body, field):
    with pytest.raises(HeadraceError) as error:
        server.client.call("PUT", f"/v1/tasks/{table}/position", body)
    assert error.value.field == field


def test_a_value_that_the_cursor_cannot_have_fails_the_run(server, table):
    given = {"cursor": {"column": "at", "value": "soon"}}
    server.client.call("PUT", f"/v1/tasks/{table}/position", given)
    run = server.client.call("POST", f"/v1/tasks/{table}/runs?mode=delta", {})
    found = server.client.wait(run["id"])
    assert found["state"] == "failed"
    assert "soon" in found["error"]["message"]


@pytest.fixture
def folder(server):
    """A task over a folder of three files, and the folder."""
    client = server.client
    folder = server.data_dir / "files" / f"in{time.monotonic_ns()}"
    folder.mkdir()
    for number in range(3):
        path = folder / f"{number}.csv"
        path.write_text(f"id\n{number}\n")
        os.utime(path, (1_700_000_000, 1_700_000_000 + number * 86_400))
    source = client.add(
        "sources", type="csv", name="s", input={"url": f"file://{folder}/*.csv"}
    )["id"]  # fmt: skip
    end = client.add("destinations", type="duckdb", name="d", input={"path": f"{folder}.duckdb"})
    task = client.add("tasks", source=source, destination=end["id"], action="append", table="t")
    return task["id"], folder


def test_files_are_shown_taken_out_and_put_back(server, folder):
    task, at = folder
    path = f"/v1/tasks/{task}/position"
    assert delta(server, task) == 3
    found = server.client.call("GET", path)
    assert found["fileCount"] == 3
    assert sorted(found["files"]) == [f"{at}/{n}.csv" for n in range(3)]
    del found["files"][f"{at}/1.csv"]
    server.client.call("PUT", path, {"files": found["files"]})
    assert delta(server, task) == 1
    assert server.client.call("GET", path)["fileCount"] == 3


def test_files_from_before_a_moment_count_as_read(server, folder):
    task, _ = folder
    path = f"/v1/tasks/{task}/position"
    server.client.call("PUT", path, {"after": "2023-11-16T00:00:00Z"})
    assert server.client.call("GET", path)["after"] == "2023-11-16T00:00:00Z"
    assert delta(server, task) == 1
    assert delta(server, task) == 0
    assert server.client.call("GET", path)["fileCount"] == 3


def test_a_run_under_way_does_not_move_a_position_that_was_set_meanwhile(server, folder):
    """The run reads three files; before it is done, somebody says that nothing is read."""
    task, at = folder
    (at / "big.csv").write_text("id\n" + "1\n" * 3_000_000)
    run = server.client.call("POST", f"/v1/tasks/{task}/runs?mode=delta", {})
    while server.client.call("GET", f"/v1/runs/{run['id']}")["state"] == "queued":
        time.sleep(0.01)
    server.client.call("PUT", f"/v1/tasks/{task}/position", {"files": {}})
    assert server.client.wait(run["id"])["state"] == "succeeded"
    assert server.client.call("GET", f"/v1/tasks/{task}/position")["fileCount"] == 0


def test_the_command(server, table, monkeypatch):
    from headrace.cli.main import app

    monkeypatch.setenv("HEADRACE_URL", server.client.url)
    monkeypatch.setenv("HEADRACE_KEY", KEY)

    def told(*words):
        found = CliRunner().invoke(app, ["tasks", "position", table, *words])
        return found.exit_code, found.output + (found.stderr or "")

    assert "nothing is read yet" in told()[1]
    delta(server, table)
    assert "read up to at = 2026-01-11" in told()[1]
    assert "at = 2026-01-05" in told("--cursor", "at=2026-01-05")[1]
    assert "has not changed since 2026-01-05T00:00:00Z" in told("--after", "2026-01-05")[1]
    assert "nothing is read yet" in told("--reset")[1]
