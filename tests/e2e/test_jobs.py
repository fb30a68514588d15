"""Jobs on a real server: steps in their order, siblings that go on, cancel, retry, delta, schedules."""

import itertools
import sqlite3
import threading
import time

import pytest

from headrace.client import Client
from headrace.domain.errors import CallerError, HeadraceError
from tests.algolia_fake import until
from tests.serving import serving, website


class Shop:
    """Tasks over files, in jobs."""

    def __init__(self, server):
        self.server = server
        self.pool = self.call("POST", "/v1/pools", {"name": "shop"})["id"]
        self.folder = server.data_dir / "files"
        self.n = 0

    def call(self, method, path, body=None):
        return self.server.client.call(method, path, body)

    def task(self, text="id,n\n1,5\n"):
        self.n += 1
        path = self.folder / f"t{self.n}-{time.monotonic_ns()}.csv"
        if text is not None:
            path.write_text(text)
        source = self.call("POST", "/v1/sources", {"type": "csv", "name": "s", "input": {
            "url": f"file://{path}", "uniqueIDColumn": "id"}})["id"]  # fmt: skip
        end = self.call("POST", "/v1/destinations", {"type": "search", "name": "d", "input": {
            "indexName": path.stem}})["id"]  # fmt: skip
        task = self.call(
            "POST", "/v1/tasks", {"source": source, "destination": end, "action": "save"}
        )["id"]
        return task, path

    def job(self, *steps, **more):
        steps = [step if isinstance(step, dict) else {"task": step} for step in steps]
        return self.call(
            "POST", "/v1/jobs", {"pool": self.pool, "name": "j", "steps": steps} | more
        )["id"]

    def start(self, job, mode="full"):
        return self.call("POST", f"/v1/jobs/{job}/executions?mode={mode}")["id"]

    def wait(self, execution, seconds=30):
        until = time.monotonic() + seconds
        last = 0
        while True:
            found = self.call("GET", f"/v1/executions/{execution}")
            assert found["percent"] >= last
            last = found["percent"]
            if found["finishedAt"]:
                return found
            assert time.monotonic() < until, found
            time.sleep(0.05)

    def done(self, job, mode="full"):
        found = self.wait(self.start(job, mode))
        return found["state"], [step["state"] for step in found["steps"]]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("jobs") / "data") as server:
        yield Shop(server)


def test_steps_run_in_their_order(shop):
    a, b, c = (shop.task()[0] for _ in range(3))
    job = shop.job({"task": c, "after": [b]}, {"task": b, "after": [a]}, a)
    found = shop.wait(shop.start(job))
    assert found["state"] == "succeeded"
    runs = {step["task"]: shop.call("GET", f"/v1/runs/{step['run']}") for step in found["steps"]}
    assert (
        runs[a]["finishedAt"] <= runs[b]["queuedAt"] < runs[b]["finishedAt"] <= runs[c]["queuedAt"]
    )
    assert {run["execution"] for run in runs.values()} == {found["id"]}
    assert found["percent"] == 100


def test_a_failed_step_stops_its_dependents_and_others_only_if_the_job_says_so(shop):
    good, bad, after = shop.task()[0], shop.task(None), shop.task()[0]
    job = shop.job(good, bad[0], {"task": after, "after": [bad[0]]})
    state, steps = shop.done(job)
    assert (state, sorted(steps)) == ("failed", ["failed", "notStarted", "succeeded"])
    execution = shop.call("GET", f"/v1/executions?job={job}")["items"][0]["id"]
    bad[1].write_text("id,n\n1,2\n")
    again = shop.wait(shop.call("POST", f"/v1/executions/{execution}/retry")["id"])
    assert (again["state"], [step["task"] for step in again["steps"]]) == (
        "succeeded",
        [bad[0], after],
    )
    with pytest.raises(HeadraceError) as caught:
        shop.call("POST", f"/v1/executions/{again['id']}/retry")
    assert "Every step" in str(caught.value)
    bad[1].unlink()
    late = {"task": good, "after": [after]}
    strict = shop.job(bad[0], after, late, stopOnFailure=True)
    shop.call("PUT", "/v1/limits/tenant", {"runs": 1})  # one after the other: the first fails first
    state, steps = shop.done(strict)
    shop.call("DELETE", "/v1/limits/tenant")
    assert (state, steps) == ("failed", ["failed", "succeeded", "notStarted"])


def test_delta_skips_what_has_not_changed(shop):
    (a, path), (b, _) = shop.task(), shop.task()
    job = shop.job(a, b)
    assert shop.done(job, "delta") == ("succeeded", ["succeeded", "succeeded"])
    assert shop.done(job, "delta") == ("skipped", ["skipped", "skipped"])
    path.write_text("id,n\n1,5\n2,6\n")
    assert shop.done(job, "delta") == ("succeeded", ["succeeded", "skipped"])
    assert shop.done(job, "full") == ("succeeded", ["succeeded", "succeeded"])


