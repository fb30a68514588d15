"""Files: headrace beside plain DuckDB, in one run, medians, content compared by hash.

    bench/run.py --short            120,000 rows, one round; bars are not judged
    bench/run.py --only duckdb      one of duckdb, small, files, server, bad, json

Fails when a bar is not held. Ratios count; wall times are this machine's.
"""

import itertools
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.measure import (
    BIN,
    SQL,
    TYPES,
    Bars,
    added_to,
    content_hash,
    ingest,
    run,
    spread,
    timed,
)

PLAIN = """
import duckdb, sys
con = duckdb.connect(sys.argv[2])
columns = {columns!r}
con.execute(f"create table t as select * from read_csv('{{sys.argv[1]}}', header=true,"
            f" auto_detect=false, delim=',', quote='\\"', escape='\\"', columns={{columns}})")
con.close()
"""


def bench_duckdb(csv: Path, rounds: int, bars: Bars, folder: Path) -> None:
    bars.begin("CSV → DuckDB, against plain CREATE TABLE AS SELECT … FROM read_csv")
    columns = {name: SQL[type_] for name, type_ in TYPES.items()}
    script = folder / "plain.py"
    script.write_text(PLAIN.format(columns=columns))
    ours, theirs, peaks = [], [], []
    timed(["cat", csv])  # a warm page cache for both
    for number in range(rounds):
        for path in folder.glob("*.duckdb*"):
            path.unlink()
        theirs.append(timed([sys.executable, script, csv, folder / "plain.duckdb"])[0])
        wall, _, peak = timed(ingest(csv, folder / "ours.duckdb"))
        ours.append(wall)
        peaks.append(peak)
        if number == 0 and content_hash(folder / "ours.duckdb") != content_hash(
            folder / "plain.duckdb"
        ):
            bars.wrong("content differs from plain DuckDB's")
    bars.against("plain DuckDB", ours, theirs, 1.2)
    bars.hold("peak memory", max(peaks), 763, "MiB")  # 800 MB
    few = folder / "few.csv"
    bad = b"x," + b"1," * 15 + b"1\n1,2\n"
    added_to(csv, bad, few)
    lenient = ingest(few, folder / "few.duckdb", "--failure-threshold", "1")
    walls = [timed(lenient)[0] for _ in range(rounds)]
    few.unlink()
    bars.against("plain DuckDB", walls, theirs, 1.5, " without the two bad rows that we have")


def split(csv: Path, folder: Path, files: int) -> Path:
    """Cut a file into files of 1,000 rows each."""
    where = folder / "many"
    where.mkdir()
    with csv.open() as rows:
        header = next(rows)
        for number in range(files):
            some = [row for row, _ in zip(rows, range(1000), strict=False)]
            (where / f"{number:05}.csv").write_text(header + "".join(some))
    return where


def bench_files(csv: Path, rounds: int, bars: Bars, folder: Path, files: int) -> None:
    bars.begin(f"{files:,} CSV files of 1,000 rows → one table, books a file")
    where = split(csv, folder, files)
    script = folder / "plain.py"
    script.write_text(PLAIN.format(columns={name: SQL[type_] for name, type_ in TYPES.items()}))
    ours, theirs, peaks = [], [], []
    for number in range(rounds):
        for path in folder.glob("*.duckdb*"):
            path.unlink()
        plain = [sys.executable, script, f"{where}/*.csv", folder / "plain.duckdb"]
        theirs.append(timed(plain)[0])
        wall, _, peak = timed(ingest(f"{where}/*.csv", folder / "ours.duckdb"))
        ours.append(wall)
        peaks.append(peak)
        if number == 0 and content_hash(folder / "ours.duckdb") != content_hash(
            folder / "plain.duckdb"
        ):
            bars.wrong("content differs from plain DuckDB's")
    bars.against("one typed scan", ours, theirs, 1.3)
    bars.hold("peak memory", max(peaks), 763, "MiB")


def bench_small(rounds: int, bars: Bars, folder: Path) -> None:
    bars.begin("100 rows CSV → DuckDB by `headrace ingest`, start-up included")
    csv = folder / "small.csv"
    csv.write_text("id,name\n" + "".join(f"{n},name {n}\n" for n in range(100)))
    walls = [
        timed([BIN / "headrace", "ingest", csv, folder / "small.duckdb", "--json"])[0]
        for _ in range(max(rounds, 5))
    ]
    print(f"  {spread(walls)}")
    bars.hold("wall", statistics.median(walls), 1.0, "s")
    helps = [timed([BIN / "headrace", "--help"])[0] for _ in range(5)]
    bars.hold("headrace --help", statistics.median(helps), 0.3, "s")


def bench_server(rounds: int, bars: Bars, folder: Path) -> None:
    import psutil
    from tests.serving import serving

    bars.begin("A warm server: 100 rows from claim to receipt, queue latency, idle memory")
    with serving(folder / "server") as server:
        client = server.client
        path = server.data_dir / "files" / "small.csv"
        path.write_text("id,name\n" + "".join(f"{n},name {n}\n" for n in range(100)))
        source = client.add("sources", type="csv", name="s", input={"url": f"file://{path}"})
        end = client.add(
            "destinations", type="duckdb", name="d",
            input={"path": str(server.data_dir / "files" / "o.duckdb")},
        )  # fmt: skip
        task = client.add("tasks", source=source["id"], destination=end["id"], action="replace")
        works, waits = [], []
        for _ in range(max(rounds, 5) * 4):
            run = client.wait(client.start(task["id"])["id"])
            assert run["state"] == "succeeded", run
            queued, started, finished = (
                _seconds(run[name]) for name in ("queuedAt", "startedAt", "finishedAt")
            )
            works.append(finished - started)
            waits.append(started - queued)
        time.sleep(2)
        process = psutil.Process(server.process.pid)
        rss = process.memory_info().rss / 2**20
        whole = sum(p.memory_full_info().pss for p in (process, *process.children())) / 2**20
    print(f"  work {spread(works)}, wait {spread(waits)}, idle {rss:.0f} MiB"
          f" ({whole:.0f} MiB with its warm children)")  # fmt: skip
    bars.hold("claim to receipt", statistics.median(works), 0.1, "s")
    bars.hold("enqueue to start", statistics.median(waits), 0.15, "s")
    bars.hold("idle server", rss, 150, "MiB")


