"""The vendors' pages, call by call, by the tools that they show: curl, requests, a bare conversation.

Only the host differs. What each answer must hold is what its page says.
"""

import json
import re
import shutil
import socket
import subprocess
import time

import pytest
import requests

from headrace.security.tokens import Tokens
from headrace.security.vault import Vault, master_key
from tests.algolia_fake import until
from tests.e2e.test_jobs import Shop
from tests.serving import KEY, serving

IMPORT = ["mode", "can_run_imports", "import_status_url", "import_create_url", "progress", "last_success_time",
          "last_status", "last_import_time", "last_import_type", "next_import_time", "next_import_time_in",
          "next_import_type"]  # fmt: skip
DAG_RUN = {"dag_run_id", "data_interval_start", "data_interval_end", "external_trigger",
           "last_scheduling_decision", "run_type", "start_date", "state"}  # fmt: skip


class Pages:
    def __init__(self, server):
        self.server, self.shop = server, Shop(server)
        self.url = server.client.url
        self.task = self.shop.task("id,n\n1,2\n2,3\n")[0]
        self.job = self.shop.job(self.task)
        self.shop.call("PATCH", "/v1/jobs/everything", {"cron": "0 0 * * *"})

    def idle(self):
        def over():
            return all(
                one["finishedAt"] for one in self.shop.call("GET", "/v1/executions")["items"]
            )

        until(over)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("pages") / "data") as server:
        yield Pages(server)


def curl(*words):
    """Run curl; return the status, the headers and the body."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not on this machine")
    done = subprocess.run(
        ["curl", "--silent", "--include", *words], capture_output=True, check=True, timeout=30
    )
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), headers, body


# Celonis.


def test_celonis_execute_by_requests_and_by_curl(pages):
    pool = pages.shop.pool
    for version, mode in (("v2", "FULL"), ("v2", "DELTA"), ("v1", "FULL")):
        path = f"/integration/api/{version}/data-pools/{pool}/data-jobs/{pages.job}/execute?mode={mode}"
        answer = requests.post(
            pages.url + path, headers={"authorization": f"Bearer {KEY}"}, timeout=30
        )
        assert (answer.status_code, answer.content) == (200, b"")
        pages.idle()
        # curl sends neither a body nor a Content-Length.
        status, headers, body = curl(
            "-X", "POST", pages.url + path, "-H", f"authorization: AppKey {KEY}"
        )
        assert (status, body, headers["cache-control"]) == (200, b"", "no-store")
        pages.idle()


def test_celonis_status(pages):
    answer = requests.get(
        f"{pages.url}/integration/api/pools/{pages.shop.pool}/jobs/{pages.job}",
        headers={"authorization": f"bearer {KEY}"}, timeout=30,
    )  # fmt: skip
    assert answer.headers["content-type"].partition(";")[0] == "application/json"
    found = answer.json()
    assert found["status"] in (None, "QUEUED", "RUNNING", "SUCCESS", "SKIPPED")
    assert (found["id"], found["dataPoolId"]) == (pages.job, pages.shop.pool)
    assert isinstance(found["timeStamp"], int)


def test_celonis_data_push_by_curl(pages, tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text("id,n\n1,2\n")
    root = f"{pages.url}/integration/api/v1/data-push/{pages.shop.pool}/jobs"
    auth = ("-H", f"Authorization: Bearer {KEY}")
    body = json.dumps(
        {
            "targetName": "curled",
            "type": "REPLACE",
            "dataPoolId": pages.shop.pool,
            "fileType": "CSV",
        }
    )
    status, _, answer = curl(*auth, "-H", "Content-Type: application/json", "-d", body, f"{root}/")
    job = json.loads(answer)["id"]
    assert (status, json.loads(answer)["status"]) == (200, "NEW")
    status, _, answer = curl(*auth, "-F", f"file=@{rows}", f"{root}/{job}/chunks/upserted")
    assert (status, json.loads(answer)["type"]) == (200, "UPSERT")
    status, _, answer = curl(*auth, "-X", "POST", f"{root}/{job}")
    assert (status, answer) == (200, b"")
    until(lambda: json.loads(curl(*auth, f"{root}/{job}")[2])["status"] == "DONE")


# Amperity.


def test_amperity_job_by_curl(pages):
    pages.shop.start(pages.job)
    pages.idle()
    headers = ("--header", "amperity-tenant: default", "--header", "api-version: 2024-04-01",
               "--header", f"Authorization: Bearer {KEY}")  # fmt: skip
    day = time.strftime("%Y-%m-%d", time.gmtime())
    next_day = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 86_400))
    window = f"{pages.url}/api/ingest/jobs?created_from={day}&created_to={next_day}"
    status, _, body = curl("--request", "GET", window, *headers)
    assert status == 200
    job = json.loads(body)["data"][0]
    status, told, body = curl(
        "--request", "GET", f"{pages.url}/api/ingest/jobs/{job['id']}", *headers
    )
    assert (status, told["content-type"].partition(";")[0]) == (200, "application/json")
    found = json.loads(body)
    assert found == job
    assert list(found) == ["id", "workflow_id", "tables"]
    table = found["tables"][0]
    assert (
        table["read"]
        == table["errors"] + table["rejected"] + table["inserted"] + table["updated"]
        == 2
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", table["ended_at"])


# IBM License Metric Tool.


def conversation(pages, path):
    """Speak HTTP as the page prints it; return the answer's head and body."""
    host, _, port = pages.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 10) as con:
        con.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n"
            f"Accept-Language: en-US\r\nToken: {KEY}\r\nConnection: close\r\n\r\n".encode()
        )
        text = b"".join(iter(lambda: con.recv(65536), b"")).decode()
    head, _, body = text.partition("\r\n\r\n")
    return head.lower().split("\r\n"), json.loads(body)