def test_one_execution_of_a_job_at_a_time_even_from_many_threads(shop):
    job = shop.job(*(shop.task()[0] for _ in range(3)))
    started, refused = [], []

    def start():
        try:
            started.append(shop.server.client.call("POST", f"/v1/jobs/{job}/executions")["id"])
        except HeadraceError as error:
            refused.append(str(error).partition(" that is")[0])

    threads = [threading.Thread(target=start) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) + len(refused) == 12
    assert set(refused) <= {"The job has an execution"}
    for one in started:
        assert shop.wait(one)["state"] == "succeeded"
    times = sorted(
        (found["queuedAt"], found["finishedAt"])
        for found in (shop.call("GET", f"/v1/executions/{one}") for one in started)
    )
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(times))


def test_a_cancel_stops_everything(shop):
    slow = "id,n\n" + "".join(f"{n},{n}\n" for n in range(200_000))
    tasks = [shop.task(slow)[0] for _ in range(5)]
    job = shop.job(*tasks[:4], {"task": tasks[4], "after": [tasks[0]]})
    execution = shop.start(job)
    with pytest.raises(HeadraceError):
        shop.call("DELETE", f"/v1/jobs/{job}")
    shop.call("POST", f"/v1/executions/{execution}/cancel")
    found = shop.wait(execution)
    assert found["state"] == "cancelled"
    assert {step["state"] for step in found["steps"]} <= {"cancelled", "notStarted", "succeeded"}
    assert found["steps"][-1]["state"] == "notStarted"
    assert shop.call("POST", f"/v1/executions/{execution}/cancel")["state"] == "cancelled"
    shop.call("DELETE", f"/v1/jobs/{job}")


@pytest.mark.parametrize("how", ["disabled", "removed"])
def test_a_task_that_is_gone_in_between_ends_the_execution_not_hangs_it(shop, how):
    slow = "id,n\n" + "".join(f"{n},{n}\n" for n in range(150_000))
    a, b, c = shop.task(slow)[0], shop.task()[0], shop.task()[0]
    job = shop.job(a, {"task": b, "after": [a]}, {"task": c, "after": [b]})
    execution = shop.start(job)
    if how == "disabled":
        shop.call("PATCH", f"/v1/tasks/{b}", {"enabled": False})
    else:
        with pytest.raises(CallerError, match=f"used by job {job}"):
            shop.call("DELETE", f"/v1/tasks/{b}")
        shop.call("PATCH", f"/v1/jobs/{job}", {"steps": [{"task": a}, {"task": c}]})
        shop.call("DELETE", f"/v1/tasks/{b}")
    found = shop.wait(execution)
    assert (found["state"], [step["state"] for step in found["steps"]]) == (
        "failed", ["succeeded", "notStarted", "notStarted"],
    )  # fmt: skip


def test_a_destination_that_cannot_be_made_fails_its_run_and_holds_up_nobody(shop):
    bad, good = shop.task()[0], shop.task()[0]
    end = shop.call("GET", f"/v1/tasks/{bad}")["destination"]
    with sqlite3.connect(shop.server.data_dir / "control.db") as con:
        con.execute("update destination set input = ? where id = ?", ['{"nothing": 1}', end])
    found = shop.wait(shop.start(shop.job(bad, good)))
    assert {step["task"]: step["state"] for step in found["steps"]} == {
        bad: "failed",
        good: "succeeded",
    }
    shop.call("GET", "/readyz")


def test_the_built_in_job_starts_every_enabled_task(shop):
    a, b = shop.task()[0], shop.task()[0]
    shop.call("PATCH", f"/v1/tasks/{b}", {"enabled": False})
    job = shop.call("GET", "/v1/jobs/everything")
    assert job["everything"] is True
    assert shop.call("GET", "/v1/jobs/everything")["id"] == job["id"]
    execution = shop.start("everything")
    named = {step["task"] for step in shop.wait(execution, 60)["steps"]}
    assert a in named
    assert b not in named
    with pytest.raises(HeadraceError):
        shop.call("DELETE", f"/v1/jobs/{job['id']}")


