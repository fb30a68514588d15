"""Databases: PostgreSQL as source and destination, merges into large tables.

    bench/databases.py --only load      one of load, source, parquet, merge-duckdb, merge-postgresql

The limit stands beside in the same run: COPY, DuckDB's postgres scan, bare statements. Fails when a
bar is not held.
"""

import os
import shutil
import sys
import time
from pathlib import Path

import duckdb
import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.measure import (
    BIN,
    SQL,
    TYPES,
    Bars,
    content_hash,
    ingest,
    peer,
    run,
    timed,
)
from tests.postgres import postgres

PG = {"integer": "bigint", "decimal(15,2)": "numeric(15,2)", "string": "text", "date": "date"}
DEFINED = ", ".join(f"{name} {PG[type_]}" for name, type_ in TYPES.items())
KEY = ("l_orderkey", "l_linenumber")
# As people run it: every commit on disk. (The tests' server is quicker and unsafe.)
SAFE = ("fsync=on", "max_wal_size=4GB")
CONTENT = "select count(*), sum(('x' || left(md5(x::text), 12))::bit(48)::bigint) from t x"


def copied(url: str, csv: Path, table: str = "t") -> float:
    """Load a file with COPY into a new table; return the seconds."""
    begun = time.monotonic()
    with psycopg.connect(url) as con:
        con.execute(f"create table {table} ({DEFINED})")
        with con.cursor() as cursor, csv.open("rb") as file:
            with cursor.copy(f"copy {table} from stdin (format csv, header)") as copy:
                while chunk := file.read(1 << 20):
                    copy.write(chunk)
    return time.monotonic() - begun


def settled(url: str, *statements: str) -> None:
    """Execute statements and write all that is left to be written: nobody pays for others."""
    with psycopg.connect(url, autocommit=True) as con:
        for statement in (*statements, "checkpoint"):
            con.execute(statement)
    os.sync()


def bench_load(csv: Path, rounds: int, bars: Bars) -> None:
    bars.begin("CSV → PostgreSQL, against COPY … (FORMAT csv) of the same file")
    ours, theirs, sums = [], [], []
    with postgres(*SAFE) as url:
        for number in range(rounds):
            for load, times in (
                (lambda: copied(url, csv), theirs), (lambda: timed(ingest(csv, url))[0], ours),
            ):  # fmt: skip
                settled(url, "drop table if exists t")
                times.append(load())
                if number == 0:
                    with psycopg.connect(url) as con:
                        sums.append(con.execute(CONTENT).fetchone())
        if sums[0] != sums[1]:
            bars.wrong("content differs from COPY's")
    bars.against("COPY csv", ours, theirs, 0.65)


EXTENSION = """
import duckdb_extensions, sys
duckdb_extensions.import_extension("postgres_scanner")
import duckdb
con = duckdb.connect(sys.argv[2] if sys.argv[2].endswith(".duckdb") else ":memory:")
con.execute("load postgres_scanner")
con.execute(f"attach '{sys.argv[1]}' as p (type postgres, read_only)")
if sys.argv[2].endswith(".duckdb"):
    con.execute("create table t as select * from p.public.t")
else:
    con.execute(f"copy p.public.t to '{sys.argv[2]}' (format parquet, compression zstd)")
"""


def bench_source(csv: Path, rounds: int, bars: Bars, folder: Path, *, parquet: bool) -> None:
    what = "Parquet" if parquet else "DuckDB"
    bars.begin(f"PostgreSQL → {what}, against DuckDB's own postgres scan")
    python = peer(
        folder, "duckdb==1.5.5", "duckdb-extensions", "duckdb-extension-postgres-scanner==1.5.5",
        name=f"scan-{what}",
    )  # fmt: skip
    ours, theirs, peaks = [], [], []
    plain = folder / ("plain.parquet" if parquet else "plain.duckdb")
    end = folder / "lake/" if parquet else folder / "ours.duckdb"
    with postgres() as url:
        copied(url, csv)
        settled(url, "vacuum analyze t")
        for number in range(rounds):
            for path in folder.glob("*.duckdb*"):
                path.unlink()
            plain.unlink(missing_ok=True)
            os.sync()
            theirs.append(timed([python, "-c", EXTENSION, url, plain])[0])
            os.sync()  # what it leaves to be written is not for us to wait for
            command = [BIN / "headrace", "ingest", f"{url}#t", f"{end}/" if parquet else end]
            wall, _, peak = timed([*command, "--table", "t", "--json"])
            ours.append(wall)
            peaks.append(peak)
            if number == 0 and not same(end, plain, parquet=parquet):
                bars.wrong("content differs from the extension's")
    bars.against("DuckDB's postgres scan", ours, theirs, 1.1)
    bars.hold("peak memory", max(peaks), 763, "MiB")


def same(end: Path, plain: Path, *, parquet: bool) -> bool:
    """Tell whether both hold the same rows."""
    if not parquet:
        return content_hash(end) == content_hash(plain)
    names = ", ".join(TYPES)
    files = (str(end / "t" / "*" / "rows.parquet"), str(plain))
    with duckdb.connect() as con:
        found = [
            con.execute(
                f"select count(*), sum(hash({names})::hugeint) from read_parquet('{path}')"
            ).fetchone()
            for path in files
        ]
    return found[0] == found[1]