def test_ibms_two_conversations(pages):
    pages.idle()
    requests.get(f"{pages.url}/api/import_status.json?run=true&token={KEY}", timeout=30)
    pages.idle()
    head, before = conversation(pages, "/api/import_status.json")
    assert head[0] == "http/1.1 200 ok"
    assert "content-type: application/json" in head
    assert "content-language: en-us" in head
    assert list(before) == IMPORT  # all twelve, in their order
    head, started = conversation(pages, "/api/import_status.json?run=true")
    assert head[0] == "http/1.1 200 ok"
    assert list(started) == IMPORT
    assert (started["mode"], started["progress"] < 100) == ("running", True)
    for name in ("last_success_time", "last_status", "last_import_time", "last_import_type"):
        assert started[name] == before[name]  # still of the import before
    assert started["next_import_time"].endswith("T00:00:00Z")
    assert 0 <= started["next_import_time_in"] <= 86_400
    pages.idle()


# Lucidum.


def test_lucidum_by_requests_and_by_curl(pages):
    pages.idle()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    status, told, body = curl(
        "-X", "GET", f"{pages.url}/CMDB/v2/system/data-ingestion/run",
        "-H", "Content-Type: application/json", "-H", f"Authorization: Bearer {KEY}",
    )  # fmt: skip
    started = json.loads(body)
    assert (status, told["cache-control"]) == (200, "no-store")
    assert started.keys() >= DAG_RUN
    assert started["state"] in ("queued", "running")
    pages.idle()
    answer = requests.get(
        f"{pages.url}/CMDB/v2/system/data-ingestion/jobs", headers=headers, timeout=30
    )
    runs = answer.json()["dag_runs"]
    assert all(one.keys() >= DAG_RUN for one in runs)
    assert (
        next(one for one in runs if one["dag_run_id"] == started["dag_run_id"])["state"]
        == "success"
    )


# Of all four.


def test_a_token_that_has_expired_opens_nothing_and_starts_nothing(pages):
    pages.idle()
    vault = Vault(master_key("", pages.server.data_dir))
    (admin,) = [
        one["id"] for one in pages.shop.call("GET", "/v1/keys")["items"] if one["name"] == "admin"
    ]
    old = Tokens(vault.signing, clock=lambda: time.time() - 3601).issue(admin, "default", (), 3600)
    good = Tokens(vault.signing).issue(admin, "default", (), 3600)
    other = Tokens(bytes(32)).issue(admin, "default", (), 3600)  # signed by somebody else
    pool = pages.shop.pool
    amperity = {"amperity-tenant": "default", "api-version": "2024-04-01"}
    before = pages.shop.call("GET", "/v1/executions?limit=1")["items"]
    for method, path, header, more, shape in (
        ("POST", f"/integration/api/v2/data-pools/{pool}/data-jobs/{pages.job}/execute?mode=FULL", "authorization",
         {}, {"error"}),
        ("POST", "/api/workflow/runs", "authorization", amperity, {"status", "message"}),
        ("GET", "/api/import_status.json?run=true", "token", {}, {"error"}),
        ("GET", "/CMDB/v2/system/data-ingestion/run", "authorization", {}, {"code", "message"}),
        ("GET", "/v1/jobs", "authorization", {}, {"type", "title", "status", "code", "hint"}),
    ):  # fmt: skip
        for token in (old, other, "nobody"):
            given = token if header == "token" else f"Bearer {token}"
            answer = requests.request(
                method, pages.url + path, headers=more | {header: given}, timeout=30
            )
            assert (answer.status_code, set(answer.json())) == (401, shape), path
    assert pages.shop.call("GET", "/v1/executions?limit=1")["items"] == before
    answer = requests.get(
        f"{pages.url}/v1/jobs", headers={"authorization": f"Bearer {good}"}, timeout=30
    )
    assert answer.status_code == 200