@pytest.mark.parametrize(("change", "field"), [
    ({"steps": []}, "steps"), ({"steps": [{"task": "x"}]}, "cannot find task x"), ({"name": " "}, "name"),
    ({"cron": "never"}, "cron"), ({"pool": "x"}, "pool"), ({"mode": "some"}, "mode"),
    ({"steps": "circle"}, "circle"), ({"steps": "twice"}, "twice"), ({"steps": "itself"}, "after"),
])  # fmt: skip
def test_a_job_that_cannot_be_is_refused_by_field(shop, change, field):
    a, b = shop.task()[0], shop.task()[0]
    steps = {"circle": [{"task": a, "after": [b]}, {"task": b, "after": [a]}], "twice": [{"task": a}, {"task": a}],
             "itself": [{"task": a, "after": [a]}]}  # fmt: skip
    body = {"pool": shop.pool, "name": "j", "steps": [{"task": a}]} | change
    if isinstance(change.get("steps"), str):
        body["steps"] = steps[change["steps"]]
    with pytest.raises(HeadraceError) as caught:
        shop.call("POST", "/v1/jobs", body)
    assert field in str(caught.value)


@pytest.mark.faults
@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_an_execution_survives_its_server(store, tmp_path, fresh_database):
    database = fresh_database if store == "postgresql" else None
    with serving(tmp_path / "data", database=database, HEADRACE_LEASE="1.5") as server:
        shop = Shop(server)
        slow = "id,n\n" + "".join(f"{n},{n}\n" for n in range(100_000))
        a, b, c = shop.task(slow)[0], shop.task()[0], shop.task()[0]
        job = shop.job(a, {"task": b, "after": [a]}, {"task": c, "after": [b]})
        execution = shop.start(job)
        time.sleep(0.3)
        server.kill()
        server.start(HEADRACE_LEASE="1.5")
        shop.client = server.client
        found = shop.wait(execution, 60)
        assert (found["state"], {step["state"] for step in found["steps"]}) == (
            "succeeded",
            {"succeeded"},
        )


def test_executions_are_paged_newest_first_with_those_of_tasks_started_alone(shop):
    task, _ = shop.task()
    job = shop.job(task)
    made = []
    for _ in range(2):
        made.append(shop.start(job))
        shop.wait(made[-1])
        run = shop.call("POST", f"/v1/tasks/{task}/runs")
        made.append(run["execution"])
        shop.wait(made[-1])
    found, cursor = [], ""
    while True:
        page = shop.call("GET", f"/v1/executions?limit=3{cursor}")
        found += page["items"]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    ids = [one["id"] for one in found]
    assert ids[:4] == made[::-1]
    assert len(set(ids)) == len(ids)
    assert [one["job"] for one in found[:4]] == [None, job, None, job]
    assert {one["id"] for one in shop.call("GET", f"/v1/executions?job={job}")["items"]} == {
        made[0],
        made[2],
    }
    for cursor in ("x", "1.x", "-1.01a00000-0000-7000-8000-000000000000"):
        with pytest.raises(CallerError, match="cursor"):
            shop.call("GET", f"/v1/executions?cursor={cursor}")
    cancelled = shop.call("POST", f"/v1/tasks/{task}/runs")["execution"]
    with pytest.raises(CallerError, match=r"/v1/tasks/|not over"):
        shop.call("POST", f"/v1/executions/{cancelled}/retry")
    shop.wait(cancelled)


def test_a_moment_of_a_jobs_schedule_waits_for_the_execution_under_way(shop):
    slow = "id,n\n" + "".join(f"{n},{n}\n" for n in range(200_000))
    task, _ = shop.task(slow)
    job = shop.job(
        task, cron="0 0 1 1 *", timing={"timezone": "Europe/Berlin", "overlap": "queueOne"}
    )
    told = shop.call("GET", f"/v1/jobs/{job}")
    assert told["nextRun"].endswith("-12-31T23:00:00.000Z")
    assert told["timing"] == {"timezone": "Europe/Berlin", "missed": "latest", "missedMax": 10,
                              "overlap": "queueOne", "jitter": 0}  # fmt: skip
    first = shop.start(job)
    for _ in range(2):  # twice is still one that waits
        with sqlite3.connect(shop.server.data_dir / "control.db") as con:
            con.execute("update job set next_run = 1000 where id = ?", [job])
        until(lambda: shop.call("GET", f"/v1/jobs/{job}")["nextRun"] > "2026")
    shop.wait(first)
    found = until(lambda: [one for one in shop.call("GET", f"/v1/executions?job={job}")["items"] if one["id"] != first],
                  10)  # fmt: skip
    assert [one["trigger"] for one in found] == ["schedule"]
    shop.wait(found[0]["id"])
    time.sleep(1.2)
    assert len(shop.call("GET", f"/v1/executions?job={job}")["items"]) == 2


