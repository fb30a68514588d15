"""The bench: headrace beside DuckDB and COPY, in one run, medians, content compared by hash.

    make bench                      everything: about ten minutes
    bench/run.py --short            600,000 rows, two rounds; bars are not judged
    bench/run.py --only duckdb      one of duckdb, postgresql, source, small, server, bad, json

Fails when a bar is not held. Ratios count; wall times are this machine's.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
DATA = ROOT / "bench" / "data"
BIN = Path(sys.executable).parent
TYPES = {
    "l_orderkey": "integer", "l_partkey": "integer", "l_suppkey": "integer",
    "l_linenumber": "integer", "l_quantity": "decimal(15,2)", "l_extendedprice": "decimal(15,2)",
    "l_discount": "decimal(15,2)", "l_tax": "decimal(15,2)", "l_returnflag": "string",
    "l_linestatus": "string", "l_shipdate": "date", "l_commitdate": "date",
    "l_receiptdate": "date", "l_shipinstruct": "string", "l_shipmode": "string",
    "l_comment": "string",
}  # fmt: skip
SQL = {"integer": "BIGINT", "decimal(15,2)": "DECIMAL(15,2)", "string": "VARCHAR", "date": "DATE"}

PLAIN = """
import duckdb, sys
con = duckdb.connect(sys.argv[2])
columns = {columns!r}
con.execute(f"create table t as select * from read_csv('{{sys.argv[1]}}', header=true,"
            f" auto_detect=false, delim=',', quote='\\"', escape='\\"', columns={{columns}})")
con.close()
"""


def lineitem(scale: float) -> Path:
    path = DATA / f"sf{scale:g}" / "lineitem.csv"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [BIN / "tpchgen-cli", "csv", "-s", str(scale), "-T", "lineitem", "-o", path.parent],
            check=True, capture_output=True,
        )  # fmt: skip
    return path


def timed(command: list, **env: str) -> tuple[float, float, float]:
    """Run a command; return wall and CPU seconds and peak MiB of its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.monotonic()
    process = subprocess.Popen(
        list(map(str, command)),
        env=os.environ | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - begun
    process.stdout.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command}: {output.decode()}")
    del before
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def ingest(source: Path, end: str, *more: str) -> list:
    typed = [part for name, type_ in TYPES.items() for part in ("--type", f"{name}={type_}")]
    return [BIN / "headrace", "ingest", source, end, "--table", "t", "--json", *typed, *more]


def content_hash(path: Path) -> tuple:
    import duckdb

    names = ", ".join(TYPES)
    with duckdb.connect(str(path), read_only=True) as con:
        return con.execute(
            f"select count(*), bit_xor(hash({names})), sum(hash({names})::hugeint % 1000003) from t"
        ).fetchone()


class Bars:
    """What was measured against what was promised."""

    def __init__(self, *, judged: bool) -> None:
        self.judged = judged
        self.failed: list[str] = []

    def hold(self, name: str, value: float, bar: float, unit: str) -> None:
        self._tell(name, value, bar, unit, ok=value <= bar)

    def least(self, name: str, value: float, bar: float, unit: str) -> None:
        self._tell(name, value, bar, unit, ok=value >= bar)

    def _tell(self, name: str, value: float, bar: float, unit: str, *, ok: bool) -> None:
        print(f"  {'ok  ' if ok else 'FAIL'} {name}: {value:.3g} {unit} (bar {bar:g})", flush=True)
        if not ok and self.judged:
            self.failed.append(name)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} s ({min(values):.2f}-{max(values):.2f})"