def changes(csv: Path, folder: Path, rows: int) -> Path:
    """Write rows of which nine in ten are there, changed, and the tenth is new."""
    path = folder / "changes.csv"
    columns = {name: SQL[type_] for name, type_ in TYPES.items()}
    items = {name: name for name in TYPES} | {
        "l_quantity": "l_quantity + 1",
        "l_orderkey": "case when n % 100 = 5 then l_orderkey + 100000000 else l_orderkey end",
    }
    listed = ", ".join(f"{sql} as {name}" for name, sql in items.items())
    with duckdb.connect() as con:
        con.execute(
            f"copy (select {listed} from (select *, row_number() over () as n from read_csv($1,"
            f" header=true, columns=$2)) where n % 10 = 5 limit {rows}) to '{path}' (header)",
            [str(csv), columns],
        )
    return path


UPSERT = """
import duckdb, sys
con = duckdb.connect(sys.argv[2])
columns = {columns!r}
con.execute("create temp table s as select * from read_csv($1, header=true, auto_detect=false,"
            " delim=',', quote=chr(34), escape=chr(34), columns=$2)", [sys.argv[1], columns])
con.begin()
con.execute("delete from t using s where t.l_orderkey = s.l_orderkey"
            " and t.l_linenumber = s.l_linenumber")
con.execute("insert into t select * from s")
con.commit()
con.close()
"""


MERGE = ("--mode", "merge", *(part for name in KEY for part in ("--key", name)))


def bench_merge_duckdb(csv: Path, rounds: int, bars: Bars, folder: Path, rows: int) -> None:
    change = changes(csv, folder, rows)
    bars.begin(f"A merge of {rows:,} rows into DuckDB, against delete + insert")
    whole = folder / "whole.duckdb"
    timed(ingest(csv, whole))
    script = folder / "upsert.py"
    script.write_text(UPSERT.format(columns={name: SQL[type_] for name, type_ in TYPES.items()}))
    ours, theirs = [], []
    for number in range(rounds):
        for name, command, times in (
            ("plain", [sys.executable, script, change], theirs), ("ours", None, ours),
        ):  # fmt: skip
            path = folder / f"{name}.duckdb"
            path.unlink(missing_ok=True)
            shutil.copyfile(whole, path)
            os.sync()
            times.append(timed([*command, path] if command else ingest(change, path, *MERGE))[0])
        if number == 0 and content_hash(folder / "ours.duckdb") != content_hash(
            folder / "plain.duckdb"
        ):
            bars.wrong("content differs from delete + insert")
    bars.against("delete + insert", ours, theirs, 1.5)


def bench_merge_postgresql(csv: Path, rounds: int, bars: Bars, folder: Path, rows: int) -> None:
    change = changes(csv, folder, rows)
    bars.begin(f"A merge of {rows:,} rows into PostgreSQL, against bare ON CONFLICT")
    sets = ", ".join(f"{name} = excluded.{name}" for name in TYPES if name not in KEY)
    ours, theirs, sums = [], [], []

    def bare() -> float:
        begun = time.monotonic()
        with psycopg.connect(url) as con:
            con.execute(f"create temp table s ({DEFINED})")
            with con.cursor() as cursor, change.open("rb") as file:
                with cursor.copy("copy s from stdin (format csv, header)") as copy:
                    while chunk := file.read(1 << 20):
                        copy.write(chunk)
            con.execute("analyze s")
            con.execute(
                f"insert into t select * from s on conflict ({', '.join(KEY)}) do update set {sets}"
            )
        return time.monotonic() - begun

    with postgres(*SAFE) as url:
        copied(url, csv, "whole")
        for number in range(rounds):
            for load, times in (
                (bare, theirs), (lambda: timed(ingest(change, url, *MERGE))[0], ours),
            ):  # fmt: skip
                settled(
                    url, "drop table if exists t", "create table t as select * from whole",
                    f"alter table t add primary key ({', '.join(KEY)})", "vacuum analyze t",
                )  # fmt: skip
                times.append(load())
                if number == 0:
                    with psycopg.connect(url) as con:
                        sums.append(con.execute(CONTENT).fetchone())
        if sums[0] != sums[1]:
            bars.wrong("content differs from ON CONFLICT's")
    bars.against("ON CONFLICT", ours, theirs, 1.2)


def benches(csv: Path, rounds: int, bars: Bars, folder: Path, *, short: bool) -> dict:
    rows = 12_000 if short else 600_000
    return {
        "load": lambda: bench_load(csv, rounds, bars),
        "source": lambda: bench_source(csv, rounds, bars, folder, parquet=False),
        "parquet": lambda: bench_source(csv, rounds, bars, folder, parquet=True),
        "merge-duckdb": lambda: bench_merge_duckdb(csv, rounds, bars, folder, rows),
        "merge-postgresql": lambda: bench_merge_postgresql(csv, rounds, bars, folder, rows),
    }


if __name__ == "__main__":
    run(__doc__, benches)
