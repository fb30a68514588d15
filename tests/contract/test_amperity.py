"""Amperity: the calls of its page and of its documentation, against a real server."""

import json
import re
import time
from datetime import UTC, datetime, timedelta

import pytest
import urllib3

from tests.algolia_fake import until
from tests.e2e.test_jobs import Shop
from tests.serving import KEY, serving

JOB = {"id", "workflow_id", "tables"}
TABLE = {"feed_id", "job_id", "table_name", "state", "read", "errors", "rejected", "inserted", "updated",
         "started_at", "ended_at", "files"}  # fmt: skip
FILE = {"file_id", "name", "read", "errors"}
OVERVIEW = {"id", "state", "type", "name", "tenant", "created_at", "ended_at"}
ID = r"-\d{8}-\d{5}-[0-9A-Za-z]{6}"
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class Amperity:
    def __init__(self, server):
        self.server, self.shop = server, Shop(server)
        self.http = urllib3.PoolManager(retries=False)

    def raw(self, method, path, body=None, **headers):
        url = self.server.client.url + path
        return self.http.request(method, url, body=body, headers=headers)

    def __call__(self, method, path, body=None, status=200, token=KEY, **headers):
        answer = self.raw(
            method, path, None if body is None else json.dumps(body),
            **({"authorization": f"Bearer {token}", "amperity-tenant": "default", "api-version": "2024-04-01"}
               | headers),
        )  # fmt: skip
        assert answer.status == status, answer.data
        assert answer.headers["content-type"].startswith("application/json")
        found = answer.json()
        if status >= 400:
            assert set(found) == {"status", "message"}
            assert found["status"] == status
        return found

    def loaded(self, text="id,n\n1,5\n", mode=None, **more):
        """Load a file by a job; return the ingest job."""
        task = self.shop.task(text)[0] if "task" not in more else more["task"]
        job = self.shop.job(task)
        run = self(
            "POST", "/api/workflow/runs", {"config_id": self.config(job)} | (mode or {}), status=201
        )
        assert (set(run), run["state"]) == (OVERVIEW - {"ended_at"}, "scheduled")
        return run["id"], until(lambda: self.over(run["id"]))

    def config(self, job):
        return "cg-" + self.shop.call("GET", f"/v1/jobs/{job}")["alias"]

    def over(self, workflow):
        found = self("GET", f"/api/workflow/runs/{workflow}")
        return found if found["state"] not in ("scheduled", "running", "stopping") else None

    def jobs_of(self, workflow):
        verbose = self("GET", f"/api/workflow/runs/{workflow}?view=verbose")
        return [self("GET", f"/api/ingest/jobs/{task['id']}") for task in verbose["task_instances"]]


@pytest.fixture(scope="module")
def amperity(tmp_path_factory):
    data = tmp_path_factory.mktemp("amperity") / "data"
    with serving(data, HEADRACE_AMPERITY_RATE="0/1") as server:
        yield Amperity(server)


def judged(job):
    """Hold an ingest job against the closed schema, and its counts against each other."""
    assert set(job) == JOB
    assert re.fullmatch("isj" + ID, job["id"])
    assert re.fullmatch("wf" + ID, job["workflow_id"])
    for table in job["tables"]:
        assert set(table) == TABLE
        assert table["job_id"] == job["id"]
        assert re.fullmatch(r"df-[0-9A-Za-z]{8}", table["feed_id"])
        assert MOMENT.fullmatch(table["started_at"])
        assert MOMENT.fullmatch(table["ended_at"])
        assert table["read"] == sum(
            table[name] for name in ("errors", "rejected", "inserted", "updated")
        )
        for file in table["files"]:
            assert set(file) == FILE
            assert re.fullmatch(
                r"cb-\d{8}-\d{5}-[0-9A-Za-z]{5}/" + re.escape(file["name"]), file["file_id"]
            )
        if table["files"]:
            for name in ("read", "errors"):
                assert table[name] == sum(file[name] for file in table["files"])
    return job


