"""IBM License Metric Tool and Lucidum: every call of their pages, on the built-in job of a real server."""

import json
import re
import threading
import time

import pytest
import urllib3

from tests.algolia_fake import until
from tests.serving import KEY, serving

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00")
COLUMNS = {"mode": str, "can_run_imports": bool, "import_status_url": str, "import_create_url": str,
           "progress": int, "last_success_time": str, "last_import_type": str, "last_status": str,
           "last_import_time": str, "next_import_time": str, "next_import_time_in": int,
           "next_import_type": str}  # fmt: skip


class Caller:
    def __init__(self, server):
        self.server = server
        self.pool = urllib3.PoolManager(retries=False)

    def raw(self, path, method="GET", body=None, **headers):
        return self.pool.request(method, self.server.client.url + path, headers=headers, body=body)

    def ibm(self, query="", status=200, token=KEY):
        answer = self.raw(f"/api/import_status.json{query}", token=token)
        assert answer.status == status, answer.data
        return answer.json()

    def lucidum(self, path, status=200, token=KEY):
        answer = self.raw(
            f"/CMDB/v2{path}",
            authorization=f"Bearer {token}",
            **{"content-type": "application/json"},
        )
        assert answer.status == status, answer.data
        return answer.json()

    def task(self, name, text):
        (self.server.data_dir / "files" / f"{name}.csv").write_text(text)
        client = self.server.client
        source = client.add("sources", type="csv", name=name, input={
            "url": f"file://{self.server.data_dir}/files/{name}.csv", "uniqueIDColumn": "id"})["id"]  # fmt: skip
        end = client.add("destinations", type="search", name=name, input={"indexName": name})["id"]
        return client.add("tasks", source=source, destination=end, action="replace")["id"]


@pytest.fixture
def caller(tmp_path):
    with serving(tmp_path / "data") as server:
        yield Caller(server)


def viewer(caller):
    made = caller.server.client.call("POST", "/v1/keys", {"name": "looker", "role": "viewer"})
    return made["key"]


def ended(caller):
    return until(lambda: caller.ibm()["mode"] != "running" and caller.ibm())


def test_the_import_is_started_watched_and_told(caller):
    assert caller.ibm() == {
        "mode": "none", "can_run_imports": True, "import_status_url": "/import_status",
        "import_create_url": "/management/imports", "progress": 0,
    }  # fmt: skip
    caller.task("one", "id,n\n" + "".join(f"{n},{n}\n" for n in range(100_000)))
    caller.task("two", "id,n\n1,2\n")
    started = caller.ibm("?run=true")
    assert started["mode"] == "running"
    assert started["progress"] >= 1
    last = 0
    while (told := caller.ibm("?run=true" if last == 0 else ""))["mode"] == "running":
        assert told["progress"] >= last
        last = told["progress"]
        time.sleep(0.05)
    done = ended(caller)
    assert (done["mode"], done["last_status"], done["last_import_type"]) == (
        "next",
        "successful",
        "complete",
    )
    assert TIME.fullmatch(done["last_success_time"])
    assert done["last_import_time"] == done["last_success_time"]
    executions = caller.server.client.call("GET", "/v1/executions")["items"]
    assert len(executions) in (1, 2)  # the second call of run=true may have come after the end
    caller.server.client.call("PATCH", "/v1/jobs/everything", {"cron": "0 3 * * *"})
    done = ended(caller)
    assert set(done) == set(COLUMNS)
    assert {name: type(done[name]) for name in COLUMNS} == COLUMNS
    assert TIME.fullmatch(done["next_import_time"])
    assert 0 < done["next_import_time_in"] <= 86_400


def test_an_import_that_fails_says_so_and_keeps_the_last_success(caller):
    caller.task("one", "id,n\n1,2\n")
    caller.ibm("?run=true")
    good = ended(caller)
    time.sleep(1.1)  # its times are whole seconds
    (caller.server.data_dir / "files" / "one.csv").unlink()
    caller.ibm("?run=raw_only")
    bad = ended(caller)
    assert (bad["last_status"], bad["last_import_type"]) == ("failed", "raw_only")
    assert good["last_import_type"] == "complete"
    assert bad["last_success_time"] == good["last_success_time"]
    assert bad["last_import_time"] > good["last_import_time"]


