"""A soak: three servers work while they are killed, frozen and cut off; then everything is counted.

Short in `make test`, at least ten minutes in `make test-faults`. HEADRACE_SOAK sets the seconds.
"""

import contextlib
import json
import os
import random
import signal
import time

import psutil
import psycopg
import pytest

from headrace.domain.errors import HeadraceError
from tests.faults.test_pushes import HEADERS, Pusher
from tests.faults.test_servers import Cluster
from tests.postgres import Postgres
from tests.proxy import proxied

LONG = os.environ.get("HEADRACE_FAULTS") == "all"
SECONDS = float(os.environ.get("HEADRACE_SOAK", "600" if LONG else "15"))
ENDED = ("succeeded", "failed", "cancelled", "skipped")
ROWS = 40


class Soak:
    """The world of one soak: what was given to it, and what must be there in the end."""

    def __init__(self, cluster, proxy, target, seed):
        self.cluster = cluster
        self.proxy = proxy
        self.target = target
        self.chance = random.Random(seed)
        self.files = cluster.folder / "shared" / "files" / "in"
        self.files.mkdir(parents=True)
        self.whole = self.files.parent / "whole.csv"
        self.given = 0  # rows in files, each with an id of its own
        self.version = 0
        self.pushed = 0
        self.did = {}

    # The set-up.

    def prepare(self, through):
        one = self.cluster.servers[0].client
        self.add_file()
        self.change_whole()
        end = one.add("destinations", type="postgresql", name="d", input={"url": through})["id"]
        many = one.add(
            "sources", type="csv", name="many",
            input={"url": f"file://{self.files}/*.csv", "mapping": {"id": "integer"}},
        )["id"]  # fmt: skip
        whole = one.add(
            "sources", type="csv", name="whole",
            input={"url": f"file://{self.whole}", "mapping": {"id": "integer"}},
        )["id"]  # fmt: skip
        self.append = one.add(
            "tasks", source=many, destination=end, action="append", table="many",
        )["id"]  # fmt: skip
        self.replace = one.add(
            "tasks", source=whole, destination=end, action="replace", table="whole",
            cron="* * * * *", timing={"overlap": "queueOne"},
        )["id"]  # fmt: skip
        self.index, self.push = Pusher(self.cluster.servers[0]).index("pushed")
        self.run(self.append)  # from here on, what has changed
        one.call("POST", "/v1/triggers", {
            "name": "t", "source": many, "task": self.append, "mode": "delta", "every": 1})  # fmt: skip

    # The work.

    def add_file(self):
        name = f"{self.given:09}.csv"
        lines = "".join(f"{self.given + n},x{n}\n" for n in range(ROWS))
        partial = self.files.parent / f".{name}"
        partial.write_text(f"id,name\n{lines}")
        partial.rename(self.files / name)
        self.given += ROWS

    def change_whole(self):
        self.version += 1
        partial = self.whole.with_name(".whole")
        partial.write_text("id,version\n" + "".join(f"{n},{self.version}\n" for n in range(200)))
        partial.rename(self.whole)

    def any_server(self):
        alive = [server for server in self.cluster.servers if server.alive]
        return self.chance.choice(alive).client if alive else None

    def start_delta(self):
        if client := self.any_server():
            with contextlib.suppress(HeadraceError):
                client.call("POST", f"/v1/tasks/{self.append}/runs?mode=delta", {})

    def push_some(self):
        """Push records; those that are answered must be there in the end."""
        client = self.any_server()
        if client is None:
            return
        records = [{"objectID": f"{self.pushed + n}", "n": n} for n in range(5)]
        body = {"action": "addObject", "records": records}
        try:
            client.call("POST", f"/2/tasks/{self.push}/push", body, HEADERS)
        except HeadraceError:
            return  # the same ids are pushed again
        self.pushed += 5

    def make_due(self):
        """Have the schedule come up now, whatever minute it is."""
        with contextlib.suppress(psycopg.Error), self.control() as con:
            con.execute("update task set next_run = next_run - 60000 where id = %s", [self.replace])

    def control(self):
        return psycopg.connect(self.cluster.database, autocommit=True, connect_timeout=2)

    # The faults.

    def kill_server(self):
        server = self.chance.choice(self.cluster.servers)
        server.kill()
        server.start()

    def kill_child(self):
        server = self.chance.choice(self.cluster.servers)
        children = psutil.Process(server.process.pid).children()
        if children:
            with contextlib.suppress(psutil.Error):
                self.chance.choice(children).kill()

    def freeze_server(self):
        server = self.chance.choice(self.cluster.servers)
        process = psutil.Process(server.process.pid)
        for one in (process, *process.children()):
            with contextlib.suppress(psutil.Error):
                one.send_signal(signal.SIGSTOP)
        time.sleep(self.chance.uniform(0.5, 3.5))  # about the lease, or well beyond
        for one in (*process.children(), process):
            with contextlib.suppress(psutil.Error):
                one.send_signal(signal.SIGCONT)

    def cut_destination(self):
        self.proxy.cut_after = self.chance.randrange(1, 4_000)
        time.sleep(self.chance.uniform(0.2, 1.0))
        self.proxy.cut_after = None

    def stall_destination(self):
        self.proxy.stalls.set()
        time.sleep(self.chance.uniform(0.2, 1.5))
        self.proxy.stalls.clear()

    def stop_database(self):
        self.cluster.control.stop("immediate")
        time.sleep(self.chance.uniform(0.1, 2.5))
        self.cluster.control.start()

    def replace_server(self):
        server = self.chance.choice(self.cluster.servers)
        server.process.terminate()
        server.process.wait(30)
        server.start()

    def soak(self, seconds):
        work = [self.add_file, self.start_delta, self.push_some, self.make_due, self.change_whole]
        faults = [
            self.kill_server, self.kill_child, self.freeze_server, self.cut_destination,
            self.stall_destination, self.stop_database, self.replace_server,
        ]  # fmt: skip
        begun = time.monotonic()
        next_fault = begun + 2
        while time.monotonic() < begun + seconds:
            deed = self.chance.choice(work)
            if time.monotonic() > next_fault:
                deed = faults.pop(0)  # each once, before any comes again
                faults.insert(self.chance.randrange(3, len(faults) + 1), deed)
            deed()
            self.did[deed.__name__] = self.did.get(deed.__name__, 0) + 1
            if deed.__name__ in ("kill_server", "kill_child", "freeze_server", "cut_destination",
                                 "stall_destination", "stop_database", "replace_server"):  # fmt: skip
                next_fault = time.monotonic() + self.chance.uniform(1.0, 3.0)
            time.sleep(self.chance.uniform(0.05, 0.3))

    # The end.

    def run(self, task, query=""):
        """Run a task to its end, whatever of it is under way before."""
        client = self.cluster.servers[0].client
        until = time.monotonic() + 120
        while True:
            try:
                run = client.call("POST", f"/v1/tasks/{task}/runs{query}", {})["id"]
            except HeadraceError as error:
                assert "has a run" in str(error), error
                assert time.monotonic() < until, client.call("GET", f"/v1/runs?task={task}")
                time.sleep(0.2)
            else:
                found = client.wait(run, 120)
                assert found["state"] in ("succeeded", "skipped"), found
                return

    def settle(self):
        for server in self.cluster.servers:
            if not server.alive:
                server.start()
        client = self.cluster.servers[0].client
        for one in client.call("GET", "/v1/breakers")["items"]:
            client.call("DELETE", f"/v1/breakers/{one['name']}")
        for task in (self.append, self.replace):
            client.call("PATCH", f"/v1/tasks/{task}", {"enabled": True})  # enough failures block it
        for trigger in client.call("GET", "/v1/triggers")["items"]:
            client.call("DELETE", f"/v1/triggers/{trigger['id']}")
        client.call("PATCH", f"/v1/tasks/{self.replace}", {"cron": None})
        self.run(self.append, "?mode=delta")
        self.run(self.replace)
        until = time.monotonic() + 60
        while len(list(client.rows(self.index, "pushed"))) < self.pushed:
            assert time.monotonic() < until, "pushes are missing"
            time.sleep(0.5)

    def check_rows(self):
        with psycopg.connect(self.target) as con:
            query = "select count(*), count(distinct id), coalesce(max(id), -1) + 1 from many"
            assert con.execute(query).fetchone() == (self.given, self.given, self.given)
            query = "select count(*), min(version), max(version) from whole"
            assert con.execute(query).fetchone() == (200, self.version, self.version)
            left = con.execute(
                "select relname from pg_class where relname like '%headrace\\_stage%'"
            ).fetchall()
            assert left == []
        ids = {row["objectID"] for row in self.cluster.servers[0].client.rows(self.index, "pushed")}
        assert {f"{n}" for n in range(self.pushed)} <= ids

    def check_store(self):
        with self.control() as con:
            query = "select id, receipt from run where state = 'succeeded' and receipt is not null"
            for id_, receipt in con.execute(query):
                books = receipt["books"]
                landed = sum(books[name] for name in (
                    "inserted", "updated", "unchanged", "deleted", "rejected", "filtered"))  # fmt: skip
                assert books["read"] + books["expanded"] == landed, (id_, books)
            query = (
                "select r.id from run r left join event e on e.run = r.id group by r.id, r.events"
                " having count(e.id) <> r.events or max(e.number) <> r.events"
            )
            assert con.execute(query).fetchall() == []
            query = "select id, state, error from run where state not in ('succeeded','skipped')"
            odd = [row for row in con.execute(query) if row[1] in ("running", "cancelling")]
            assert odd == []
            failed = [row[2] for row in con.execute(query) if row[1] == "failed"]
            codes = {error["code"] for error in failed}
            assert codes <= {"worker_died", "unavailable", "timed_out"}, failed

    def check_leftovers(self, processes):
        deadline = time.monotonic() + 15
        while alive := [one for one in processes if one.is_running() and
                        one.status() != psutil.STATUS_ZOMBIE]:  # fmt: skip
            assert time.monotonic() < deadline, alive
            time.sleep(0.1)
        for server in self.cluster.servers:
            work = server.data_dir / "spool" / "work"
            left = [path for path in work.rglob("*") if path.is_file()]
            assert left == [], left


@pytest.mark.faults
@pytest.mark.timeout(SECONDS + 400)
def test_after_a_soak_every_row_is_there_once_and_nothing_is_left_over(tmp_path, fresh_database):
    seed = int(os.environ.get("HEADRACE_SEED", "0")) or int.from_bytes(os.urandom(4))
    print(f"HEADRACE_SEED={seed}")
    with Postgres() as control, proxied(fresh_database) as (proxy, through):
        cluster = Cluster(tmp_path, control.url)
        cluster.control = control
        (tmp_path / "files").mkdir()
        try:
            for name in ("one", "two", "three"):
                cluster.server(name, HEADRACE_STALL="10", HEADRACE_DRAIN="5")
            soak = Soak(cluster, proxy, fresh_database, seed)
            soak.prepare(through)
            soak.soak(SECONDS)
            print(json.dumps(soak.did))
            proxy.cut_after = None
            proxy.stalls.clear()
            soak.settle()
            soak.check_rows()
            soak.check_store()
            processes = []
            for server in cluster.servers:
                process = psutil.Process(server.process.pid)
                processes += [process, *process.children(recursive=True)]
            for server in cluster.servers:
                server.stop()
            soak.check_leftovers(processes)
        finally:
            cluster.stop()