def test_an_ingest_job_tells_its_counts(amperity):
    task, path = amperity.shop.task("id,n\n1,5\n2,6\n")
    workflow, over = amperity.loaded(task=task)
    assert (over["state"], set(over), over["type"]) == ("succeeded", OVERVIEW, "courier.group/run")
    [job] = amperity.jobs_of(workflow)
    [table] = judged(job)["tables"]
    assert job["workflow_id"] == workflow
    assert table["table_name"] == path.stem
    assert (table["state"], table["read"], table["inserted"], table["updated"]) == (
        "succeeded",
        2,
        2,
        0,
    )
    assert [file["name"] for file in table["files"]] == [path.name]
    # Changed, doubled and broken rows, where some may be rejected.
    amperity.shop.call("PATCH", f"/v1/tasks/{task}", {"failureThreshold": 50})
    path.write_text("id,n\n1,7\n2,8\n2,9\n3,1\n4\n")
    workflow, _ = amperity.loaded(task=task)
    [again] = judged(amperity.jobs_of(workflow)[0])["tables"]
    counts = {name: again[name] for name in ("read", "errors", "rejected", "inserted", "updated")}
    assert counts == {"read": 5, "errors": 1, "rejected": 1, "inserted": 1, "updated": 2}
    assert again["feed_id"] == table["feed_id"]  # the same task's table
    # The page's own line, literally but for the host.
    answer = amperity.raw("GET", f"/api/ingest/jobs/{job['id']}", **{
        "amperity-tenant": "default", "api-version": "2024-04-01", "Authorization": f"Bearer {KEY}"})  # fmt: skip
    assert (answer.status, answer.json()) == (200, job)


def test_a_task_started_alone_is_a_workflow_of_its_own(amperity):
    task, _ = amperity.shop.task()
    run = amperity.shop.call("POST", f"/v1/tasks/{task}/runs")
    found = until(lambda: [one for one in amperity("GET", "/api/workflow/runs?type=courier/run")["data"]
                           if one["name"] == task and one["state"] == "succeeded"], 20)  # fmt: skip
    [job] = amperity.jobs_of(found[0]["id"])
    assert judged(job)["workflow_id"] == found[0]["id"]
    assert amperity.shop.call("GET", f"/v1/executions/{run['execution']}")["state"] == "succeeded"
    assert found[0]["type"] == "courier/run"
    assert all(one["type"] == "courier.group/run"
               for one in amperity("GET", "/api/workflow/runs?type=courier.group/run")["data"])  # fmt: skip
    assert amperity("GET", "/api/workflow/runs?type=spark/run&with_total=true") == {
        "data": [],
        "total": 0,
    }


def test_failed_and_skipped(amperity):
    workflow, over = amperity.loaded("id,n\n1\n2,3\n")
    assert over["state"] == "failed"
    [table] = judged(amperity.jobs_of(workflow)[0])["tables"]
    assert (table["state"], table["read"], table["errors"], table["inserted"]) == (
        "failed",
        2,
        1,
        0,
    )
    verbose = amperity("GET", f"/api/workflow/runs/{workflow}?view=verbose")
    assert set(verbose) == OVERVIEW | {"task_instances", "error"}
    assert set(verbose["error"]) == {"type", "message", "attribution", "data"}
    assert verbose["error"]["attribution"] == "customer"
    assert "rejected" in verbose["error"]["message"]
    workflow, over = amperity.loaded(None)  # no file: nothing was read
    [table] = judged(amperity.jobs_of(workflow)[0])["tables"]
    assert (over["state"], table["state"], table["read"], table["files"]) == (
        "failed",
        "failed",
        0,
        [],
    )
    task, _ = amperity.shop.task()
    assert amperity.loaded(task=task)[1]["state"] == "succeeded"
    workflow, over = amperity.loaded(task=task, mode={"run_mode": "refresh"})
    assert over["state"] == "skipped"
    assert judged(amperity.jobs_of(workflow)[0])["tables"][0]["state"] == "skipped"
    assert amperity.loaded(task=task, mode={"run_mode": "full"})[1]["state"] == "succeeded"


def test_an_unfinished_job_is_told_too_and_a_stop_stops(amperity):
    slow = "id,n\n" + "".join(f"{n},{n}\n" for n in range(300_000))
    tasks = [amperity.shop.task(slow)[0] for _ in range(3)]
    job = amperity.shop.job(*tasks)
    config = amperity.config(job)
    workflow = amperity("POST", "/api/workflow/runs", {"config_id": config}, status=201)["id"]
    for found in amperity.jobs_of(workflow):
        [table] = judged(found)["tables"]
        assert (table["state"] in ("scheduled", "running"), table["read"]) == (True, 0)
        assert table["table_name"]
    refused = amperity("POST", "/api/workflow/runs", {"config_id": config}, status=409)
    assert "execution" in refused["message"]
    stopped = amperity("POST", f"/api/workflow/runs/{workflow}/stop")
    assert (stopped["id"], stopped["state"]) == (workflow, "canceled")
    assert amperity("POST", f"/api/workflow/runs/{workflow}/stop")["state"] == "canceled"
    assert {judged(one)["tables"][0]["state"] for one in amperity.jobs_of(workflow)} == {"canceled"}
    done, _ = amperity.loaded()
    amperity("POST", f"/api/workflow/runs/{done}/stop", status=409)