def bench_duckdb(csv: Path, rounds: int, bars: Bars, folder: Path) -> None:
    print("\nCSV → DuckDB, against plain CREATE TABLE AS SELECT … FROM read_csv", flush=True)
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
            bars.failed.append("content differs from plain DuckDB's")
    print(f"  headrace {spread(ours)}, plain DuckDB {spread(theirs)}, medians of {rounds}")
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    bars.hold("time against plain DuckDB", statistics.median(ratios), 1.2, "x")
    bars.hold("peak memory", max(peaks), 763, "MiB")  # 800 MB
    few = folder / "few.csv"
    bad = b"x," + b"1," * 15 + b"1\n1,2\n"
    added_to(csv, bad, few)
    lenient = ingest(few, folder / "few.duckdb", "--failure-threshold", "1")
    walls = [timed(lenient)[0] for _ in range(rounds)]
    few.unlink()
    print(f"  with two bad rows: {spread(walls)}")
    bars.hold(
        "the same with bad rows", statistics.median(walls) / statistics.median(theirs), 1.5, "x"
    )


def added_to(path: Path, more: bytes, copy: Path) -> None:
    """Copy a file and add to it, without holding it: a child's peak begins with its parent's."""
    shutil.copyfile(path, copy)
    with copy.open("ab") as file:
        file.write(more)


def bench_postgresql(csv: Path, rounds: int, bars: Bars, folder: Path) -> None:
    import psycopg
    from tests.postgres import postgres

    print("\nCSV → PostgreSQL, against COPY … (FORMAT csv) of the same file", flush=True)
    pg = {"integer": "bigint", "decimal(15,2)": "numeric(15,2)", "string": "text", "date": "date"}
    defined = ", ".join(f"{name} {pg[type_]}" for name, type_ in TYPES.items())
    ours, theirs, sums = [], [], []

    def copy() -> float:
        begun = time.monotonic()
        with psycopg.connect(url) as con:
            con.execute(f"create table t ({defined})")
            with con.cursor() as cursor, csv.open("rb") as file:
                with cursor.copy("copy t from stdin (format csv, header)") as copy:
                    while chunk := file.read(1 << 20):
                        copy.write(chunk)
        return time.monotonic() - begun

    # As people run it: every commit on disk. (The tests' server is quicker and unsafe.)
    with postgres("fsync=on", "max_wal_size=4GB") as url:
        for number in range(rounds):
            for load, times in ((copy, theirs), (lambda: timed(ingest(csv, url))[0], ours)):
                # Neither pays for what the other has left to be written.
                with psycopg.connect(url, autocommit=True) as con:
                    con.execute("drop table if exists t")
                    con.execute("checkpoint")
                os.sync()
                times.append(load())
                if number == 0:
                    with psycopg.connect(url) as con:
                        sums.append(
                            con.execute(
                                "select count(*), sum(('x' || left(md5(x::text), 12))::bit(48)::bigint) from t x"
                            ).fetchone()
                        )
        if sums[0] != sums[1]:
            bars.failed.append("content differs from COPY's")
    print(f"  headrace {spread(ours)}, COPY csv {spread(theirs)}, medians of {rounds}")
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    bars.hold("time against COPY csv", statistics.median(ratios), 0.65, "x")


EXTENSION = """
import duckdb_extensions, sys
duckdb_extensions.import_extension("postgres_scanner")
import duckdb
con = duckdb.connect(sys.argv[2])
con.execute("load postgres_scanner")
con.execute(f"attach '{sys.argv[1]}' as p (type postgres, read_only)")
con.execute("create table t as select * from p.public.t")
"""