def test_a_paused_task_waits_and_says_so(shop):
    task, _ = shop.task()
    assert shop.call("POST", f"/v1/tasks/{task}/pause")["paused"] is True
    run = shop.call("POST", f"/v1/tasks/{task}/runs")["id"]
    waits = "the end of the pause of its task"
    until(lambda: shop.call("GET", f"/v1/runs/{run}")["waitingFor"] == waits)
    assert shop.call("POST", f"/v1/tasks/{task}/resume")["paused"] is False
    assert shop.server.client.wait(run, 60)["state"] == "succeeded"
    assert shop.call("POST", "/v1/pause") == {"paused": True}
    assert shop.call("GET", f"/v1/tasks/{task}")["paused"] is True
    run = shop.call("POST", f"/v1/tasks/{task}/runs")["id"]
    waits = "the end of the pause of everything"
    until(lambda: shop.call("GET", f"/v1/runs/{run}")["waitingFor"] == waits)
    shop.call("POST", "/v1/resume")
    assert shop.server.client.wait(run, 60)["state"] == "succeeded"
    for given, field in (({"cron": "x"}, "cron"), ({"cron": "@hourly", "timing": {"timezone": "Mars/X"}}, "timezone"),
                         ({"cron": "@hourly", "timing": {"jitter": -5}}, "jitter"),
                         ({"timing": {"overlap": "both"}}, "overlap")):  # fmt: skip
        with pytest.raises(CallerError) as caught:
            shop.call("PATCH", f"/v1/tasks/{task}", given)
        assert field in caught.value.field
    changed = shop.call("PATCH", f"/v1/tasks/{task}", {"cron": "@hourly", "timing": {"jitter": 60}})
    assert (changed["cron"], changed["nextRun"] is not None, changed["lastRun"] is not None) == (
        "@hourly",
        True,
        True,
    )
    assert shop.call("PATCH", f"/v1/tasks/{task}", {"cron": None})["nextRun"] is None


def test_limits_of_time_and_of_the_queue(tmp_path):
    over = threading.Event()
    limits = {"HEADRACE_RUN_MAX": "6", "HEADRACE_QUEUE_MAX": "3", "HEADRACE_WORKERS": "1"}
    with website(lambda _: over.wait(60)) as url, serving(tmp_path / "data", **limits) as server:
        shop = Shop(server)
        task, path = shop.task()
        source = f"/v1/sources/{shop.call('GET', f'/v1/tasks/{task}')['source']}"
        shop.call("PATCH", source, {"input": {"url": url}})  # which never answers
        run = server.client.wait(shop.call("POST", f"/v1/tasks/{task}/runs")["id"], 60)
        assert (run["state"], run["error"]["code"], run["attempt"]) == ("failed", "timed_out", 1)
        assert "HEADRACE_RUN_MAX" in run["error"]["hint"]
        over.set()
        shop.call("PATCH", source, {"input": {"url": f"file://{path}"}})
        assert (
            server.client.wait(shop.call("POST", f"/v1/tasks/{task}/runs")["id"], 60)["state"]
            == "succeeded"
        )
        shop.call("POST", "/v1/pause")
        tasks = [shop.task()[0] for _ in range(4)]
        for one in tasks[:3]:
            shop.call("POST", f"/v1/tasks/{one}/runs")
        with pytest.raises(CallerError, match="3 runs are waiting already"):
            shop.call("POST", f"/v1/tasks/{tasks[3]}/runs")
        with pytest.raises(CallerError, match="waiting already"):
            shop.start(shop.job(tasks[3]))
        shop.call("POST", "/v1/resume")


def test_limits_are_of_what_is_ones_own_and_of_all_for_admins(shop):
    task, _ = shop.task()
    made = shop.call("POST", "/v1/keys", {"name": "operator", "role": "operator"})
    operator = Client(shop.server.client.url, key=made["key"])
    assert operator.call("PUT", f"/v1/limits/task:{task}", {"runs": 1}) == {
        "name": f"task:{task}",
        "runs": 1,
        "perMinute": None,
    }
    for name in ("server", "source", "tenant"):
        with pytest.raises(CallerError, match="needs the role admin"):
            operator.call("PUT", f"/v1/limits/{name}", {"runs": 1})
        shop.call("PUT", f"/v1/limits/{name}", {"runs": 5})
        shop.call("PUT", f"/v1/limits/{name}", {"runs": None})
    other = "01a00000-0000-7000-8000-000000000000"
    for name in (f"task:{other}", f"tenant:{other}", "source:x", "destination:x"):
        with pytest.raises(CallerError, match="cannot find"):
            shop.call("PUT", f"/v1/limits/{name}", {"runs": 1})
    for name, runs in (("nothing", 1), (f"task:{task}", -1)):
        with pytest.raises(CallerError):
            shop.call("PUT", f"/v1/limits/{name}", {"runs": runs})
    operator.close()
