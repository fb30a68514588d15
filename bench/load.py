"""The Algolia face under load: a real server process over SQLite, a client process beside it.

    bench/load.py                   the bars of the API
    bench/load.py --short           small numbers; bars are shown, not judged

The client speaks plain HTTP/1.1 over kept connections, so that what is measured is the server.
"""

import argparse
import asyncio
import json
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.measure import Bars  # noqa: E402
from tests.contract.test_algolia import HEADERS, Api  # noqa: E402
from tests.serving import Serving, serving  # noqa: E402


class Connection:
    """One kept connection."""

    def __init__(self, port: int, headers: dict[str, str] = HEADERS) -> None:
        self._port = port
        self._streams = None
        self._head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())

    async def call(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        data = b"" if body is None else json.dumps(body).encode()
        writer.write(
            f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{self._head}"
            f"content-length: {len(data)}\r\n\r\n".encode()
            + data
        )
        top = await reader.readuntil(b"\r\n\r\n")
        length = int(top.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        return int(top.split(b" ", 2)[1]), await reader.readexactly(length)


def p(values: list[float], percent: float) -> float:
    return sorted(values)[min(int(len(values) * percent / 100), len(values) - 1)]


async def at_rate(
    port: int, path: str, rate: float, seconds: float, headers: dict[str, str] = HEADERS
) -> list[float]:
    """Ask at a steady rate; return latencies from the moment that each was due, in seconds."""
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(32):
        free.put_nowait(Connection(port, headers))
    found: list[float] = []

    async def one(due: float) -> None:
        connection = await free.get()
        status, _ = await connection.call("GET", path)
        assert status == 200
        found.append(time.perf_counter() - due)
        free.put_nowait(connection)

    begun = time.perf_counter()
    tasks = []
    for number in range(int(rate * seconds)):
        due = begun + number / rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    return found


async def create_and_get(port: int, seconds: float, connections: int) -> float:
    """Create authentications and get them, as fast as it goes; return requests a second."""
    until = time.perf_counter() + seconds
    done = 0
    given = {"type": "basic", "name": "bench", "input": {"username": "u", "password": "p"}}

    async def client() -> None:
        nonlocal done
        connection = Connection(port)
        while time.perf_counter() < until:
            status, body = await connection.call("POST", "/1/authentications", given)
            assert status == 200, body
            id_ = json.loads(body)["authenticationID"]
            status, body = await connection.call("GET", f"/1/authentications/{id_}")
            assert status == 200, body
            done += 2

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(connections)))
    return done / (time.perf_counter() - begun)


def copied(con: sqlite3.Connection, table: str, id_: str, rows: int, **given: str) -> None:
    """Copy a row many times; `given` are SQL of columns by the copy's number `n`."""
    columns = [row[1] for row in con.execute(f"pragma table_info({table})")]
    given = {"id": "printf('%08x-0000-7000-8000-%012x', n, n)"} | given
    values = ", ".join(given.get(name, f't."{name}"') for name in columns)
    names = ", ".join(f'"{name}"' for name in columns)
    con.execute(
        f"with recursive c(n) as (select 1 union all select n + 1 from c where n < {rows})"
        f" insert into {table} ({names}) select {values} from c, {table} as t where t.id = ?",
        [id_],
    )


class Scene:
    """A server with many tasks, a run of many events, and an index that takes pushes."""

    def __init__(self, server: Serving, tasks: int, events: int) -> None:
        self.server = server
        api = Api(server)
        csv = server.data_dir / "files" / "a.csv"
        csv.write_text("id,n\n1,1\n")
        source = api("POST", "/1/sources", {"type": "csv", "name": "s", "input": {
            "url": f"file://{csv}", "uniqueIDColumn": "id"}})["sourceID"]  # fmt: skip
        end = api("POST", "/1/destinations", {"type": "search", "name": "d", "input": {
            "indexName": "Bench"}})["destinationID"]  # fmt: skip
        task = api("POST", "/2/tasks", {
            "sourceID": source, "destinationID": end, "action": "replace"})["taskID"]  # fmt: skip
        self.run = api("POST", f"/2/tasks/{task}/run")["runID"]
        server.client.wait(self.run, 60)
        event = api("GET", f"/1/runs/{self.run}/events")["events"][0]["eventID"]
        push = api("POST", "/1/sources", {"type": "push", "name": "p"})["sourceID"]
        self.pushes = api("POST", "/2/tasks", {
            "sourceID": push, "destinationID": end, "action": "save"})["taskID"]  # fmt: skip
        server.stop()
        self._fill(task, tasks, event, events)
        server.start()
        self.api = Api(server)
        self.port = int(server.client.url.rpartition(":")[2])
        self.api("GET", "/2/tasks?itemsPerPage=10")
        time.sleep(4)  # its workers warm up on both cores

    def _fill(self, task: str, tasks: int, event: str, events: int) -> None:
        with sqlite3.connect(self.server.data_dir / "control.db") as con:
            copied(
                con,
                "task",
                task,
                tasks,
                created_at="t.created_at + n",
                updated_at="t.updated_at + n",
            )
            (known,) = con.execute("select events from run where id = ?", [self.run]).fetchone()
            copied(con, "event", event, events, number=f"n + {known}", at="t.at + n / 1000",
                   kind="'record'", status="'succeeded'")  # fmt: skip
            con.execute("update run set events = events + ? where id = ?", [events, self.run])
            con.execute("insert or replace into event_count values (?, 'record', 'succeeded', ?)",
                        [self.run, events])  # fmt: skip