def bench_source(csv: Path, rounds: int, bars: Bars, folder: Path) -> None:
    import psycopg
    from tests.postgres import postgres

    print("\nPostgreSQL → DuckDB, against DuckDB's own postgres scan", flush=True)
    python = peer(
        folder, "duckdb==1.5.5", "duckdb-extensions", "duckdb-extension-postgres-scanner==1.5.5"
    )
    pg = {"integer": "bigint", "decimal(15,2)": "numeric(15,2)", "string": "text", "date": "date"}
    ours, theirs, peaks = [], [], []
    with postgres() as url:
        with psycopg.connect(url, autocommit=True) as con:
            con.execute(
                f"create table t ({', '.join(f'{name} {pg[type_]}' for name, type_ in TYPES.items())})"
            )
            with con.cursor() as cursor, csv.open("rb") as file:
                with cursor.copy("copy t from stdin (format csv, header)") as copy:
                    while chunk := file.read(1 << 20):
                        copy.write(chunk)
            con.execute("vacuum analyze t")
            con.execute("checkpoint")
        for number in range(rounds):
            for path in folder.glob("*.duckdb*"):
                path.unlink()
            theirs.append(timed([python, "-c", EXTENSION, url, folder / "plain.duckdb"])[0])
            command = [BIN / "headrace", "ingest", f"{url}#t", folder / "ours.duckdb", "--json"]
            wall, _, peak = timed(command)
            ours.append(wall)
            peaks.append(peak)
            if number == 0 and content_hash(folder / "ours.duckdb") != content_hash(
                folder / "plain.duckdb"
            ):
                bars.failed.append("content differs from the extension's")
    print(f"  headrace {spread(ours)}, DuckDB's extension {spread(theirs)}, medians of {rounds}")
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    bars.hold("time against DuckDB's postgres scan", statistics.median(ratios), 1.1, "x")
    bars.hold("peak memory", max(peaks), 763, "MiB")


def peer(folder: Path, *packages: str) -> Path:
    """Install packages into an environment of their own; return its Python."""
    uv = shutil.which("uv") or ROOT / ".boot" / "bin" / "uv"
    home = folder / "peer"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, home], check=True)
    python = home / "bin" / "python"
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *packages], check=True)
    return python


def bench_small(rounds: int, bars: Bars, folder: Path) -> None:
    print("\n100 rows CSV → DuckDB by `headrace ingest`, start-up included", flush=True)
    csv = folder / "small.csv"
    csv.write_text("id,name\n" + "".join(f"{n},name {n}\n" for n in range(100)))
    walls = [
        timed([BIN / "headrace", "ingest", csv, folder / "small.duckdb", "--json"])[0]
        for _ in range(max(rounds, 5))
    ]
    print(f"  {spread(walls)}")
    bars.hold("wall", statistics.median(walls), 1.2, "s")
    helps = [timed([BIN / "headrace", "--help"])[0] for _ in range(5)]
    bars.hold("headrace --help", statistics.median(helps), 0.3, "s")


def bench_server(rounds: int, bars: Bars, folder: Path) -> None:
    import psutil
    from tests.serving import serving

    print("\nA warm server: 100 rows from claim to receipt, queue latency, idle memory", flush=True)
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
    bars.hold("claim to receipt", statistics.median(works), 0.2, "s")
    bars.hold("enqueue to start", statistics.median(waits), 0.15, "s")
    bars.hold("idle server", rss, 150, "MiB")


