"""Memory: the peak of each path at 1 and at 10 times the rows, and a large file under a hard cap.

    bench/memory.py --only csv       one of csv, lines, array, postgresql, from-postgresql, merge
    bench/memory.py --only capped    21 GB of CSV in a process that may have 1 GiB of data

A process of its own counts each peak. Fails when a bar is not held.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import duckdb

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.databases import KEY, copied, settled
from bench.measure import BIN, SQL, TYPES, Bars, ingest, lineitem, run, timed
from tests.postgres import postgres

PEAK_MAX = 763  # MiB: 800 MB
SAME = 1.1  # the peak of ten times the rows, against that of the rows
CAP_BYTES = 1 << 30
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


def compare(name: str, bars: Bars, one: Callable[[], list], ten: Callable[[], list]) -> None:
    """Measure both, each after what makes it ready has ended."""
    peaks = []
    for times, prepare in ((1, one), (10, ten)):
        command = prepare()
        wall, _, peak = timed(command)
        peaks.append(peak)
        print(f"  {name}, {times:>2} x the rows: {peak:.0f} MiB, {wall:.1f} s", flush=True)
    bars.hold(f"{name}: peak", max(peaks), PEAK_MAX, "MiB")
    bars.hold(f"{name}: 10 x against 1 x", peaks[1] / peaks[0], SAME, "x")


def bench_files(form: str, bars: Bars, folder: Path, scales: tuple[float, float]) -> None:
    def made(scale: float) -> list:
        source = lineitem(scale)
        if form != "csv":
            path = folder / f"rows-{scale:g}.json"
            copy(source, path, f"format json, array {str(form == 'array').lower()}")
            source = path
        typed = ingest(source, folder / f"{form}-{scale:g}.duckdb")
        # JSON says numbers and dates as it says them.
        return typed if form == "csv" else [part for part in typed if part != "--type"][:6]

    compare(form, bars, lambda: made(scales[0]), lambda: made(scales[1]))


def bench_postgresql(bars: Bars, folder: Path, scales: tuple[float, float], *, read: bool) -> None:
    with postgres("max_wal_size=4GB") as url:

        def made(scale: float) -> list:
            settled(url, "drop table if exists t")
            if not read:
                return ingest(lineitem(scale), url)
            copied(url, lineitem(scale))
            settled(url, "vacuum analyze t")
            end = folder / f"read-{scale:g}.duckdb"
            return [BIN / "headrace", "ingest", f"{url}#t", end, "--table", "t", "--json"]

        name = "PostgreSQL → DuckDB" if read else "CSV → PostgreSQL"
        compare(name, bars, lambda: made(scales[0]), lambda: made(scales[1]))


def bench_merge(bars: Bars, folder: Path, scales: tuple[float, float]) -> None:
    def made(scale: float) -> list:
        whole = folder / f"merge-{scale:g}.duckdb"
        timed(ingest(lineitem(scale), whole))
        keys = [part for name in KEY for part in ("--key", name)]
        return ingest(lineitem(scales[0]), whole, "--mode", "merge", *keys)

    compare("merge into DuckDB", bars, lambda: made(scales[0]), lambda: made(scales[1]))


def bench_capped(bars: Bars, folder: Path, scale: float) -> None:
    source = lineitem(scale)
    size = source.stat().st_size
    print(f"  {size / 1e9:.1f} GB of CSV, capped at {CAP_BYTES >> 20} MiB of data", flush=True)

    capped = [sys.executable, "-c", CAPPED, str(CAP_BYTES)]
    wall, _, peak = timed([*capped, *ingest(source, folder / "capped.duckdb")])
    with duckdb.connect(str(folder / "capped.duckdb"), read_only=True) as con:
        [(rows,)] = con.execute("select count(*) from t").fetchall()
    print(f"  {rows:,} rows in {wall:.0f} s")
    bars.hold("capped: peak", peak, PEAK_MAX, "MiB")


def benches(csv: Path, rounds: int, bars: Bars, folder: Path, *, short: bool) -> dict:
    scales = (0.01, 0.1) if short else (1, 10)
    forms = {
        form: lambda form=form: bench_files(form, bars, folder, scales)
        for form in ("csv", "lines", "array")
    }
    return forms | {
        "postgresql": lambda: bench_postgresql(bars, folder, scales, read=False),
        "from-postgresql": lambda: bench_postgresql(bars, folder, scales, read=True),
        "merge": lambda: bench_merge(bars, folder, scales),
        "capped": lambda: bench_capped(bars, folder, 0.1 if short else 27),
    }


if __name__ == "__main__":
    run(__doc__, benches)
