"""Killed at every named step, for each action, store and destination: nothing lost, nothing twice.

`make test` takes a subset in which (nearly) every pair meets; `make test-faults` takes the whole
product.
"""

import itertools
import os
import time

import psycopg
import pytest

from headrace.domain.errors import HeadraceError
from headrace.observe.faults import POINTS
from tests.algolia_fake import until
from tests.serving import Serving

ACTIONS = ("replace", "save", "partial", "partialNoCreate", "append")
STORES = ("sqlite", "postgresql")
ENDS = ("duckdb", "postgresql", "search")

BEFORE = {"1": "old1", "2": "old2"}  # what the destination holds before the run
COMING = {"2": "new2", "3": "new3"}
AFTER = {
    "replace": {"2": "new2", "3": "new3"},
    "save": {"1": "old1", "2": "new2", "3": "new3"},
    "partial": {"1": "old1", "2": "new2", "3": "new3"},
    "partialNoCreate": {"1": "old1", "2": "new2"},
}


def subset():
    """Every step with every destination; actions and stores take turns so that all pairs meet."""
    for number, (point, end) in enumerate(itertools.product(POINTS, ENDS)):
        yield point, ACTIONS[number % 5], STORES[number % 2], end


EVERY = list(itertools.product(POINTS, ACTIONS, STORES, ENDS))
CASES = EVERY if os.environ.get("HEADRACE_FAULTS") == "all" else list(subset())


def test_the_subset_meets_every_pair_but_step_and_action():
    picked = list(subset())
    assert len(picked) <= 60
    for one, other in ((0, 2), (0, 3), (1, 2), (1, 3), (2, 3)):
        pairs = {(case[one], case[other]) for case in picked}
        assert pairs == {(case[one], case[other]) for case in EVERY}


def settled(server: Serving, run: str, **env: str) -> dict:
    """Wait for a run's end; start the server again whenever it was killed."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if not server.alive:
            server.start(**env)
        try:
            found = server.client.run(run)
        except HeadraceError:
            time.sleep(0.05)
            continue
        if found["state"] in ("succeeded", "failed", "cancelled"):
            return found
        time.sleep(0.05)
    raise AssertionError(f"not settled: {server.client.run(run)}")


def ends_at(end: str, folder, fresh_database: str) -> dict:
    return {
        "duckdb": {"type": "duckdb", "input": {"path": str(folder / "data/files/out.duckdb")}},
        "postgresql": {"type": "postgresql", "input": {"url": fresh_database}},
        "search": {"type": "search", "input": {"indexName": "t"}},
    }[end]


def held(server: Serving, destination: str) -> list[tuple[str, str]]:
    return sorted((str(row["id"]), row["name"]) for row in server.client.rows(destination, "t"))


@pytest.mark.faults
@pytest.mark.parametrize(("point", "action", "store", "end"), CASES)
def test_a_kill_at_any_step_neither_loses_nor_doubles_a_row(
    point, action, store, end, tmp_path, fresh_database
):
    marker = tmp_path / "happened"
    server = Serving(
        tmp_path / "data", database=fresh_database if store == "postgresql" else None,
        env={"HEADRACE_LEASE": "1.5"},
    )  # fmt: skip
    fault = {"HEADRACE_FAULT": point, "HEADRACE_FAULT_ONCE": str(marker)}
    marker.touch()  # no fault while the scene is set
    try:
        server.start(**fault)
        files = tmp_path / "data" / "files"
        for name, rows in (("before", BEFORE), ("coming", COMING)):
            text = "id,name\n" + "".join(f"{key},{value}\n" for key, value in rows.items())
            (files / f"{name}.csv").write_text(text)
        client = server.client
        destination = client.add("destinations", name="d", **ends_at(end, tmp_path, fresh_database))
        tasks = {}
        for name, its_action in (("before", "replace"), ("coming", action)):
            source = client.add(
                "sources", type="csv", name=name,
                input={"url": f"file://{files / name}.csv", "mapping": {"id": "string"}},
            )  # fmt: skip
            key = [] if (name, action) == ("coming", "append") else ["id"]
            tasks[name] = client.add(
                "tasks", source=source["id"], destination=destination["id"], action=its_action,
                table="t", key=key,
            )["id"]  # fmt: skip
        assert client.wait(client.start(tasks["before"])["id"])["state"] == "succeeded"

        marker.unlink()
        try:
            run = client.start(tasks["coming"], key="once")["id"]
        except HeadraceError:  # killed before it could answer: ask again, with the same key
            server.start(**fault)
            run = server.client.start(tasks["coming"], key="once")["id"]
        found = settled(server, run, **fault)
        if point == "server.after_finish":  # the run may be seen to have ended just before the kill
            killed = int(until(lambda: marker.exists() and marker.read_text().strip()))
            until(lambda: server.process.pid != killed or not server.alive)
            if not server.alive:
                server.start(**fault)

        assert marker.exists(), f"{point} was never reached"
        assert found["state"] == "succeeded", found
        expected = (
            sorted([*BEFORE.items(), *COMING.items()])
            if action == "append"
            else sorted(AFTER[action].items())
        )
        assert held(server, destination["id"]) == expected
        books = found["books"]
        landed = books["inserted"] + books["updated"] + books["filtered"]
        assert books["read"] == 2 == landed
        receipt = server.client.call("GET", f"/v1/runs/{run}/receipt")
        assert receipt["balanced"]
        committed = [e for e in server.client.events(run) if e["kind"] == "record"]
        assert len(committed) == 1
        runs = server.client.call("GET", f"/v1/runs?task={tasks['coming']}")
        assert runs["total"] == 1
        with psycopg.connect(fresh_database) as con:  # no stage is left behind
            assert not con.execute(
                "select relname from pg_class where relname like '%headrace\\_stage%'"
            ).fetchall()
    finally:
        server.stop()