def test_who_may_and_what_starts_nothing(caller):
    caller.task("one", "id,n\n1,2\n")
    for path in ("/api/import_status.json", "/api/import_status", "/api/management/imports.json"):
        assert caller.raw(path, token=KEY).status == 200
        assert caller.raw(f"{path}?token={KEY}").status == 200
        answer = caller.raw(f"{path}?token={KEY}", token="wrong")  # the URL's is ignored
        assert (answer.status, list(answer.json())) == (401, ["error"])
        assert caller.raw(path).status == 401
        assert caller.raw(path, method="POST", token=KEY).status == 405
    looker = viewer(caller)
    assert caller.ibm(token=looker)["can_run_imports"] is False
    caller.ibm("?run=true", 403, token=looker)
    assert (
        caller.raw(
            "/api/import_status.json?run=true", token=KEY, **{"sec-purpose": "prefetch"}
        ).status
        == 403
    )
    assert (
        caller.raw(
            "/CMDB/v2/system/data-ingestion/run", authorization=f"Bearer {KEY}", purpose="prefetch"
        ).status
        == 403
    )
    for value in ("false", "yes", "", "TRUE"):
        assert caller.ibm(f"?run={value}")["mode"] == "none"
    caller.lucidum("/system/data-ingestion/run", 403, token=looker)
    assert caller.server.client.call("GET", "/v1/executions")["items"] == []
    answer = caller.raw("/api/import_status.json", token=KEY)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-language"] == "en-US"


def test_a_token_is_given_for_a_tenant_and_its_key(caller):
    def ask(**body):
        return caller.raw(
            "/api/get_token", "POST", json.dumps(body), **{"content-type": "application/json"}
        )

    answer = ask(user="default", password=KEY)
    assert caller.ibm(token=answer.json()["token"])["mode"] == "none"
    assert ask(user="default", password="wrong").status == 401
    assert ask(user="other", password=KEY).status == 401
    assert ask(user="default").status == 400


RUN = {"dag_run_id", "dag_id", "logical_date", "execution_date", "data_interval_start", "data_interval_end",
       "external_trigger", "last_scheduling_decision", "run_type", "start_date", "end_date", "state", "conf",
       "note"}  # fmt: skip


def modelled(body):
    """Return a list of runs as Airflow's own client reads it, which is strict about types."""
    from airflow_client.client import Configuration
    from airflow_client.client.model.dag_run_collection import DAGRunCollection
    from airflow_client.client.model_utils import validate_and_convert_types

    return validate_and_convert_types(
        body, (DAGRunCollection,), ["body"], True, True, Configuration()
    )  # fmt: skip


def test_lucidum_lists_starts_and_details_runs(caller):
    assert caller.lucidum("/system/data-ingestion/jobs") == {"dag_runs": [], "total_entries": 0}
    task = caller.task("one", "id,n\n" + "".join(f"{n},{n}\n" for n in range(50_000)))
    started = caller.lucidum("/system/data-ingestion/run")
    assert set(started) == RUN
    assert (started["state"], started["run_type"], started["external_trigger"]) == (
        "queued",
        "manual",
        True,
    )
    assert modelled({"dag_runs": [started], "total_entries": 1}).dag_runs[0].end_date is None
    assert started["dag_run_id"] == f"manual__{started['logical_date']}"
    assert ISO.fullmatch(started["data_interval_start"])
    again = caller.lucidum("/system/data-ingestion/run/")  # the one that is under way
    assert again["dag_run_id"] == started["dag_run_id"]

    def over():
        (run,) = caller.lucidum("/system/data-ingestion/jobs/")["dag_runs"]
        return run["state"] not in ("queued", "running") and run

    run = until(over)
    assert run["state"] == "success"
    found = modelled(caller.lucidum("/system/data-ingestion/jobs/"))
    assert found.total_entries == 1
    assert found.dag_runs[0].dag_run_id == run["dag_run_id"]
    assert found.dag_runs[0].state.value == "success"
    assert found.dag_runs[0].start_date.isoformat() == run["start_date"]
    assert ISO.fullmatch(run["start_date"])
    assert run["start_date"] <= run["end_date"]
    (short,) = caller.lucidum("/system/metrics/data-ingestion")["data_ingestion_runs"]
    assert short == {"run_type": "manual", "id": run["dag_run_id"], "status": "success",
                     "start_date": run["start_date"], "end_date": run["end_date"]}  # fmt: skip
    for id_ in (run["dag_run_id"], run["dag_run_id"].replace("+", "%2B").replace(":", "%3A")):
        (step,) = caller.lucidum(f"/system/metrics/data-ingestion/detail/{id_}")["task_list"]
        assert (step["task_id"], step["status"]) == (task, "success")
    caller.lucidum("/system/metrics/data-ingestion/detail/manual__nothing", 404)
    assert caller.lucidum("/system/metrics/data-ingestion/next")["next_run_at"] is None
    caller.server.client.call("PATCH", "/v1/jobs/everything", {"cron": "0 3 * * *"})
    told = caller.lucidum("/system/metrics/data-ingestion/next")
    assert (told["schedule_interval_value"], told["schedule_interval_type"]) == (
        "0 3 * * *",
        "cron",
    )
    (connector,) = caller.lucidum("/connector")["connectors"]
    assert (connector["connector_name"], connector["display_name"], connector["status"]) == (
        "api",
        "one",
        "OK",
    )


