"""Uploads: killed at any step nothing is lost, nothing is loaded twice, no file is left over."""

import os

import pytest
import urllib3

from headrace.domain.errors import HeadraceError
from headrace.observe.faults import POINTS, UPLOAD_POINTS
from tests.algolia_fake import until
from tests.contract.test_celonis_push import SCHEMA, Push
from tests.serving import Serving

EVERY = [*UPLOAD_POINTS, *(point for point in POINTS if point != "server.run_queued")]
# In the middle of three commits, as well as before and after all of them.
SHORT = [*UPLOAD_POINTS, "child.advanced", "child.committed"]
CASES = EVERY if os.environ.get("HEADRACE_FAULTS") == "all" else SHORT


@pytest.mark.faults
@pytest.mark.parametrize("point", CASES)
def test_an_upload_of_three_commits_is_loaded_once(tmp_path, point):
    marker = tmp_path / "killed"
    fault = {"HEADRACE_FAULT": point, "HEADRACE_FAULT_ONCE": str(marker)}
    marker.touch()  # no fault while the scene is set
    server = Serving(tmp_path / "data")
    server.start(**fault)
    try:
        push = Push(server)
        push.load(push.new("REPLACE", tableSchema=SCHEMA, targetName="t"), "id,v\n1,a\n2,b\n3,c\n")
        job = push.new(keys=["id"], tableSchema=SCHEMA, targetName="t")
        marker.unlink()

        def insist(deed, done):
            """Do it, as a client does: again, if the server died and it is not done."""
            for _ in range(3):
                try:
                    deed()
                except (HeadraceError, urllib3.exceptions.HTTPError):
                    until(lambda: not server.alive)
                    server.start(**fault)
                    if done():
                        return
                else:
                    return
            raise AssertionError

        chunks = [
            ("upserted", "id,v\n1,A\n4,d\n"),
            ("deleted", "id\n2\n4\n"),
            ("upserted", "id,v\n5,e\n"),
        ]
        for number, (kind, text) in enumerate(chunks, 1):
            insist(
                lambda kind=kind, text=text: push.chunk(job, text, kind),
                lambda number=number: len(push("GET", push.jobs(f"/{job['id']}/chunks"))) == number,
            )
        insist(
            lambda: push.start(job),
            lambda: push("GET", push.jobs(f"/{job['id']}"))["status"] != "NEW",
        )

        def over():
            if not server.alive:
                server.start(**fault)
            try:
                return push.over(job)
            except (HeadraceError, urllib3.exceptions.HTTPError):
                return None

        assert until(over, 60)["status"] == "DONE"
        assert marker.exists()
        rows = {row["id"]: row["v"] for row in push.rows("t")}
        assert rows == {1: "A", 3: "c", 5: "e"}
        run = server.client.call("GET", "/v1/runs?limit=1")["items"][0]
        counts = {
            name: run["books"][name]
            for name in ("read", "inserted", "updated", "deleted", "unchanged")
        }
        assert counts == {"read": 5, "inserted": 2, "updated": 1, "deleted": 2, "unchanged": 0}
        until(lambda: list((server.data_dir / "uploads").iterdir()) == [])
    finally:
        server.stop()