def _seconds(moment: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(moment).timestamp()


def bench_bad(csv: Path, bars: Bars, folder: Path) -> None:
    bars.begin("Every row of a large file is bad")
    begun = time.monotonic()
    typed = ["--type", "l_orderkey=date"]
    command = [BIN / "headrace", "ingest", csv, folder / "bad.duckdb", "--json", *typed]
    done = subprocess.run(list(map(str, command)), capture_output=True, check=False)
    wall = time.monotonic() - begun
    told = json.loads(done.stdout)["error"]["message"]
    print(f"  exit {done.returncode}: {told}")
    if done.returncode != 4 or "l_orderkey" not in told:
        bars.wrong("bad rows are not told")
    bars.hold("wall", wall, 30, "s")


def records(rows: int):
    for n in range(rows):
        yield {
            "id": n, "name": f"name {n}", "tags": ["a", "b"], "price": n / 7, "ok": n % 3 == 0,
            "at": f"2024-01-{n % 28 + 1:02} 10:00:00", "pad": "x" * 200,
        }  # fmt: skip


def bench_json(rounds: int, bars: Bars, folder: Path, rows: int) -> None:
    bars.begin(f"JSON: an array of {rows:,} objects, and half as many lines → DuckDB")
    array, lines, odd = (folder / name for name in ("array.json", "lines.jsonl", "odd.jsonl"))
    many = folder / "json"
    many.mkdir()
    with array.open("w") as one, lines.open("w") as other:
        one.write("[")
        for n, record in enumerate(records(rows)):
            text = json.dumps(record)
            one.write(("," if n else "") + text)
            if n < rows // 2:
                other.write(text + "\n")
        one.write("]")
    added_to(lines, b'{"id": "x"}\n{broken\n', odd)
    with lines.open() as all_:
        for number in range(rows // 2000):
            some = itertools.islice(all_, 1000)
            (many / f"{number:05}.jsonl").write_text("".join(some))
    for path, name, bar, least in (
        (array, "array", 1.3, 381), (lines, "lines", 1.5, 763), (odd, "lines with bad rows", 2.5, 763),
        (many, f"lines in {rows // 2000:,} files", 1.5, 763),
    ):  # fmt: skip
        given = f"{many}/*.jsonl" if path == many else path
        # DuckDB's own cannot have bad rows in it.
        _race_json(rounds, bars, folder, name, given, lines if path == odd else given, bar, least)
    for path in (array, lines, odd):
        path.unlink()


def _race_json(
    rounds: int, bars: Bars, folder: Path, name: str, ours_of: object, theirs_of: object,
    bar: float, least: float,
) -> None:  # fmt: skip
    types = {"id": "BIGINT", "name": "VARCHAR", "tags": "JSON", "price": "DOUBLE", "ok": "BOOLEAN",
             "at": "VARCHAR", "pad": "VARCHAR"}  # fmt: skip
    plain = (
        'import duckdb, sys; con = duckdb.connect(sys.argv[2]); con.execute("create table t as select * from'
        f' read_json(\'" + sys.argv[1] + "\', columns={types!r})")'
    )
    ours, theirs, peaks = [], [], []
    for number in range(rounds):
        for other in folder.glob("*.duckdb*"):
            other.unlink()
        command = [sys.executable, "-c", plain, theirs_of, folder / "plain.duckdb"]
        theirs.append(timed(command)[0])
        end = folder / "ours.duckdb"
        command = [BIN / "headrace", "ingest", ours_of, end, "--table", "t", "--json"]
        wall, _, peak = timed([*command, "--failure-threshold", "1"])
        ours.append(wall)
        peaks.append(peak)
        if number == 0 and not _same_json(folder):
            bars.wrong(f"JSON {name}: content differs from plain DuckDB's")
    bars.against("plain DuckDB", ours, theirs, bar, f", {name}")
    bars.hold(f"{name}: peak memory", max(peaks), least, "MiB")


def _same_json(folder: Path) -> bool:
    import duckdb

    found = []
    for name in ("ours", "plain"):
        with duckdb.connect(str(folder / f"{name}.duckdb"), read_only=True) as con:
            found.append(
                con.execute(
                    'select count(*), bit_xor(hash(id, name, price, ok, "at"::varchar, pad)), bit_xor(hash(tags::json::varchar)) from t'
                ).fetchone()
            )
    return found[0] == found[1]


def benches(csv: Path, rounds: int, bars: Bars, folder: Path, *, short: bool) -> dict:
    return {
        "duckdb": lambda: bench_duckdb(csv, rounds, bars, folder),
        "small": lambda: bench_small(rounds, bars, folder),
        "files": lambda: bench_files(csv, rounds, bars, folder, 50 if short else 2_000),
        "server": lambda: bench_server(rounds, bars, folder),
        "bad": lambda: bench_bad(csv, bars, folder),
        "json": lambda: bench_json(rounds, bars, folder, 30_000 if short else 3_000_000),
    }


if __name__ == "__main__":
    run(__doc__, benches)