def test_jobs_are_listed_by_a_window_of_seven_days(amperity):
    workflow, _ = amperity.loaded()
    [job] = amperity.jobs_of(workflow)
    now = datetime.now(UTC)
    day, next_day = now.date().isoformat(), (now + timedelta(days=1)).date().isoformat()
    found = amperity("GET", f"/api/ingest/jobs?created_from={day}&created_to={next_day}")
    assert set(found) == {"data"}
    assert job in [judged(one) for one in found["data"]]
    found = amperity(
        "GET", f"/api/ingest/jobs?created_from={day}&created_to={next_day}&with_total=true"
    )
    assert found["total"] == len(found["data"])
    at = job["tables"][0]["started_at"]
    later = at[:-4] + f"{int(at[-4:-1]) + 1:03}Z" if at[-4:-1] != "999" else at
    window = "/api/ingest/jobs?created_from={}&created_to={}"
    assert job in amperity("GET", window.format(at, later))["data"] or at == later
    assert job not in amperity("GET", window.format(day, at))["data"]  # the bound is exclusive
    old = amperity("GET", window.format("2020-01-01T00:00:00+02:00", "2020-01-07"))
    assert old == {"data": []}
    for query, told in (
        ("", "created_from"), (f"created_from={day}", "created_to"), (f"created_from=x&created_to={day}", "created_from"),
        ("created_from=2024-01-01&created_to=2024-01-09", "7 days"),
        ("created_from=2024-01-02&created_to=2024-01-01", "after created_from"),
        (f"created_from={day}&created_to={next_day}&with_total=yes", "with_total"),
        ("created_from=99999-01-01&created_to=2024-01-01", "created_from"),
    ):  # fmt: skip
        assert told in amperity("GET", f"/api/ingest/jobs?{query}", status=400)["message"]


def test_workflows_are_paged_and_filtered(amperity):
    made = [amperity.loaded()[0] for _ in range(3)]
    found, token = [], ""
    for _ in range(200):
        page = amperity("GET", f"/api/workflow/runs?limit=2{token and '&next_token=' + token}")
        found += [one["id"] for one in page["data"]]
        if "next_token" not in page:
            break
        token = page["next_token"]
    assert len(found) == len(set(found))
    assert found[:3] == made[::-1]
    assert amperity("GET", "/api/workflow/runs?with_total=true")["total"] == len(found)
    good = amperity("GET", "/api/workflow/runs?state=succeeded&limit=1000")["data"]
    assert set(made) <= {one["id"] for one in good}
    assert {one["state"] for one in good} == {"succeeded"}
    assert amperity("GET", "/api/workflow/runs?state=paused")["data"] == []
    ended = good[0]["ended_at"]
    before = amperity("GET", f"/api/workflow/runs?ended_to={ended}&limit=1000")["data"]
    assert good[0]["id"] not in {one["id"] for one in before}
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()
    assert amperity("GET", f"/api/workflow/runs?created_from={tomorrow}")["data"] == []
    for query in ("limit=0", "limit=x", "next_token=!!", "created_from=noon", "with_total=1"):
        amperity("GET", f"/api/workflow/runs?{query}", status=400)


