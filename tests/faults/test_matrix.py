"""What may go wrong around a run, each with a real server: nothing is lost, nothing is twice."""

import glob
import os
import shutil
import subprocess
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from headrace.domain.errors import HeadraceError
from tests.algolia_fake import until
from tests.faults.test_servers import Shop, cluster, ended, rows, slow_site
from tests.proxy import proxied
from tests.serving import serving

__all__ = ["cluster", "slow_site"]

FAKETIME = next(iter(glob.glob("/usr/lib/*/faketime/libfaketime.so.1")), None)
ROWS = 20_000


def task_into(server, url, rows_=ROWS):
    """Return a task that appends a file to a table of PostgreSQL."""
    path = server.data_dir / "files" / "in.csv"
    path.write_text("id,name\n" + "".join(f"{n},{'x' * 50}{n}\n" for n in range(rows_)))
    client = server.client
    source = client.add("sources", type="csv", name="s", input={"url": f"file://{path}"})["id"]
    end = client.add("destinations", type="postgresql", name="d", input={"url": url})["id"]
    return client.add("tasks", source=source, destination=end, action="append", table="t")["id"]


@pytest.mark.faults
@pytest.mark.parametrize("how", ["refuses", "cuts", "stalls"])
def test_a_destination_in_trouble_gets_every_row_once(how, tmp_path, fresh_database):
    with (
        proxied(fresh_database) as (proxy, url),
        serving(tmp_path / "data", HEADRACE_STALL="3") as server,
    ):
        task = task_into(server, url)
        if how == "refuses":
            proxy.refuses = True
        elif how == "cuts":
            proxy.cut_after = 300_000  # in the middle of the rows
        else:
            proxy.stalls.set()
        run = server.client.start(task)["id"]
        if how == "stalls":
            until(lambda: server.client.run(run)["attempt"] >= 2)
        else:
            until(lambda: "next try" in (server.client.run(run)["waitingFor"] or ""))
        assert server.client.run(run)["state"] != "failed"
        proxy.refuses, proxy.cut_after = False, None
        proxy.stalls.clear()
        found = ended(server.client, run, 60)
        assert found["state"] == "succeeded", found
        assert proxy.cuts == (1 if how == "cuts" else 0) or proxy.cuts > 1
    assert rows(fresh_database, "t") == (ROWS, ROWS)


@pytest.mark.faults
def test_a_destination_that_is_cut_again_and_again_fails_the_run_and_keeps_the_table(
    tmp_path, fresh_database
):
    with (
        proxied(fresh_database) as (proxy, url),
        serving(tmp_path / "data") as server,
    ):
        task = task_into(server, url)
        assert ended(server.client, server.client.start(task)["id"])["state"] == "succeeded"
        proxy.cut_after = 300_000
        run = server.client.start(task)["id"]
        found = until(
            lambda: (
                found
                if (found := server.client.run(run))["state"] == "failed"
                or "which is down" in (found["waitingFor"] or "")
                else None
            ), 60,
        )  # fmt: skip
        assert found["error"] or found["waitingFor"].startswith("its destination")
        [breaker] = server.client.call("GET", "/v1/breakers")["items"]
        assert breaker["open"]
        assert rows(fresh_database, "t") == (ROWS, ROWS)


@pytest.mark.faults
def test_a_run_that_kills_its_worker_again_and_again_fails_and_holds_up_no_other(tmp_path):
    fault = {"HEADRACE_FAULT": "child.fetched"}
    with serving(tmp_path / "data", HEADRACE_WORKERS="1", **fault) as server:
        (server.data_dir / "files" / "x.csv").write_text("id\n1\n")
        client = server.client
        source = client.add(
            "sources", type="csv", name="s", input={"url": f"file://{server.data_dir}/files/x.csv"}
        )["id"]
        runs = []
        for name in "ab":
            end = client.add("destinations", type="duckdb", name="d", input={
                "path": f"{server.data_dir}/files/{name}.duckdb"})["id"]  # fmt: skip
            task = client.add("tasks", source=source, destination=end, action="replace")["id"]
            runs.append(client.start(task)["id"])
        for run in runs:
            found = ended(client, run, 60)
            assert found["state"] == "failed"
            assert found["error"]["code"] == "worker_died"
            assert found["attempt"] == 3
        assert server.alive


@pytest.mark.faults
def test_a_worker_that_takes_too_much_memory_is_killed_and_its_run_tried_again(tmp_path):
    env = {
        "HEADRACE_FAULT": "child.fetched:hog", "HEADRACE_FAULT_ONCE": str(tmp_path / "happened"),
        "HEADRACE_MEMORY": "384MB",
    }  # fmt: skip
    with serving(tmp_path / "data", **env) as server:
        files, client = server.data_dir / "files", server.client
        (files / "x.csv").write_text("id\n1\n")
        source = client.add("sources", type="csv", name="s", input={"url": f"file://{files}/x.csv"})
        end = client.add("destinations", type="duckdb", name="d", input={
            "path": f"{files}/o.duckdb"})["id"]  # fmt: skip
        task = client.add("tasks", source=source["id"], destination=end, action="append")["id"]
        run = client.start(task)["id"]
        found = ended(client, run, 60)
        assert (found["state"], found["attempt"]) == ("succeeded", 2)
        told = [one["message"] for one in client.events(run)]
        assert any("MiB of memory" in message for message in told), told