def listed(scene: Scene, tasks: int, seconds: float, bars: Bars) -> None:
    bars.begin(f"Listing 10 of {tasks:,} tasks at 100 requests a second")
    asyncio.run(at_rate(scene.port, "/2/tasks?itemsPerPage=10", 100, 2))  # threads, connections
    for path in ("/2/tasks?itemsPerPage=10", "/1/tasks?itemsPerPage=10&enabled=true"):
        found = asyncio.run(at_rate(scene.port, path, 100, seconds))
        print(f"  {path}: p50 {p(found, 50) * 1000:.1f} ms, p99.9 {p(found, 99.9) * 1000:.1f} ms")
        bars.hold("p99", p(found, 99) * 1000, 25, "ms")


def created(scene: Scene, seconds: float, bars: Bars) -> None:
    bars.begin("Create and get")
    rates = [asyncio.run(create_and_get(scene.port, seconds / 2, 8)) for _ in range(5)]
    print(f"  {statistics.median(rates):.0f} requests a second ({min(rates):.0f}-{max(rates):.0f})")
    bars.hold("seconds for 300 requests", 300 / statistics.median(rates), 1, "s")


def paged(scene: Scene, events: int, bars: Bars) -> None:
    bars.begin(f"A page out of {events:,} events")
    start = "startDate=2020-01-01T00:00:00Z&endDate=2099-01-01T00:00:00Z"
    for query in ("", f"&page={events // 200}&itemsPerPage=100", "&type=fetch&order=asc", "&status=succeeded",
                  "&status=started"):  # fmt: skip
        walls = []
        for _ in range(9):
            begun = time.perf_counter()
            answer = scene.api.raw("GET", f"/1/runs/{scene.run}/events?{start}{query}")
            walls.append(time.perf_counter() - begun)
            assert answer.status == 200
        print(f"  {query or 'the first page'}: {answer.json()['pagination']['nbItems']:,} events")
        bars.hold("median", statistics.median(walls) * 1000, 50, "ms")


def pushed(scene: Scene, bars: Bars) -> None:
    bars.begin("A watched push of 1,000 records")
    walls = []
    for number in range(9):
        records = [
            {"objectID": f"{number}-{n}", "name": f"name {n}", "price": n / 7, "tags": ["a", "b"]}
            for n in range(1_000)
        ]
        begun = time.perf_counter()
        given = {"action": "addObject", "records": records}
        scene.api("POST", f"/2/tasks/{scene.pushes}/push?watch=true", given)
        walls.append(time.perf_counter() - begun)
    print(f"  {min(walls) * 1000:.0f} to {max(walls) * 1000:.0f} ms")
    bars.hold("median", statistics.median(walls) * 1000, 300, "ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    given = parser.parse_args()
    seconds = 2 if given.short else 10
    tasks, events = (500, 20_000) if given.short else (10_000, 1_000_000)
    bars = Bars(__file__, judged=not given.short)
    folder = Path(tempfile.mkdtemp(prefix="headrace-load-"))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    try:
        with serving(folder / "data") as server:
            scene = Scene(server, tasks, events)
            listed(scene, tasks, seconds, bars)
            created(scene, seconds, bars)
            paged(scene, events, bars)
            pushed(scene, bars)
            rows, rounds = (5_000, 3) if given.short else (100_000, 5)
            transformed(scene.api, server, rows, bars, rounds)
    finally:
        shutil.rmtree(folder)
    bars.end()


def transformed(api: Api, server: Serving, rows: int, bars: Bars, rounds: int) -> None:
    """Run a file with and without a transformation: the difference is what it costs."""
    bars.begin(f"{rows:,} small records with a transformation, against the same run without")
    csv = server.data_dir / "files" / "small.csv"
    csv.write_text("id,name,n\n" + "".join(f"{n},name {n},{n % 97}\n" for n in range(rows)))
    source = api("POST", "/1/sources", {"type": "csv", "name": "s", "input": {
        "url": f"file://{csv}", "uniqueIDColumn": "id"}})["sourceID"]  # fmt: skip
    code = api("POST", "/1/transformations", {"name": "t", "type": "code", "input": {
        "code": "async function transform(r) { r.double = 2 * r.n; return r; }"}})["transformationID"]  # fmt: skip
    walls: dict[bool, list[float]] = {False: [], True: []}
    ends = {}
    for with_code in walls:
        end = api("POST", "/1/destinations", {"type": "search", "name": "d", "input": {
            "indexName": f"Small{with_code}"}, "transformationIDs": [code] * with_code})["destinationID"]  # fmt: skip
        ends[with_code] = api("POST", "/2/tasks", {
            "sourceID": source, "destinationID": end, "action": "replace"})["taskID"]  # fmt: skip
    for _ in range(rounds):
        for with_code, task in ends.items():
            begun = time.perf_counter()
            run = server.client.wait(api("POST", f"/2/tasks/{task}/run")["runID"], 120)
            assert run["state"] == "succeeded", run
            walls[with_code].append(time.perf_counter() - begun)
    plain, made = (statistics.median(walls[one]) for one in (False, True))
    print(f"  {made:.2f} s with, {plain:.2f} s without, medians of {rounds}")
    bars.hold("the transformation", made - plain, 2, "s")


if __name__ == "__main__":
    main()
