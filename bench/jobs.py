"""Jobs and the four vendors' faces under load: a real server over SQLite, a client beside it.

bench/jobs.py                   the bars
bench/jobs.py --short           small numbers; bars are shown, not judged
"""

import argparse
import asyncio
import itertools
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import psutil
import urllib3

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.load import at_rate, p  # noqa: E402
from bench.measure import DATA, Bars, lineitem  # noqa: E402
from tests.serving import KEY, Serving, serving  # noqa: E402

LIMITS = {
    "HEADRACE_AMPERITY_RATE": "0/1",
    "HEADRACE_CELONIS_RATE": "0/1",
    "HEADRACE_LUCIDUM_RATE": "0/1",
}
BEARER = {"authorization": f"Bearer {KEY}"}


class Memory(threading.Thread):
    """The most that a process has held, in MiB, while this watched."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process(pid)
        self._done = threading.Event()
        self.peak = 0.0

    def run(self) -> None:
        while not self._done.wait(0.02):
            self.peak = max(self.peak, self._process.memory_info().rss / 2**20)

    def stop(self) -> float:
        self._done.set()
        self.join()
        return self.peak


def csv_task(server: Serving, path: Path, number: int) -> str:
    client = server.client
    source = client.add("sources", type="csv", name="s", input={"url": f"file://{path}"})["id"]
    end = client.add("destinations", type="duckdb", name="d", input={
        "path": str(server.data_dir / "files" / f"out{number}.duckdb")})["id"]  # fmt: skip
    return client.add("tasks", source=source, destination=end, action="replace", table="t")["id"]


def statuses(server: Serving, csv: Path, seconds: float, bars: Bars) -> None:
    """Ask each dialect for the status of a load while it runs, over and over."""
    rows = sum(1 for _ in csv.open("rb")) - 1
    bars.begin(f"Status calls at 100 a second while {rows:,} rows are loaded")
    files = server.data_dir / "files" / "lineitem.csv"
    os.link(csv, files)
    task = csv_task(server, files, 0)
    client = server.client
    job = client.call("GET", "/v1/jobs/everything")
    first = client.start(task)["id"]
    client.wait(first)
    client.call("POST", "/v1/jobs/everything/executions")
    amperity = BEARER | {"amperity-tenant": "default", "api-version": "2024-04-01"}
    shown = urllib3.PoolManager().request(
        "GET", f"{client.url}/api/workflow/runs?limit=1", headers=amperity
    ).json()["data"][0]  # fmt: skip
    verbose = urllib3.PoolManager().request(
        "GET", f"{client.url}/api/workflow/runs/{shown['id']}?view=verbose", headers=amperity
    ).json()  # fmt: skip
    calls = {  # in the order of the names below
        f"/integration/api/pools/{job['pool']}/jobs/{job['id']}": BEARER,
        f"/api/ingest/jobs/{verbose['task_instances'][0]['id']}": amperity,
        "/api/import_status.json": {"token": KEY},
        "/CMDB/v2/system/data-ingestion/jobs": BEARER,
    }
    stop = threading.Event()
    loads = 0

    def load() -> None:
        nonlocal loads
        while not stop.is_set():
            last = client.call("GET", "/v1/executions?limit=1")["items"][0]
            if last["finishedAt"]:
                assert last["state"] == "succeeded", last
                loads += 1
                client.call("POST", "/v1/jobs/everything/executions")
            time.sleep(0.1)

    thread = threading.Thread(target=load)
    thread.start()
    port = int(client.url.rpartition(":")[2])
    try:
        names = ("Celonis", "Amperity", "IBM", "Lucidum")
        for name, (path, headers) in zip(names, calls.items(), strict=True):
            found = asyncio.run(at_rate(port, path, 100, seconds, headers))
            print(f"  {name}: p50 {p(found, 50) * 1000:.1f} ms, max {max(found) * 1000:.1f} ms")
            bars.hold(f"p99 of {name}", p(found, 99) * 1000, 25, "ms")
    finally:
        stop.set()
        thread.join()
    print(f"  {loads} loads ended meanwhile")
    last = client.call("GET", "/v1/executions?limit=1")["items"][0]["id"]
    while client.call("GET", f"/v1/executions/{last}")["finishedAt"] is None:
        time.sleep(0.1)


def many(server: Serving, tasks: int, bars: Bars) -> None:
    """Start a job of many small tasks; see when each starts, and how often progress moves."""
    bars.begin(f"A job of {tasks} small tasks")
    client = server.client
    steps = []
    for number in range(tasks):
        path = server.data_dir / "files" / f"small{number}.csv"
        path.write_text("id,n\n" + "".join(f"{n},{n}\n" for n in range(100)))
        steps.append({"task": csv_task(server, path, 1 + number)})
    pool = client.call("POST", "/v1/pools", {"name": "p"})["id"]
    job = client.call("POST", "/v1/jobs", {"pool": pool, "name": "many", "steps": steps})["id"]
    begun = time.monotonic()
    id_ = client.call("POST", f"/v1/jobs/{job}/executions")["id"]
    queued = time.monotonic() - begun
    moves = [time.monotonic()]
    percent = 0
    while not (found := client.call("GET", f"/v1/executions/{id_}"))["finishedAt"]:
        if found["percent"] != percent:
            percent = found["percent"]
            moves.append(time.monotonic())
        time.sleep(0.05)
    assert found["state"] == "succeeded", found["state"]
    runs = client.call("GET", f"/v1/runs?limit={min(tasks, 1000)}")["items"]
    starts = [datetime.fromisoformat(run["startedAt"]).timestamp() for run in runs]
    print(f"  queued in {queued:.2f} s, ended after {time.monotonic() - begun:.1f} s")
    bars.hold("first to last start", max(starts) - min(starts), 20 * tasks / 200, "s")
    pauses = [later - earlier for earlier, later in itertools.pairwise(moves)]
    bars.hold("longest pause of the progress", max(pauses, default=0), 1, "s")


def chunk(server: Serving, size: int, bars: Bars) -> None:
    """Push one large chunk; watch the server's memory."""
    bars.begin(f"A push chunk of {size / 1e9:g} GB")
    client = server.client
    pool = client.call("POST", "/v1/pools", {"name": "uploads"})["id"]
    http = urllib3.PoolManager()
    jobs = f"{client.url}/integration/api/v1/data-push/{pool}/jobs"
    made = http.request("POST", jobs, headers=BEARER, json={
        "targetName": "t", "type": "REPLACE", "fileType": "CSV"}).json()  # fmt: skip
    line = b"12345,some text that repeats,67.5\n"
    block = line * (1_000_000 // len(line))

    def body() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="r"\r\n\r\nid,v,n\n'
        for _ in range(size // len(block)):
            yield block
        yield b"\r\n--b--\r\n"

    memory = Memory(server.process.pid)
    memory.start()
    begun = time.monotonic()
    answer = http.request(
        "POST", f"{jobs}/{made['id']}/chunks/upserted", body=body(),
        headers=BEARER | {"content-type": "multipart/form-data; boundary=b"},
    )  # fmt: skip
    took = time.monotonic() - begun
    assert answer.status == 200, answer.data
    print(f"  kept in {took:.1f} s")
    bars.hold("the server's memory", memory.stop(), 200, "MiB")
    http.request("DELETE", f"{jobs}/{made['id']}", headers=BEARER)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    given = parser.parse_args()
    bars = Bars(__file__, judged=not given.short)
    DATA.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="headrace-jobs-", dir=DATA))  # where files are linked to
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    try:
        with serving(folder / "data", **LIMITS) as server:
            chunk(server, 10**7 if given.short else 10**9, bars)
            many(server, 10 if given.short else 200, bars)
        with serving(folder / "other", **LIMITS) as server:
            statuses(server, lineitem(0.01 if given.short else 1), 1 if given.short else 10, bars)
    finally:
        shutil.rmtree(folder)
    bars.end()


if __name__ == "__main__":
    main()