def test_lucidums_connectors_are_shown_and_tried(caller):
    caller.task("one", "id,n\n1,2\n")
    source = caller.server.client.add(
        "sources", type="csv", name="two", input={"url": f"file://{caller.server.data_dir}/files/no.csv",
                                                  "username": "me", "password": "canary-word"})["id"]  # fmt: skip
    end = caller.server.client.add(
        "destinations", type="search", name="d", input={"indexName": "x"}
    )["id"]
    caller.server.client.add("tasks", source=source, destination=end, action="replace")
    one, two = caller.lucidum("/connector")["connectors"]
    of = f"connector_name=api&bridge_name={one['bridge_name']}"
    config = caller.lucidum(f"/connector/config?{of}")
    assert (config["connector_name"], config["display_name"]) == ("api", "one")
    fields = {field["name"]: field for field in config["config"]["field_metadata"]}
    assert (fields["url"]["required"], fields["password"]["secret"]) == (True, True)
    everyone = caller.lucidum("/connector/profile")["connectorProfiles"]
    assert [one["profile_name"] for one in everyone] == ["one", "two"]
    assert "canary-word" not in json.dumps(everyone)
    assert (
        caller.lucidum(f"/connector/profile?{of}&profile_name=one")["connectorProfiles"]
        == everyone[:1]
    )
    caller.lucidum(f"/connector/profile?{of}&profile_name=two", 404)
    assert "bridge_name" in caller.lucidum("/connector/config?connector_name=api", 400)["message"]
    caller.lucidum("/connector/config?connector_name=api&bridge_name=x", 404)

    def tried(connector, status=200, **more):
        body = json.dumps({"connector_name": "api", "bridge_name": connector["bridge_name"]} | more)
        answer = caller.raw(
            "/CMDB/v2/connector/test/async", "POST", body, authorization=f"Bearer {KEY}"
        )
        assert answer.status == status, answer.data
        if status == 200:
            return caller.lucidum(f"/connector/test/result?traceId={answer.json()['traceId']}")
        return None

    good, bad = tried(one), tried(two)
    assert (good["status"], [step["status"] for step in good["test_result"]]) == ("done", ["OK"])
    (step,) = bad["test_result"]
    assert (bad["status"], step["status"]) == ("done", "FAIL")
    assert "No file matches" in step["message"]
    tried(one, 404, bridge_name="x")
    caller.lucidum("/connector/test/result?traceId=x", 404)
    assert (
        caller.raw("/CMDB/v2/connector/profile", "DELETE", authorization=f"Bearer {KEY}").status
        == 405
    )
    assert caller.raw("/CMDB/v2/connector/test/async", "POST", "{}").status == 401


def test_gets_that_start_work_are_audited(caller):
    caller.task("one", "id,n\n1,2\n")
    caller.lucidum("/system/data-ingestion/run")
    ended(caller)
    caller.ibm("?run=true")
    deeds = caller.server.client.call("GET", "/v1/audit")["items"]
    assert [(one["deed"], one["key"], one["via"].split(" from ")[0]) for one in deeds[:2]] == [
        ("execution.started", "admin", "GET /api/import_status.json"),
        ("execution.started", "admin", "GET /CMDB/v2/system/data-ingestion/run"),
    ]
    assert KEY not in json.dumps(deeds)


def test_lucidums_limit_where_it_is_switched_on(tmp_path):
    with serving(tmp_path / "data", HEADRACE_LUCIDUM_RATE="2/60") as server:
        caller = Caller(server)
        for _ in range(2):
            caller.lucidum("/connector")
        answer = caller.raw("/CMDB/v2/connector", authorization=f"Bearer {KEY}")
        assert (answer.status, set(answer.json())) == (429, {"code", "message"})
        assert 0 < int(answer.headers["retry-after"]) <= 60


def test_lucidums_errors_have_codes(caller):
    assert caller.lucidum("/system/data-ingestion/jobs", 401, token="x") == {
        "code": 401001,
        "message": "Invalid token",
    }
    assert caller.lucidum("/nothing", 404)["code"] == 404000
    assert caller.raw("/CMDB/v2/system/data-ingestion/jobs").status == 401


def test_twenty_starts_at_once_are_one_run(caller):
    caller.task("one", "id,n\n" + "".join(f"{n},{n}\n" for n in range(100_000)))
    found = []
    threads = [
        threading.Thread(
            target=lambda: found.append(caller.lucidum("/system/data-ingestion/run")["dag_run_id"])
        )
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
