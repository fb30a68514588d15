"""The audit log: every change by whichever face, with who and by which call."""

from tests.faults.test_pushes import Pusher
from tests.serving import serving


def test_every_change_is_on_record_with_who_did_it(tmp_path):
    with serving(tmp_path / "data") as server:
        client = server.client
        (server.data_dir / "files" / "x.csv").write_text("objectID\n1\n")
        url = f"file://{server.data_dir}/files/x.csv"
        source = client.add("sources", type="csv", name="s", input={"url": url})["id"]
        end = client.add("destinations", type="search", name="d", input={"indexName": "t"})["id"]
        task = client.add("tasks", source=source, destination=end, action="save", key=["objectID"])[
            "id"
        ]
        client.call("PATCH", f"/v1/sources/{source}", {"name": "other"})
        client.call("PATCH", f"/v1/tasks/{task}", {"priority": 3})
        run = client.start(task)["id"]
        client.wait(run)
        client.call("DELETE", f"/v1/tasks/{task}")
        algolia = Pusher(server)
        given = {"type": "basic", "name": "a", "input": {"username": "u", "password": "secret!"}}
        made = algolia.call("POST", "/1/authentications", given)["authenticationID"]
        algolia.call("PATCH", f"/1/authentications/{made}", {"name": "b"})
        algolia.call("DELETE", f"/1/authentications/{made}")
        deeds = client.call("GET", "/v1/audit?limit=1000")["items"]
        client.call("DELETE", "/v1/limits/server")
    told = [(one["deed"], one["thing"]) for one in reversed(deeds)]
    assert told == [
        ("source.added", source), ("destination.added", end), ("task.added", task),
        ("source.changed", source), ("task.changed", task), ("run.started", run),
        ("task.removed", task), ("authentication.added", made),
        ("authentication.changed", made), ("authentication.removed", made),
    ]  # fmt: skip
    assert {one["key"] for one in deeds} == {"admin"}
    assert deeds[0]["via"].startswith(f"DELETE /1/authentications/{made} from 127.0.0.1")
    assert "secret!" not in str(deeds)
