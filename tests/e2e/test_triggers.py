"""Triggers as people use them: after another task or job, and when files have come."""

import itertools
import threading
import time

import pytest

from headrace.domain.errors import HeadraceError
from tests.algolia_fake import until
from tests.serving import send, serving, website

COUNT = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("triggers") / "data") as running:
        yield running


class Shop:
    def __init__(self, server):
        self.server = server
        self.client = server.client
        self.files = server.data_dir / "files"

    def source(self, url=None):
        name = f"f{next(COUNT)}.csv"
        if url is None:
            (self.files / name).write_text("id\n1\n")
        return self.client.add(
            "sources", type="csv", name="s", input={"url": url or f"file://{self.files}/{name}"}
        )["id"]

    def task(self, source=None, action="append"):
        end = self.client.add("destinations", type="duckdb", name="d", input={
            "path": f"{self.files}/d{next(COUNT)}.duckdb"})["id"]  # fmt: skip
        return self.client.add(
            "tasks", source=source or self.source(), destination=end, action=action, table="t"
        )["id"]  # fmt: skip

    def job(self, *tasks):
        pool = self.client.call("POST", "/v1/pools", {"name": "p"})["id"]
        steps = [{"task": task} for task in tasks]
        return self.client.call("POST", "/v1/jobs", {"pool": pool, "name": "j", "steps": steps})[
            "id"
        ]

    def trigger(self, **given):
        return self.client.call("POST", "/v1/triggers", {"name": "t"} | given)

    def runs(self, task):
        return self.client.call("GET", f"/v1/runs?task={task}")["items"]

    def succeeded(self, task):
        return [run for run in self.runs(task) if run["state"] == "succeeded"]


@pytest.fixture
def shop(server):
    return Shop(server)


def test_a_task_starts_after_another_has_succeeded_and_not_after_it_failed(shop):
    first, second, third = shop.task(), shop.task(), shop.task()
    broken = shop.task(source=shop.source(f"file://{shop.files}/nothing.csv"))
    for cause, task in ((first, second), (second, third), (broken, third)):
        shop.trigger(afterTask=cause, task=task)
    run = shop.client.start(first)["id"]
    assert shop.client.wait(run)["state"] == "succeeded"
    assert shop.client.wait(shop.client.start(broken)["id"])["state"] == "failed"
    until(lambda: shop.succeeded(third))
    time.sleep(1)
    assert len(shop.runs(second)) == len(shop.runs(third)) == 1
    assert shop.runs(third)[0]["trigger"] == "after"


def test_jobs_start_after_tasks_and_tasks_after_jobs(shop):
    begin, inside, after = shop.task(), shop.task(), shop.task()
    job = shop.job(inside)
    shop.trigger(afterTask=begin, job=job)
    shop.trigger(afterJob=job, task=after, mode="full")
    shop.client.start(begin)
    until(lambda: shop.succeeded(after))
    assert len(shop.succeeded(inside)) == 1


def test_what_would_start_itself_is_refused(shop):
    first, second = shop.task(), shop.task()
    job = shop.job(first)
    shop.trigger(afterTask=first, task=second)
    with pytest.raises(HeadraceError, match="start itself"):
        shop.trigger(afterTask=second, task=first)
    with pytest.raises(HeadraceError, match="start itself"):
        shop.trigger(afterTask=first, task=first)
    with pytest.raises(HeadraceError, match="start itself"):
        shop.trigger(afterTask=second, job=job)  # it has the first as its step


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "task"), ({"task": "x", "job": "y"}, "task"), ({"task": "x"}, "afterTask"),
        ({"task": "x", "afterTask": "y", "source": "z"}, "afterTask"),
        ({"task": "x", "afterTask": "y"}, "task"), ({"task": "x", "source": "y", "every": 0}, "every"),
    ],
)  # fmt: skip
def test_a_trigger_that_cannot_be_names_the_member(shop, given, field):
    with pytest.raises(HeadraceError) as caught:
        shop.trigger(**given)
    assert caught.value.field == field


