"""Celonis: the calls of its page, and those of its official client, against a real server."""

import json
import time

import pytest
import urllib3

from tests.algolia_fake import until
from tests.e2e.test_jobs import Shop
from tests.serving import KEY, serving

STATUSES = {"QUEUED", "RUNNING", "SUCCESS", "CANCEL", "FAIL", "SKIPPED"}


class Celonis:
    def __init__(self, server):
        self.server = server
        self.shop = Shop(server)
        self.pool = self.shop.pool
        self.http = urllib3.PoolManager(retries=False)

    def raw(self, method, path, body=None, **headers):
        return self.http.request(method, self.server.client.url + path, body=body, headers=headers)

    def __call__(self, method, path, body=None, status=200, scheme="Bearer"):
        data = None if body is None else json.dumps(body)
        answer = self.raw(method, path, data, authorization=f"{scheme} {KEY}")
        assert answer.status == status, answer.data
        if (
            method == "POST"
            and path.partition("?")[0].endswith(("execute", "cancel"))
            and status == 200
        ):
            assert answer.data == b""
        return answer.json() if answer.data else None

    def execute(self, job, mode="FULL", version="v2", status=200):
        return self(
            "POST", f"/integration/api/{version}/data-pools/{self.pool}/data-jobs/{job}/execute?mode={mode}",
            status=status,
        )  # fmt: skip

    def job(self, job):
        return self("GET", f"/integration/api/pools/{self.pool}/jobs/{job}")

    def ended(self, job):
        def look():
            found = self.job(job)
            assert found["status"] in STATUSES
            return found["status"] not in ("QUEUED", "RUNNING") and found

        return until(look)


@pytest.fixture(scope="module")
def celonis(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("celonis") / "data") as server:
        yield Celonis(server)


def test_a_job_is_executed_and_its_status_queried(celonis):
    task, path = celonis.shop.task()
    job = celonis.shop.job(task)
    before = celonis.job(job)
    assert set(before) == {"id", "name", "dataPoolId", "dataSourceId", "timeStamp", "status", "currentExecutionId",
                           "dagBasedExecutionEnabled", "latestExecutionItemId"}  # fmt: skip
    assert (before["status"], before["currentExecutionId"], before["dataPoolId"]) == (
        None,
        None,
        celonis.pool,
    )
    assert before["timeStamp"] > 1_600_000_000_000
    assert celonis.execute(job) is None  # no body
    assert celonis.ended(job)["status"] == "SUCCESS"
    celonis.execute(job, "DELTA")
    assert celonis.ended(job)["status"] == "SKIPPED"
    path.write_text("id,n\n1,2\n")
    celonis.execute(job, "DELTA", "v1")
    done = celonis.ended(job)
    assert (done["status"], done["currentExecutionId"]) == ("SUCCESS", None)
    path.unlink()
    celonis.execute(job, "FULL")
    assert celonis.ended(job)["status"] == "FAIL"


def test_a_second_start_is_refused_and_a_cancel_stops(celonis):
    slow = "id,n\n" + "".join(f"{n},{n}\n" for n in range(200_000))
    job = celonis.shop.job(*(celonis.shop.task(slow)[0] for _ in range(3)))
    celonis.execute(job)
    found = celonis.job(job)
    assert found["status"] in ("QUEUED", "RUNNING")
    assert found["currentExecutionId"] == found["latestExecutionItemId"]
    refused = celonis.execute(job, status=409)
    assert set(refused) == {"title", "status", "detail", "errorCode"}
    assert refused["errorCode"] == "JOB_ALREADY_RUNNING"
    assert celonis("POST", f"/integration/api/pools/{celonis.pool}/jobs/{job}/cancel") is None
    assert celonis.ended(job)["status"] == "CANCEL"
    celonis("POST", f"/integration/api/pools/{celonis.pool}/jobs/{job}/cancel")  # nothing to stop


