"""`headrace pools`, `jobs`, `executions`, `keys` against a real server, as a person types them."""

import json
import os
import subprocess
import sys

import pytest

from tests.e2e.test_jobs import Shop
from tests.serving import KEY, serving


class Terminal:
    def __init__(self, server):
        self.server, self.shop = server, Shop(server)

    def __call__(self, *words, code=0, key=KEY):
        env = os.environ | {
            "HEADRACE_URL": self.server.client.url,
            "HEADRACE_ADMIN_KEY": key,
            "COLUMNS": "200",
        }
        done = subprocess.run(
            [sys.executable, "-m", "headrace", *words], capture_output=True, text=True, check=False, env=env,
            timeout=60,
        )  # fmt: skip
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def json(self, *words, code=0):
        return json.loads(self(*words, "--json", code=code).stdout)


@pytest.fixture(scope="module")
def type_(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("cli") / "data") as server:
        yield Terminal(server)


def test_a_job_is_made_started_watched_and_removed(type_):
    pool = type_.json("pools", "add", "sales")["id"]
    assert "sales" in type_("pools", "list").stdout
    a, b = type_.shop.task()[0], type_.shop.task()[0]
    job = type_.json(
        "jobs",
        "add",
        "nightly",
        a,
        b,
        "--pool",
        "sales",
        "--after",
        f"{b}:{a}",
        "--cron",
        "0 3 * * *",
    )
    assert (job["pool"], job["cron"], job["steps"][1]) == (
        pool,
        "0 3 * * *",
        {"task": b, "after": [a]},
    )
    assert "nightly" in type_("jobs", "list").stdout
    assert a in type_("jobs", "show", "nightly").stdout
    assert a in type_("tasks", "list").stdout
    found = type_.json("jobs", "start", "nightly", "--wait")
    assert (found["state"], found["percent"]) == ("succeeded", 100)
    skipped = type_.json("jobs", "start", "nightly", "--mode", "delta", "-w")
    assert skipped["state"] == "skipped"
    shown = type_("executions", "show", found["id"]).stdout
    assert "succeeded" in shown
    assert b in shown
    assert found["id"] in type_("executions", "list").stdout
    assert type_.json("executions", "show", found["id"], "-f")["state"] == "succeeded"
    assert "succeeded already" in type_("executions", "cancel", found["id"], code=2).stderr
    assert "holds the job" in type_("pools", "remove", "sales", code=2).stderr
    type_("jobs", "remove", "nightly")
    type_("pools", "rename", "sales", "gone")
    type_("pools", "remove", "gone")
    assert "gone" not in type_("pools", "list").stdout


def test_a_job_that_fails_exits_so_and_is_tried_again(type_):
    type_("pools", "add", "p")
    bad, path = type_.shop.task(None)
    job = type_.json("jobs", "add", "j", bad, "--pool", "p")["id"]
    failed = type_.json("jobs", "start", job, "-w", code=1)
    assert failed["state"] == "failed"
    type_("executions", "show", failed["id"], "--follow", code=1)
    path.write_text("id,n\n1,2\n")
    again = type_.json("executions", "retry", failed["id"])
    assert type_.json("executions", "show", again["id"], "-f")["state"] == "succeeded"
    assert type_.json("jobs", "start", "everything", "-w")["state"] == "succeeded"


def test_triggers_limits_and_servers(type_):
    a, b = type_.shop.task()[0], type_.shop.task()[0]
    made = type_.json("triggers", "add", "then", "--after-task", a, "--task", b, "--mode", "delta")
    assert (made["afterTask"], made["task"], made["mode"]) == (a, b, "delta")
    assert "then" in type_("triggers", "list").stdout
    assert (
        "start itself"
        in type_("triggers", "add", "x", "--after-task", b, "--task", a, code=2).stderr
    )
    type_("triggers", "remove", made["id"])
    assert type_.json("triggers", "list") == []
    assert (
        "3 at a time, 30 a minute"
        in type_("limits", "set", f"task:{a}", "--runs", "3", "--per-minute", "30").stderr
    )
    assert type_.json("limits", "list") == [{"name": f"task:{a}", "runs": 3, "perMinute": 30}]
    type_("limits", "remove", f"task:{a}")
    assert (
        "must be a number"
        in type_("limits", "set", f"task:{a}", "--runs", "9999999", code=2).stderr
    )
    [server] = type_.json("servers")
    assert (server["alive"], server["roles"]) == (True, ["api", "dispatcher", "ticker"])
    assert "api,dispatcher,ticker" in type_("servers").stdout
    assert type_.json("run", a, "--wait")["state"] == "succeeded"
    assert "succeeded" in type_("run", b, "--wait").stdout


def test_what_is_paused_is_told(type_):
    task = type_.shop.task()[0]
    assert "is paused" in type_("tasks", "pause", task).stderr
    assert [one["paused"] for one in type_.json("tasks", "list") if one["id"] == task] == [True]
    assert "is not paused" in type_("tasks", "resume", task).stderr
    assert "everything is paused" in type_("pause").stderr
    assert type_.json("resume") == {"paused": False}


def test_what_cannot_be_is_told_in_a_sentence(type_):
    assert "headrace pools list" in type_("pools", "remove", "nobody", code=2).stderr
    assert (
        "LATER:EARLIER"
        in type_("jobs", "add", "x", "t", "--pool", "p", "--after", "t", code=2).stderr
    )
    type_("pools", "add", "twin")
    type_("pools", "add", "twin")
    assert "Several pools" in type_("pools", "remove", "twin", code=2).stderr
    assert type_.json("pools", "remove", "nobody", code=2)["error"]["code"] == "resource_not_found"


def test_keys_are_made_shown_once_and_revoked(type_):
    made = type_("keys", "add", "looker", "--role", "viewer")
    key = made.stdout.strip()
    assert key.startswith("hr_")
    assert "sales" not in type_("pools", "list", key=key).stdout
    assert "role operator" in type_("pools", "add", "x", key=key, code=2).stderr
    listed = type_("keys", "list")
    assert key not in listed.stdout
    (id_,) = [one["id"] for one in type_.json("keys", "list") if one["name"] == "looker"]
    type_("keys", "revoke", id_)
    assert "not valid" in type_("pools", "list", key=key, code=2).stderr