def _seconds(moment: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(moment).timestamp()


def bench_bad(csv: Path, bars: Bars, folder: Path) -> None:
    print("\nEvery row of a large file is bad", flush=True)
    begun = time.monotonic()
    typed = ["--type", "l_orderkey=date"]
    command = [BIN / "headrace", "ingest", csv, folder / "bad.duckdb", "--json", *typed]
    done = subprocess.run(list(map(str, command)), capture_output=True, check=False)
    wall = time.monotonic() - begun
    told = json.loads(done.stdout)["error"]["message"]
    print(f"  exit {done.returncode}: {told}")
    if done.returncode != 4 or "l_orderkey" not in told:
        bars.failed.append("bad rows are not told")
    bars.hold("wall", wall, 30, "s")


def records(rows: int):
    for n in range(rows):
        yield {
            "id": n, "name": f"name {n}", "tags": ["a", "b"], "price": n / 7, "ok": n % 3 == 0,
            "at": f"2024-01-{n % 28 + 1:02} 10:00:00", "pad": "x" * 200,
        }  # fmt: skip


def bench_json(rounds: int, bars: Bars, folder: Path, rows: int) -> None:
    print(f"\nJSON: an array of {rows:,} objects, and half as many lines → DuckDB", flush=True)
    array, lines, odd = (folder / name for name in ("array.json", "lines.jsonl", "odd.jsonl"))
    with array.open("w") as one, lines.open("w") as other:
        one.write("[")
        for n, record in enumerate(records(rows)):
            text = json.dumps(record)
            one.write(("," if n else "") + text)
            if n < rows // 2:
                other.write(text + "\n")
        one.write("]")
    added_to(lines, b'{"id": "x"}\n{broken\n', odd)
    types = {"id": "BIGINT", "name": "VARCHAR", "tags": "JSON", "price": "DOUBLE", "ok": "BOOLEAN",
             "at": "VARCHAR", "pad": "VARCHAR"}  # fmt: skip
    plain = (
        'import duckdb, sys; con = duckdb.connect(sys.argv[2]); con.execute("create table t as select * from'
        f' read_json(\'" + sys.argv[1] + "\', columns={types!r})")'
    )
    for path, name, bar, least in (
        (array, "array", 1.3, 381), (lines, "lines", 1.5, 763), (odd, "lines with bad rows", 2.5, 763),
    ):  # fmt: skip
        ours, theirs, peaks = [], [], []
        for number in range(rounds):
            for other in folder.glob("*.duckdb*"):
                other.unlink()
            given = lines if path == odd else path  # theirs cannot have bad rows in it
            theirs.append(timed([sys.executable, "-c", plain, given, folder / "plain.duckdb"])[0])
            command = [
                BIN / "headrace",
                "ingest",
                path,
                folder / "ours.duckdb",
                "--table",
                "t",
                "--json",
            ]
            wall, _, peak = timed([*command, "--failure-threshold", "1"])
            ours.append(wall)
            peaks.append(peak)
            if number == 0 and _same_json(folder) is False:
                bars.failed.append(f"JSON {name}: content differs from plain DuckDB's")
        size = path.stat().st_size / 1e9
        print(
            f"  {name}, {size:.2f} GB: headrace {spread(ours)}, plain DuckDB {spread(theirs)}, peak {max(peaks):.0f} MiB"
        )
        ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
        bars.hold(f"{name}: time against plain DuckDB", statistics.median(ratios), bar, "x")
        bars.hold(f"{name}: peak memory", max(peaks), least, "MiB")
    for path in (array, lines, odd):
        path.unlink()


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--rounds", type=int, default=0)
    given = parser.parse_args()
    rounds = given.rounds or (2 if given.short else 5)
    bars = Bars(judged=not given.short)
    csv = lineitem(0.1 if given.short else 1)
    folder = Path(tempfile.mkdtemp(prefix="headrace-bench-"))
    load = os.getloadavg()
    print(f"{os.cpu_count()} cores, load {load[0]:.1f}, {csv.stat().st_size / 1e6:.0f} MB CSV")
    benches = {
        "duckdb": lambda: bench_duckdb(csv, rounds, bars, folder),
        "postgresql": lambda: bench_postgresql(csv, rounds, bars, folder),
        "source": lambda: bench_source(csv, rounds, bars, folder),
        "small": lambda: bench_small(rounds, bars, folder),
        "server": lambda: bench_server(rounds, bars, folder),
        "bad": lambda: bench_bad(csv, bars, folder),
        "json": lambda: bench_json(rounds, bars, folder, 30_000 if given.short else 3_000_000),
    }
    try:
        for name, run in benches.items():
            if given.only in ("", name):
                run()
    finally:
        shutil.rmtree(folder)
    if bars.failed:
        sys.exit(f"\nnot held: {', '.join(bars.failed)}")
    print("\nEvery bar is held." if bars.judged else "\nShort form: bars are shown, not judged.")


if __name__ == "__main__":
    main()
