"""Memory: the peak of each path at 1 and at 10 times the rows, and a large file under a hard cap.

    bench/memory.py --only csv       one of csv, lines, array, postgresql, from-postgresql, merge
    bench/memory.py --only capped    21 GB of CSV in a process that may have 1 GiB of data
    bench/memory.py --only server    every path at once in a server that may have 1 GiB in all

A process of its own counts each peak. Fails when a bar is not held.
"""

import shutil
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import duckdb

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.databases import KEY, MERGE, changes, copied, settled
from bench.measure import BIN, SQL, TYPES, Bars, ingest, lineitem, run, timed
from tests.cap import Watch, capped
from tests.postgres import postgres
from tests.serving import Serving

from headrace.client import Client

PEAK_MAX = 763  # MiB: 800 MB
SAME = 1.1  # the peak of ten times the rows, against that of the rows
CAP_BYTES = 1 << 30
DOCUMENTS = (
    "select l_orderkey || '-' || l_linenumber as \"objectID\", l_comment, l_shipdate, l_tax from t"
)
CAPPED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[1]), int(sys.argv[1])))
os.execv(sys.argv[2], sys.argv[2:])
"""


def copy(csv: Path, path: Path, form: str) -> None:
    """Write the rows of a CSV file in another form, with DuckDB."""
    columns = {name: SQL[type_] for name, type_ in TYPES.items()}
    with duckdb.connect() as con:
        con.execute(
            f"copy (select * from read_csv($1, header=true, columns=$2)) to '{path}' ({form})",
            [str(csv), columns],
        )


def compare(
    name: str, bars: Bars, rounds: int, one: Callable[[], list], ten: Callable[[], list]
) -> None:
    """Measure both, each after what makes it ready has ended: the first in rounds, the large once.

    What is freed is given back now or later: the peak of a short run differs from time to time.
    """
    bars.begin(f"Memory of {name}")
    peaks: dict[int, list[float]] = {1: [], 10: []}
    for times, prepare in (*((1, one) for _ in range(rounds)), (10, ten)):
        command = prepare()
        wall, _, peak = timed(command)
        peaks[times].append(peak)
        print(f"  {name}, {times:>2} x the rows: {peak:.0f} MiB, {wall:.1f} s", flush=True)
    bars.hold("peak", max(peaks[1] + peaks[10]), PEAK_MAX, "MiB")
    bars.hold("10 x the rows against 1 x", peaks[10][0] / statistics.median(peaks[1]), SAME, "x")


def bench_files(
    form: str, bars: Bars, rounds: int, folder: Path, scales: tuple[float, float]
) -> None:
    def made(scale: float) -> list:
        source = lineitem(scale)
        if form != "csv":
            path = folder / f"rows-{scale:g}.json"
            copy(source, path, f"format json, array {str(form == 'array').lower()}")
            source = path
        end = folder / f"{form}-{scale:g}.duckdb"
        end.unlink(missing_ok=True)
        typed = ingest(source, end)
        # JSON says numbers and dates as it says them.
        return typed if form == "csv" else [part for part in typed if part != "--type"][:6]

    compare(form, bars, rounds, lambda: made(scales[0]), lambda: made(scales[1]))


def bench_postgresql(
    bars: Bars, rounds: int, folder: Path, scales: tuple[float, float], *, read: bool
) -> None:
    with postgres("max_wal_size=4GB") as url:

        def made(scale: float) -> list:
            settled(url, "drop table if exists t")
            if not read:
                return ingest(lineitem(scale), url)
            copied(url, lineitem(scale))
            settled(url, "vacuum analyze t")
            end = folder / f"read-{scale:g}.duckdb"
            end.unlink(missing_ok=True)
            return [BIN / "headrace", "ingest", f"{url}#t", end, "--table", "t", "--json"]

        name = "PostgreSQL → DuckDB" if read else "CSV → PostgreSQL"
        compare(name, bars, rounds, lambda: made(scales[0]), lambda: made(scales[1]))


def bench_merge(bars: Bars, rounds: int, folder: Path, scales: tuple[float, float]) -> None:
    """Merge a tenth of the rows, from all over the table, then as many rows as there are."""

    def made(scale: float, *, all_: bool) -> list:
        csv, whole = lineitem(scale), folder / f"merge-{scale:g}.duckdb"
        whole.unlink(missing_ok=True)
        timed(ingest(csv, whole))
        return ingest(csv if all_ else changes(csv, folder, int(scale * 600_000)), whole, *MERGE)

    for name, all_ in (("a tenth", False), ("all", True)):
        one, ten = (partial(made, scale, all_=all_) for scale in scales)
        compare(f"a merge of {name} into DuckDB", bars, rounds, one, ten)


def bench_capped(bars: Bars, folder: Path, scale: float) -> None:
    source = lineitem(scale)
    size = source.stat().st_size
    bars.begin(
        f"{size / 1e9:.1f} GB of CSV in a process that may have {CAP_BYTES >> 20} MiB of data"
    )

    capped = [sys.executable, "-c", CAPPED, str(CAP_BYTES)]
    wall, _, peak = timed([*capped, *ingest(source, folder / "capped.duckdb")])
    names, columns = ", ".join(TYPES), {name: SQL[type_] for name, type_ in TYPES.items()}
    summed = f"select count(*), bit_xor(hash({names})), sum(hash({names})::hugeint % 1000003) from"
    with duckdb.connect(str(folder / "capped.duckdb"), read_only=True) as con:
        [ours] = con.execute(f"{summed} t").fetchall()
        theirs = con.execute(
            f"{summed} read_csv($1, columns=$2)", [str(source), columns]
        ).fetchone()
    bars.tell("rows that landed", f"{ours[0]:,} in {wall:.0f} s, the same as in the file by hash")
    if ours != theirs:
        bars.wrong("the table differs from the file")
    bars.hold("peak", peak, PEAK_MAX, "MiB")


def bench_server(bars: Bars, folder: Path, scale: float) -> None:
    """Load by every path at once, two runs at a time, in a cgroup that holds the whole server."""
    bars.begin("Every path at once in a server in a memory cgroup of 1 GiB")
    csv, lines = lineitem(scale), folder / "server.json"
    copy(csv, lines, "format json, array false")
    with postgres("max_wal_size=4GB") as url, capped(CAP_BYTES) as cap:
        told = "in a cgroup" if cap.group else "with nothing but its own word (no cgroup here)"
        print(f"  {csv.stat().st_size / 1e6:,.0f} MB of CSV by every path, {told}", flush=True)
        copied(url, csv)
        env = {"HEADRACE_MEMORY": "1GB", "HEADRACE_FILES_ROOTS": f"{csv.parent}:{folder}"}
        server = Serving(folder / "server", env=env, within=cap.within)
        try:
            server.start()
            watch = Watch(server.process.pid)
            runs = all_paths(server.client, csv, lines, url, folder)
            ended = {name: server.client.wait(run, 3600) for name, run in runs.items()}
            again = {  # now each row is there already
                f"{name}, again": server.client.start(found["task"])["id"]
                for name, found in ended.items()
                if found["action"] == "save"
            }
            ended |= {name: server.client.wait(run, 3600) for name, run in again.items()}
            peak = watch.stop()
        finally:
            server.stop()
        for name, found in ended.items():
            books, error = found["books"] or {}, found["error"] or {}
            print(f"  {name}: {found['state']}, {books.get('inserted', 0):,} new,"
                  f" {books.get('updated', 0):,} old; {error.get('message', '')}", flush=True)  # fmt: skip
        bad = [name for name, found in ended.items() if found["state"] != "succeeded"]
        bars.hold("runs that failed", len(bad), 0, "")
        bars.hold("processes killed for memory", cap.killed(), 0, "")
        bars.hold("peak of all processes", peak, CAP_BYTES >> 20, "MiB")


def all_paths(client: Client, csv: Path, lines: Path, url: str, folder: Path) -> dict[str, str]:
    """Start a run of every path; return their ids."""
    mapping = {"mapping": TYPES}
    sources = {
        "csv": ("csv", {"url": f"file://{csv}"} | mapping),
        "lines": ("json", {"url": f"file://{lines}"}),
        "table": ("postgresql", {"url": url, "table": "t"}),
        "query": ("postgresql", {"url": url, "query": DOCUMENTS}),
    }
    ends = {
        "duckdb": lambda name: ("duckdb", {"path": str(folder / f"{name}.duckdb")}),
        "postgresql": lambda _: ("postgresql", {"url": url, "schema": "public"}),
        "sqlite": lambda name: ("sqlite", {"path": str(folder / f"{name}.sqlite")}),
        "parquet": lambda _: ("parquet", {"path": str(folder / "lake")}),
        "search": lambda name: ("search", {"indexName": name}),
    }
    made = {
        kind: client.add("sources", type=type_, name=kind, input=given)["id"]
        for kind, (type_, given) in sources.items()
    }
    found = {}
    for source, end, action in (
        ("csv", "duckdb", "replace"), ("lines", "duckdb", "replace"), ("table", "duckdb", "replace"),
        ("csv", "duckdb", "save"), ("csv", "postgresql", "save"), ("table", "parquet", "replace"),
        ("lines", "postgresql", "replace"), ("csv", "sqlite", "save"), ("query", "search", "save"),
    ):  # fmt: skip
        name = f"{source}_{end}_{action}"
        type_, given = ends[end](name)
        destination = client.add("destinations", type=type_, name=name, input=given)["id"]
        columns = ["objectID"] if end == "search" else list(KEY)
        key = {"key": columns} if action == "save" else {}
        task = client.add(
            "tasks", source=made[source], destination=destination, action=action, table=name, **key
        )
        found[name] = client.start(task["id"])["id"]
    return found


def benches(csv: Path, rounds: int, bars: Bars, folder: Path, *, short: bool) -> dict:
    scales = (0.002, 0.02) if short else (1, 10)
    forms = {
        form: lambda form=form: bench_files(form, bars, rounds, folder, scales)
        for form in ("csv", "lines", "array")
    }
    made = forms | {
        "postgresql": lambda: bench_postgresql(bars, rounds, folder, scales, read=False),
        "from-postgresql": lambda: bench_postgresql(bars, rounds, folder, scales, read=True),
        "merge": lambda: bench_merge(bars, rounds, folder, scales),
        "server": lambda: bench_server(bars, folder, 0.01 if short else 1),
        "capped": lambda: bench_capped(bars, folder, 0.02 if short else 27),
    }
    return {name: lambda bench=bench: alone(bench, folder) for name, bench in made.items()}


def alone(bench: Callable[[], None], folder: Path) -> None:
    """Do one bench, then make room for the next: some of them write 40 GB."""
    bench()
    shutil.rmtree(folder)
    folder.mkdir()


if __name__ == "__main__":
    run(__doc__, benches)