def test_what_cannot_be_watched_is_refused(shop):
    source = shop.client.add(
        "sources", type="postgresql", name="s",
        input={"url": "postgresql://nobody@127.0.0.1:1/x", "table": "t"},
    )["id"]  # fmt: skip
    with pytest.raises(HeadraceError, match="cannot be watched"):
        shop.trigger(task=shop.task(), source=source)


def test_new_files_of_a_folder_are_loaded_when_they_rest(shop):
    folder = shop.files / f"in{next(COUNT)}"
    folder.mkdir()
    (folder / "old.csv").write_text("id\n1\n")
    source = shop.source(f"file://{folder}/*.csv")
    task = shop.task(source)
    assert shop.client.wait(shop.client.start(task)["id"])["state"] == "succeeded"
    made = shop.trigger(source=source, task=task, mode="delta", every=1)
    time.sleep(3)
    assert len(shop.runs(task)) == 1  # what was there before is not new
    writing = threading.Event()

    def write_slowly():
        with (folder / "new.csv").open("w") as file:
            file.write("id\n")
            while not writing.is_set():
                file.write("2\n")
                file.flush()
                time.sleep(0.2)

    writer = threading.Thread(target=write_slowly)
    writer.start()
    time.sleep(4)
    assert len(shop.runs(task)) == 1  # it is still being written
    writing.set()
    writer.join()
    until(lambda: len(shop.succeeded(task)) == 2)
    lines = (folder / "new.csv").read_text().count("\n") - 1
    end = shop.client.call("GET", f"/v1/tasks/{task}")["destination"]
    assert len(list(shop.client.rows(end, "t"))) == 1 + lines
    time.sleep(3)
    assert len(shop.runs(task)) == 2  # each state of the folder once
    assert shop.runs(task)[0]["trigger"] == "watch"
    shop.client.call("DELETE", f"/v1/triggers/{made['id']}")
    (folder / "later.csv").write_text("id\n9\n")
    time.sleep(3)
    assert len(shop.runs(task)) == 2


def test_a_file_of_a_website_is_loaded_when_its_etag_changes(shop):
    state = {"etag": '"1"', "down": False}

    def answer(request):
        if state["down"]:
            send(request, b"", 500)
        elif request.command == "HEAD":
            request.send_response(200)
            request.send_header("ETag", state["etag"])
            request.send_header("Content-Length", "5")
            request.end_headers()
        else:
            send(request, b"id\n1\n", ETag=state["etag"])

    with website(answer) as url:
        source = shop.source(f"{url}/x.csv")
        task = shop.task(source)
        trigger = shop.trigger(source=source, task=task, every=1)["id"]
        time.sleep(2.5)
        assert shop.runs(task) == []
        state["down"] = True

        def told():
            [one] = [
                one
                for one in shop.client.call("GET", "/v1/triggers")["items"]
                if one["id"] == trigger
            ]
            return one["problem"] or ""

        until(lambda: "answered 500" in told())
        state |= {"etag": '"2"', "down": False}
        until(lambda: shop.succeeded(task))
        assert told() == ""
        time.sleep(2)
        assert len(shop.runs(task)) == 1
        shop.client.call("DELETE", f"/v1/triggers/{trigger}")


@pytest.mark.faults
def test_a_kill_between_the_cause_and_its_effect_loses_no_start(tmp_path):
    """The cause is noted in the transaction that ends the run."""
    marker = tmp_path / "happened"
    marker.touch()
    env = {"HEADRACE_FAULT": "server.triggered", "HEADRACE_FAULT_ONCE": str(marker)}
    with serving(tmp_path / "data", **env) as server:
        shop = Shop(server)
        first, second = shop.task(), shop.task()
        shop.trigger(afterTask=first, task=second)
        marker.unlink()
        shop.client.start(first)
        server.process.wait(20)
        server.start(**env)
        shop.client = server.client
        until(lambda: shop.succeeded(second))
        time.sleep(1)
        assert len(shop.runs(second)) == 1
