"""A cancel at every stage: nothing landed and it says cancelled, or all landed and it says so."""

import os
import time

import pytest

from headrace.observe.faults import POINTS
from tests.algolia_fake import until
from tests.serving import serving

STEPS = [point for point in POINTS if point.startswith("child.")]
ENDS = ("duckdb", "postgresql", "search")
LONG = os.environ.get("HEADRACE_FAULTS") == "all"
SHORT = (
    "child.started",
    "child.staged",
    "child.before_commit",
    "child.in_commit",
    "child.committed",
)
STOPPED = [
    (step, ENDS[number % 3]) for number, step in enumerate(STEPS) if LONG or step in SHORT
]  # fmt: skip
LANDED = {"child.committed", "child.advanced"}  # the rows are there by then
OVER = ("succeeded", "failed", "cancelled")


def scene(server, end, fresh_database):
    files = server.data_dir / "files"
    (files / "x.csv").write_text("id,name\n1,a\n2,b\n")
    client = server.client
    given = {
        "duckdb": {"path": f"{files}/out.duckdb"}, "postgresql": {"url": fresh_database},
        "search": {"indexName": "t"},
    }[end]  # fmt: skip
    source = client.add("sources", type="csv", name="s", input={
        "url": f"file://{files}/x.csv", "uniqueIDColumn": "id"})["id"]  # fmt: skip
    made = client.add("destinations", type=end, name="d", input=given)["id"]
    return client.add(
        "tasks", source=source, destination=made, action="save", table="t", key=["id"]
    )


@pytest.mark.faults
@pytest.mark.parametrize(("step", "end"), STOPPED)
def test_a_cancel_of_a_run_that_hangs_at_a_step_tells_the_truth(
    step, end, tmp_path, fresh_database
):
    """The worker is frozen there, so that it must be killed: nobody hears its last word."""
    marker = tmp_path / "happened"
    env = {
        "HEADRACE_FAULT": f"{step}:stop", "HEADRACE_FAULT_ONCE": str(marker), "HEADRACE_GRACE": "1"
    }  # fmt: skip
    with serving(tmp_path / "data", **env) as server:
        client = server.client
        task = scene(server, end, fresh_database)
        run = client.start(task["id"])["id"]
        until(marker.exists)
        time.sleep(0.2)
        client.call("POST", f"/v1/runs/{run}/cancel", {})
        found = until(
            lambda: found if (found := client.run(run))["state"] in OVER else None, 30
        )  # fmt: skip
        rows = 2 if found["state"] == "succeeded" else 0
        if step in LANDED:
            assert found["state"] == "succeeded", found
        elif step != "child.in_commit":
            assert found["state"] == "cancelled", found
        assert found["books"] is None or found["books"]["inserted"] == rows
        again = client.wait(client.start(task["id"])["id"])  # its place is free
        assert again["state"] == "succeeded"
        assert client.run(run) == found
        assert len(list(client.rows(task["destination"], "t"))) == 2
        if rows == 0:
            assert again["books"]["inserted"] == 2  # none of them was there before


@pytest.mark.faults
def test_a_cancel_and_a_kill_of_the_server_tell_the_truth(tmp_path):
    """The server dies while a cancelled run commits: the next one finds out."""
    for step, expected in (("child.staged", "cancelled"), ("child.committed", "succeeded")):
        folder = tmp_path / step
        folder.mkdir()
        marker = folder / "happened"
        env = {"HEADRACE_FAULT": f"{step}:stop", "HEADRACE_FAULT_ONCE": str(marker)}
        with serving(folder / "data", **env) as server:
            task = scene(server, "duckdb", "")
            run = server.client.start(task["id"])["id"]
            until(marker.exists)
            server.client.call("POST", f"/v1/runs/{run}/cancel", {})
            server.kill()
            server.start(**env)
            found = until(
                lambda run=run, server=server: (
                    found if (found := server.client.run(run))["state"] in OVER else None
                )
            )  # fmt: skip
            assert found["state"] == expected, (step, found)
            kinds = [(one["kind"], one["status"]) for one in server.client.events(run)]
            assert kinds.count(("record", "succeeded")) == (expected == "succeeded")