def test_tenant_version_and_credentials(amperity):
    path = "/api/workflow/runs"
    headers = {
        "authorization": f"Bearer {KEY}",
        "amperity-tenant": "default",
        "api-version": "2024-04-01",
    }

    def status(more=None, less=(), query=""):
        given = {
            name: value for name, value in (headers | (more or {})).items() if name not in less
        }
        answer = amperity.raw("GET", path + query, **given)
        assert answer.status == 200 or set(answer.json()) == {"status", "message"}
        return answer.status

    assert status() == 200
    assert status({"api-version": "unstable"}) == 200
    assert status(less=["api-version"], query="?api_version=2024-04-01") == 200
    assert status(less=["api-version"]) == 400
    assert status({"api-version": "2023-01-01"}) == 400
    assert status(less=["amperity-tenant"]) == 400
    assert status({"amperity-tenant": "other"}) == 403
    assert status(less=["authorization"]) == 401
    assert status({"authorization": "Bearer nobody"}) == 401
    for id_ in ("isj-20240701-48815-6dcXdk", "isj-", "wf-20240618-3423-b45", KEY, "%00"):
        assert amperity.raw("GET", f"/api/ingest/jobs/{id_}", **headers).status in (400, 404)
    amperity("GET", "/api/workflow/runs/wf-20240618-34230-b45xyz", status=404)
    amperity("POST", "/api/workflow/runs/wf-20240618-34230-b45xyz/stop", status=404)
    amperity("GET", "/api/ingest/nothing", status=404)
    amperity("DELETE", "/api/workflow/runs", status=405)


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({}, 400, "config_id"), ({"config_id": 5}, 400, "config_id"),
        ({"config_id": "cg-nothing"}, 404, "cg-nothing"), ({"config_id": "og-5L6d1veh"}, 404, "og-"),
        ({"config_id": "cg-1", "run_mode": "half"}, 400, "run_mode"),
        ({"config_id": "cg-1", "range_to": "2024-01-01"}, 400, "range_from"),
        ({"config_id": "cg-1", "range_from": "2024-01-01"}, 400, "range_from"),
        ({"config_id": "cg-1", "more": 1}, 400, "more"),
    ],
)  # fmt: skip
def test_a_start_that_cannot_be(amperity, body, status, told):
    assert told in amperity("POST", "/api/workflow/runs", body, status=status)["message"]


def test_tokens_from_client_credentials(amperity):
    def ask(**form):
        given = {
            "grant_type": "client_credentials",
            "client_id": "reader",
            "client_secret": KEY,
        } | form
        answer = amperity.http.request(
            "POST", amperity.server.client.url + "/api/v0/oauth2/token", encode_multipart=False,
            fields={name: value for name, value in given.items() if value is not None},
            headers={"X-Amperity-Tenant": "default"},
        )  # fmt: skip
        return answer.status, answer.json()

    status, token = ask()
    assert (status, set(token), token["token_type"]) == (
        200,
        {"access_token", "expires_in", "token_type"},
        "Bearer",
    )
    assert token["expires_in"] == 3600
    assert KEY not in token["access_token"]
    amperity("GET", "/api/workflow/runs", token=token["access_token"])
    head, body, tail = token["access_token"].split(".")
    for forged in (
        f"{head}.{body}.{tail[::-1]}",
        f"{head}.{body}.",
        f"e30.{body}.{tail}",
        "eyJ.eyJ.x",
    ):
        amperity("GET", "/api/workflow/runs", token=forged, status=401)
    assert ask(client_secret="wrong-secret-0123456")[0] == 401
    assert ask(grant_type="password")[0] == 400
    assert ask(client_secret=None)[0] == 400
    assert ask(client_id=None)[0] == 400
    # A token ends with the key that it stands for.
    made = amperity.shop.call("POST", "/v1/keys", {"name": "datagrid", "role": "operator"})
    token = ask(client_secret=made["key"])[1]["access_token"]
    amperity("GET", "/api/workflow/runs", token=token)
    amperity.shop.call("DELETE", f"/v1/keys/{made['id']}")
    amperity("GET", "/api/workflow/runs", token=token, status=401)
    looker = amperity.shop.call("POST", "/v1/keys", {"name": "looker", "role": "viewer"})["key"]
    amperity("GET", "/api/workflow/runs", token=looker)
    amperity("POST", "/api/workflow/runs", {"config_id": "cg-x"}, token=looker, status=403)


def test_ten_requests_a_second(tmp_path):
    with serving(tmp_path / "data") as server:
        amperity = Amperity(server)
        begun = time.monotonic()
        headers = {
            "authorization": f"Bearer {KEY}",
            "amperity-tenant": "default",
            "api-version": "2024-04-01",
        }
        found = [amperity.raw("GET", "/api/workflow/runs", **headers).status for _ in range(30)]
        took = time.monotonic() - begun
        assert found.count(200) <= 10 * (int(took) + 2)
        assert 429 in found
        time.sleep(1)
        amperity("GET", "/api/workflow/runs")


def test_ids_are_the_same_after_a_restart(tmp_path):
    any_rate = {"HEADRACE_AMPERITY_RATE": "0/1"}
    with serving(tmp_path / "data", **any_rate) as server:
        amperity = Amperity(server)
        workflow, _ = amperity.loaded()
        [job] = amperity.jobs_of(workflow)
        server.kill()
        server.start(**any_rate)
        assert amperity("GET", f"/api/ingest/jobs/{job['id']}") == job