@pytest.mark.faults
@pytest.mark.parametrize("jump", ["+3600s", "-3600s"])
def test_a_clock_that_jumps_by_an_hour_loses_and_doubles_nothing(
    jump, tmp_path, slow_site, fresh_database
):
    if FAKETIME is None:
        if os.environ.get("CI"):
            raise AssertionError("libfaketime is not there: Debian's faketime has it")
        pytest.skip("libfaketime is not there: apt-get install faketime")
    clock = tmp_path / "clock"
    clock.write_text("+0s")
    env = {
        "LD_PRELOAD": FAKETIME, "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    with serving(tmp_path / "data", **env) as server:
        client = server.client
        shop = Shop(client, slow_site.url, fresh_database)
        going = client.start(shop.task("slow"))["id"]
        broken = client.start(shop.task("slow2"))["id"]
        until(lambda: len(slow_site.calls) >= 2)
        clock.write_text(jump)
        time.sleep(1.5)
        slow_site.free.set()
        for run in (going, broken):
            assert ended(client, run, 60)["state"] == "succeeded"
        assert rows(fresh_database, "slow") == (2, 2)
        assert rows(fresh_database, "slow2") == (2, 2)
        clock.write_text("+0s")
        later = client.start(shop.task("quick"))["id"]
        assert ended(client, later, 60)["state"] == "succeeded"
        moments = [one["at"] for one in client.events(going)]
        assert moments == sorted(moments)


@pytest.mark.faults
def test_three_tickers_and_two_thousand_due_tasks_give_two_thousand_runs(
    cluster, slow_site, fresh_database
):
    api = cluster.server("api", HEADRACE_ROLE="api")
    shop = Shop(api.client, slow_site.url, fresh_database)
    task = shop.task("quick", cron="0 3 1 1 *")  # once a year: nothing comes up meanwhile
    year = (datetime.now(UTC) - timedelta(hours=3)).year
    moment = int(datetime(year, 1, 1, 3, tzinfo=UTC).timestamp() * 1000)
    for n in range(3):
        cluster.server(f"ticker{n}", HEADRACE_ROLE="ticker")
    with psycopg.connect(fresh_database, autocommit=True) as con:
        columns = [row[0] for row in con.execute(
            "select column_name from information_schema.columns where table_name = 'task'"
        )]  # fmt: skip
        names = ", ".join(columns)
        changed = {
            "id": "'00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0')", "next_run": f"{moment}",
        }  # fmt: skip
        values = ", ".join(changed.get(name, f"t.{name}") for name in columns)
        con.execute(
            f"insert into task ({names}) select {values} from task t, generate_series(1, 2000) n"
            " where t.id = %s", [task],
        )  # fmt: skip

        def fired():
            return con.execute("select count(*) from run where fire = %s", [moment]).fetchone()[0]

        until(lambda: fired() >= 2_000, 90)
        time.sleep(3)
        assert fired() == 2_000
        twice = con.execute(
            "select count(*) from (select task, fire from run group by 1, 2 having count(*) > 1) x"
        ).fetchone()[0]
        assert twice == 0


@pytest.mark.faults
def test_servers_are_replaced_one_by_one_under_load_and_nothing_fails(
    cluster, slow_site, fresh_database
):
    """A rolling upgrade: each is asked to stop while another works, and comes back."""
    slow_site.free.set()
    one, two = (
        cluster.server("one", HEADRACE_DRAIN="20"),
        cluster.server("two", HEADRACE_DRAIN="20"),
    )
    shop = Shop(one.client, slow_site.url, fresh_database)
    tasks = [shop.task(f"t{n}") for n in range(6)]
    started = []

    def start(server, task):
        try:
            started.append(server.client.start(task)["id"])
        except HeadraceError as error:
            assert "has a run" in str(error), error

    servers = [one, two]
    for place in (0, 1, 0):
        leaving, staying = servers[place], servers[1 - place]
        for _ in range(8):
            for task in tasks:
                start(staying, task)
            time.sleep(0.1)
        leaving.process.terminate()
        until(lambda leaving=leaving: not leaving.alive)
        for task in tasks:
            start(staying, task)
        leaving.start()
    client = one.client
    for run in started:
        found = ended(client, run, 60)
        assert (found["state"], found["attempt"]) == ("succeeded", 1), found
    expected = Counter(client.run(run)["task"] for run in started)
    for number, task in enumerate(tasks):
        assert rows(fresh_database, f"t{number}") == (2 * expected[task], 2)


@pytest.mark.faults
def test_a_full_disk_under_the_store_is_told_and_passes(tmp_path, slow_site, fresh_database):
    """The control store cannot grow: calls are refused clearly, runs go on when there is room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.getuid() == 0 and not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], capture_output=True, check=False
    ).returncode  # fmt: skip
    if not mounted:
        pytest.skip("a small disk can be mounted by root only")
    try:
        with serving(tmp_path / "data", database=f"sqlite:///{disk}/control.db") as server:
            client = server.client
            shop = Shop(client, slow_site.url, fresh_database)
            run = client.start(shop.task("slow"))["id"]
            until(lambda: slow_site.calls)
            with (disk / "ballast").open("wb") as ballast, pytest.raises(OSError, match="space"):
                while True:
                    ballast.write(bytes(1 << 16))
                    ballast.flush()
            with pytest.raises(HeadraceError, match="control store"):
                for _ in range(200):
                    client.add("sources", type="csv", name="x" * 300, input={"url": "/x"})
            slow_site.free.set()  # the run ends, and nothing can be written about it
            time.sleep(2)
            assert client.call("GET", "/healthz")["status"] == "ok"
            (disk / "ballast").unlink()
            found = ended(client, run, 60)
            assert found["state"] == "succeeded"
            assert rows(fresh_database, "slow") == (2, 2)
    finally:
        subprocess.run(["umount", "-l", disk], check=False)
        shutil.rmtree(disk, ignore_errors=True)