def test_the_official_clients_walk(celonis):
    """What pycelonis calls: connect, pools, jobs, execute and poll, executions, messages."""
    assert celonis("GET", "/api/cloud")["name"] == "default"
    assert celonis("GET", "/api/cloud/permissions") == [
        {"serviceName": "event-collection", "permissions": ["VIEW", "MANAGE"]}
    ]
    assert celonis("GET", "/api/team")["trackingEnabled"] is False
    pools = celonis("GET", "/integration/api/pools")
    assert celonis.pool in {one["id"] for one in pools}
    assert celonis("GET", f"/integration/api/pools/{celonis.pool}")["name"] == "shop"
    good, bad = celonis.shop.task()[0], celonis.shop.task(None)[0]
    job, never = celonis.shop.job(good, bad), celonis.shop.job(good)
    assert {job, never} <= {
        one["id"] for one in celonis("GET", f"/integration/api/pools/{celonis.pool}/jobs")
    }
    tasks = celonis("GET", f"/integration/api/pools/{celonis.pool}/jobs/{job}/tasks/")
    assert {one["taskId"] for one in tasks} == {good, bad}
    assert all(one["poolId"] == celonis.pool and one["jobId"] == job for one in tasks)
    body = {"poolId": celonis.pool, "jobId": job, "mode": "FULL", "executeOnlySubsetOfTransformations": False,
            "transformations": [], "executeOnlySubsetOfExtractions": False, "extractions": [],
            "loadOnlySubsetOfDataModels": False, "dataModels": []}  # fmt: skip
    assert (
        celonis("POST", f"/integration/api/pools/{celonis.pool}/jobs/{job}/execute", body) is None
    )

    def status():
        rows = {
            row["id"]: row
            for row in celonis("GET", f"/integration/api/pools/{celonis.pool}/logs/status")
        }
        assert rows[never] == {"id": never, "status": None, "lastExecutionStartDate": None}
        return rows[job]["status"] not in ("QUEUED", "RUNNING") and rows[job]

    told = until(status)
    assert told["status"] == "FAIL"
    assert abs(told["lastExecutionStartDate"] / 1000 - time.time()) < 60
    listed = celonis(
        "GET", f"/integration/api/pools/{celonis.pool}/logs/{job}/executions?pageNumber=0&limit=10"
    )
    (execution,) = listed["executionItems"]
    assert (execution["type"], execution["mode"], execution["poolName"]) == ("JOB", "FULL", "shop")
    items = celonis("GET", f"/integration/api/pools/{celonis.pool}/logs/executions?executionId={execution['id']}"
                    f"&type=TASK&id={job}")["executionItems"]  # fmt: skip
    assert {one["taskId"]: one["status"] for one in items} == {good: "SUCCESS", bad: "FAIL"}
    logs = celonis("GET", f"/integration/api/pools/{celonis.pool}/logs/executions/detail?executionId={execution['id']}"
                   f"&type=TASK&id={bad}")["logMessages"]  # fmt: skip
    assert any(row["level"] == "ERROR" and "No file matches" in row["logMessage"] for row in logs)
    tables = celonis("GET", f"/integration/api/pools/{celonis.pool}/tables")
    assert tables


def test_pools_come_in_pages(celonis):
    for n in range(3):
        celonis.server.client.call("POST", "/v1/pools", {"name": f"p{n}"})
    found = celonis("GET", "/integration/api/pools/paged?limit=2&page=1")
    assert set(found) == {"content", "pageSize", "pageNumber", "totalCount"}
    assert (found["pageSize"], found["pageNumber"], len(found["content"])) == (2, 1, 2)
    assert found["totalCount"] >= 4
    celonis("GET", "/integration/api/pools/paged?limit=x", status=400)


def test_the_error_catalogue(celonis):
    job = celonis.shop.job(celonis.shop.task()[0])
    path = f"/integration/api/pools/{celonis.pool}/jobs/{job}"
    assert celonis("GET", path, scheme="AppKey")["id"] == job
    assert celonis("GET", path, scheme="bEARER")["id"] == job
    answer = celonis.raw("GET", path)
    assert (answer.status, answer.json()) == (401, {"error": "Unauthorized"})
    answer = celonis.raw("GET", path, authorization="Bearer wrong")
    assert (answer.status, answer.json()) == (401, {"error": "Unauthorized"})
    for header in ("", "Basic abc", "Bearer"):
        answer = celonis.raw("GET", path, authorization=header)
        assert answer.status == 401
        assert answer.headers["content-type"].startswith("text/plain")
        assert "`Bearer `" in answer.data.decode()
    for wrong in ("", "?mode=", "?mode=full", "?mode=SOME"):
        found = celonis(
            "POST",
            f"/integration/api/v2/data-pools/{celonis.pool}/data-jobs/{job}/execute{wrong}",
            status=400,
        )
        assert (found["errorCode"], found["title"]) == (
            "GENERAL_PARAMETER_MISSMATCH",
            "Query parameter type mismatch.",
        )
    assert (
        celonis("GET", "/integration/api/nothing", status=404)["errorCode"]
        == "GENERAL_NOTFOUND_PATH"
    )
    missing = "01a00000-0000-7000-8000-000000000000"
    for other in (f"/integration/api/pools/{missing}", f"/integration/api/pools/{celonis.pool}/jobs/{missing}",
                  f"/integration/api/pools/{missing}/jobs/{job}"):  # fmt: skip
        assert celonis("GET", other, status=404)["errorCode"] == "GENERAL_NOTFOUND_OBJECT"
    celonis(
        "POST",
        f"/integration/api/v3/data-pools/{celonis.pool}/data-jobs/{job}/execute?mode=FULL",
        status=404,
    )
    assert celonis.job(job)["status"] is None  # nothing was started


def test_a_viewer_looks_and_starts_nothing(celonis):
    from tests.contract.test_ibm_lucidum import viewer

    job = celonis.shop.job(celonis.shop.task()[0])
    looker = viewer(celonis)
    path = f"/integration/api/pools/{celonis.pool}/jobs/{job}"
    assert celonis.raw("GET", path, authorization=f"Bearer {looker}").status == 200
    answer = celonis.raw(
        "POST", f"/integration/api/v2/data-pools/{celonis.pool}/data-jobs/{job}/execute?mode=FULL",
        authorization=f"Bearer {looker}",
    )  # fmt: skip
    assert answer.json() == {"title": "Access Denied.", "status": 403, "detail": "Access is denied",
                             "errorCode": "ADMIN_ACCESS_ERROR"}  # fmt: skip
    assert celonis.job(job)["status"] is None
