"""Peers: dlt, ingestr and Sling beside headrace in one run, each in an environment of its own.

    bench/peers.py --only csv       one of csv, lines, files, postgresql, source, merge

Each peer goes its quickest way that we know of: dlt by Arrow and Parquet, ingestr and Sling by their
own binaries. What these would fetch from the network (a driver, two extensions) comes from packages of the same versions. Rows are counted
where they land. Fails when headrace is not as much quicker as it should be. What a peer cannot do, or does not end in time, is told and not counted.
"""

import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

import duckdb
import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.databases import KEY, SAFE, UPSERT, changes, copied, settled
from bench.measure import BIN, SQL, TYPES, Bars, ingest, peer, run, spread, timed
from bench.memory import copy
from bench.run import split
from tests.postgres import postgres

PACKAGES = {
    "dlt": (
        "dlt[duckdb,postgres,sql-database]==1.31.0", "duckdb==1.5.5", "pyarrow", "connectorx", "psycopg[binary]", "pandas",
    ),
    "ingestr": ("ingestr==1.1.15", "duckdb==1.5.5"),
    # The newest whose wheel carries a binary; it loads DuckDB by its command line.
    "sling": (
        "sling-linux-amd64==1.4.11", "duckdb-cli==1.5.5", "duckdb-extension-json==1.5.5", "duckdb-extension-httpfs==1.5.5",
    ),
}  # fmt: skip
TIMEOUT_S = 600
SLOW = 10  # times our time: such a peer is run once, which is told
# ADBC's own way to say where a driver is: DuckDB's is in the module of its Python package.
MANIFEST = """manifest_version = 1
name = "DuckDB"
version = "1.5.5"
[ADBC]
version = "1.1.0"
[Driver]
entrypoint = "duckdb_adbc_init"
shared = "{library}"
"""
DLT = """
import os, sys, glob
os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
import dlt, pyarrow as pa, pyarrow.csv as pc, pyarrow.json as pj
what, source, end, home = sys.argv[1:5]
types = dict(one.split("=") for one in sys.argv[5:])
arrow = {"BIGINT": pa.int64(), "DECIMAL(15,2)": pa.decimal128(15, 2), "VARCHAR": pa.string(), "DATE": pa.date32(),
         "DOUBLE": pa.float64(), "TIMESTAMP": pa.timestamp("us")}
schema = {name: arrow[type_] for name, type_ in types.items()}

@dlt.resource(name="t", write_disposition="merge" if what == "merge" else "replace",
              primary_key=["l_orderkey", "l_linenumber"] if what == "merge" else None)
def rows():
    if what == "lines":
        options, parse = pj.ReadOptions(block_size=16 << 20), pj.ParseOptions(explicit_schema=pa.schema(schema))
        yield from (pa.Table.from_batches([b]) for b in pj.open_json(source, read_options=options, parse_options=parse))
        return
    for path in sorted(glob.glob(source)):
        options = pc.ReadOptions(block_size=16 << 20)
        reader = pc.open_csv(path, read_options=options, convert_options=pc.ConvertOptions(column_types=schema))
        yield from (pa.Table.from_batches([b]) for b in reader)

pipeline = dlt.pipeline("p", destination=dlt.destinations.duckdb(end), dataset_name="bench", pipelines_dir=home)
if what == "source":
    from dlt.sources.sql_database import sql_table
    data = sql_table(credentials=source, table="t", backend="connectorx", chunk_size=200_000)
    pipeline.run(data, loader_file_format="parquet", write_disposition="replace")
else:
    pipeline.run(rows(), loader_file_format="parquet")
"""


ALONE = "DuckDB alone"  # its own statements, without books: what nobody who writes with it beats
READ = """
import duckdb, sys
con = duckdb.connect(sys.argv[2])
con.execute("create table t as select * from read_json($1, columns=$2)", [sys.argv[1], {columns!r}])
"""
LINES = {"DECIMAL(15,2)": "DOUBLE", "DATE": "TIMESTAMP"}


class Peers:
    """The peers that could be installed here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python: dict[str, Path] = {}
        for name, packages in PACKAGES.items():
            try:
                self.python[name] = peer(folder, *packages, name=name)
            except subprocess.CalledProcessError as error:
                print(f"  {name} cannot be installed here: {error}")

    def dlt(self, what: str, source: str, end: str) -> list:
        home = self.folder / "dlt-home"
        if what != "merge":
            shutil.rmtree(home, ignore_errors=True)
        types = {name: SQL[type_] for name, type_ in TYPES.items()}
        if what == "lines":  # as JSON says them
            types = {name: LINES.get(type_, type_) for name, type_ in types.items()}
        typed = [f"{name}={type_}" for name, type_ in types.items()]
        return [self.python["dlt"], "-c", DLT, what, source, end, home, *typed]

    def ingestr(self, source: str, table: str, end: str, to: str, *more: str) -> list:
        [library] = self.python["ingestr"].parent.parent.rglob("_duckdb.*.so")
        drivers = self.folder / "drivers"
        drivers.mkdir(exist_ok=True)
        (drivers / "duckdb.toml").write_text(MANIFEST.format(library=library))
        python = Path(sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LDLIBRARY"))
        return [
            "env", f"ADBC_DRIVER_PATH={drivers}", f"LD_PRELOAD={python}",
            self.python["ingestr"].parent / "ingestr", "ingest", "--yes", "--source-uri", source,
            "--source-table", table, "--dest-uri", end, "--dest-table", to, "--progress", "log", *more,
        ]  # fmt: skip

    def sling(self, source: str, end: str) -> list:
        lib = self.python["sling"].parent.parent
        [binary] = (path for path in lib.rglob("sling-linux-amd64") if path.is_file())
        [duckdb_cli] = (path for path in lib.rglob("duckdb_cli/duckdb") if path.is_file())
        for path in (binary, duckdb_cli):
            path.chmod(0o755)
        home = self.folder / "sling-user"
        extensions = home / ".duckdb" / "extensions" / "v1.5.5" / "linux_amd64"
        extensions.mkdir(parents=True, exist_ok=True)
        for path in lib.rglob("*.duckdb_extension"):
            shutil.copy(path, extensions)
        return [
            "env", f"HOME={home}", f"DUCKDB_PATH={duckdb_cli}", f"SLING_HOME_DIR={self.folder / 'sling-home'}", binary, "run", "--src-stream", f"file://{source}", "--tgt-conn", end,
            "--tgt-object", "main.t", "--mode", "full-refresh",
        ]  # fmt: skip


def raced(
    runners: dict[str, tuple], rounds: int, bars: Bars, expected: int,
    least: dict[str, float],
) -> None:  # fmt: skip
    """Run all side by side; `runners`: what to run, and what makes ready and counts after it.

    `least`: how many times the time of headrace a peer should take.
    """
    walls: dict[str, list[float]] = {}
    for _ in range(rounds):
        for who, (prepare, command, count) in runners.items():
            if walls.get(who) == []:
                continue  # it could not, the first time
            if who in walls and walls[who][0] > SLOW * walls["headrace"][0]:
                continue  # what it takes is known
            prepare()
            os.sync()  # what the others have left to be written is not for it to wait for
            try:
                wall = limited(command)
                rows = count()
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired, duckdb.Error) as why:
                said = getattr(why, "output", None) or getattr(why, "stderr", None) or b""
                last = said.decode(errors="replace").strip().splitlines()[-1:]
                bars.tell(who, f"no result ({type(why).__name__}) {last}"[:300])
                walls[who] = []
                continue
            if rows != expected:
                bars.tell(who, f"{rows:,} rows landed, not {expected:,}")
            walls.setdefault(who, []).append(wall)
    judged(walls, bars, least)


def judged(walls: dict[str, list[float]], bars: Bars, least: dict[str, float]) -> None:
    """Hold what every peer has taken against our time, and tell it of what DuckDB takes alone."""
    ours = walls["headrace"]
    print(f"  headrace {spread(ours)}")
    if bare := walls.pop(ALONE, None):
        print(f"  {ALONE} {spread(bare)}")
    for who, found in walls.items():
        if who != "headrace" and found:
            bars.race(who, ours, found, least.get(who, 1.0))
            if bare:
                ratio = statistics.median(found) / statistics.median(bare)
                bars.tell(f"{who}, against {ALONE}", f"takes {ratio:.2f} x its time")


def limited(command: Sequence) -> float:
    """Run a command; return its seconds."""
    begun = time.monotonic()
    env = os.environ | {"SLING_DISABLE_TELEMETRY": "true", "DISABLE_TELEMETRY": "true"}
    subprocess.run(
        list(map(str, command)), check=True, capture_output=True, timeout=TIMEOUT_S, env=env
    )
    return time.monotonic() - begun


def counted(path: Path, table: str) -> int:
    with duckdb.connect(str(path), read_only=True) as con:
        found = con.execute(f"select count(*) from {table}").fetchone()
    return int(found[0])


def gone(path: Path) -> None:
    for one in path.parent.glob(f"{path.name}*"):
        one.unlink()


class Races:
    """Every race, over the same files."""

    def __init__(self, csv: Path, rounds: int, bars: Bars, folder: Path, *, short: bool) -> None:
        self.csv, self.rounds, self.bars, self.folder, self.short = csv, rounds, bars, folder, short
        self._peers: Peers | None = None

    @property
    def peers(self) -> Peers:
        if self._peers is None:
            self._peers = Peers(self.folder)
        return self._peers

    def end(self, who: str) -> Path:
        return self.folder / f"end_{who}.duckdb"

    def fresh(self, who: str, table: str, command: list) -> tuple:
        path = self.end(who)
        return (lambda: gone(path), command, lambda: counted(path, table))

    def csv_to_duckdb(self) -> None:
        self.bars.begin("CSV → DuckDB")
        peers, csv = self.peers, self.csv
        rows = 600_572 if self.short else 6_001_215
        runners = {"headrace": self.fresh("headrace", "t", ingest(csv, self.end("headrace")))}
        if "dlt" in peers.python:
            end = self.end("dlt")
            runners["dlt"] = self.fresh("dlt", "bench.t", peers.dlt("csv", str(csv), str(end)))
        if "ingestr" in peers.python:
            end = f"duckdb:///{self.end('ingestr')}"
            runners["ingestr"] = self.fresh(
                "ingestr", "main.t", peers.ingestr(f"csv://{csv}", "t", end, "main.t")
            )
        if "sling" in peers.python:
            end = f"duckdb://{self.end('sling')}"
            _, command, count = self.fresh("sling", "main.t", peers.sling(str(csv), end))
            path = self.end("sling")

            def empty() -> None:  # it wants a file that is there
                gone(path)
                duckdb.connect(str(path)).close()

            runners["sling"] = (empty, command, count)
        least = {"dlt": 3.0, "ingestr": 3.0, "sling": 3.0}
        raced(runners, self.rounds, self.bars, rows, least)

    def lines(self) -> None:
        self.bars.begin("JSON lines → DuckDB")
        peers = self.peers
        part = self.folder / "part.csv"
        wanted = 150_000 if self.short else 1_500_000
        with self.csv.open() as rows, part.open("w") as out:
            out.writelines(row for row, _ in zip(rows, range(wanted + 1), strict=False))
        path = self.folder / "rows.jsonl"
        copy(part, path, "format json")
        typed = [part for name, type_ in TYPES.items() if type_ == "date"
                 for part in ("--type", f"{name}=timestamp")]  # fmt: skip
        command = [
            BIN / "headrace",
            "ingest",
            path,
            self.end("headrace"),
            "--table",
            "t",
            "--json",
            *typed,
        ]
        runners = {"headrace": self.fresh("headrace", "t", command)}
        if "dlt" in peers.python:
            end = self.end("dlt")
            runners["dlt"] = self.fresh("dlt", "bench.t", peers.dlt("lines", str(path), str(end)))
        if "ingestr" in peers.python:
            end = f"duckdb:///{self.end('ingestr')}"
            runners["ingestr"] = self.fresh(
                "ingestr", "main.t", peers.ingestr(f"jsonl://{path}", "t", end, "main.t")
            )
        types = {name: LINES.get(SQL[type_], SQL[type_]) for name, type_ in TYPES.items()}
        alone = [sys.executable, "-c", READ.format(columns=types), path, self.end("alone")]
        runners[ALONE] = self.fresh("alone", "t", alone)
        least = {"dlt": 5.0, "ingestr": 5.0}
        raced(runners, self.rounds, self.bars, wanted, least)

    def files(self) -> None:
        self.bars.begin("2,000 CSV files → DuckDB")
        number = 50 if self.short else 2_000
        where = split(self.csv, self.folder, number)
        command = ingest(f"{where}/*.csv", self.end("headrace"))
        runners = {"headrace": self.fresh("headrace", "t", command)}
        if "dlt" in self.peers.python:
            path, end = f"{where}/*.csv", str(self.end("dlt"))
            runners["dlt"] = self.fresh("dlt", "bench.t", self.peers.dlt("csv", path, end))
        raced(runners, self.rounds, self.bars, number * 1000, {"dlt": 1.7})

    def postgresql(self) -> None:
        self.bars.begin("CSV → PostgreSQL")
        rows = 600_572 if self.short else 6_001_215
        with postgres(*SAFE) as url:

            def count() -> int:
                with psycopg.connect(url) as con:
                    return int(con.execute("select count(*) from public.t").fetchone()[0])

            def ready() -> None:
                settled(url, "drop table if exists public.t")

            runners = {"headrace": (ready, ingest(self.csv, url), count)}
            if "ingestr" in self.peers.python:
                command = self.peers.ingestr(f"csv://{self.csv}", "t", url, "public.t")
                runners["ingestr"] = (ready, command, count)
            raced(runners, self.rounds, self.bars, rows, {"ingestr": 3.5})

    def source(self) -> None:
        self.bars.begin("PostgreSQL → DuckDB")
        rows = 600_572 if self.short else 6_001_215
        peers = self.peers
        with postgres() as url:
            copied(url, self.csv)
            settled(url, "vacuum analyze t")
            command = [BIN / "headrace", "ingest", f"{url}#t", self.end("headrace"), "--json"]
            runners = {"headrace": self.fresh("headrace", "t", command)}
            if "dlt" in peers.python:
                end = str(self.end("dlt"))
                runners["dlt"] = self.fresh("dlt", "bench.t", peers.dlt("source", url, end))
            if "ingestr" in peers.python:
                end = f"duckdb:///{self.end('ingestr')}"
                runners["ingestr"] = self.fresh(
                    "ingestr", "main.t", peers.ingestr(url, "public.t", end, "main.t")
                )
            raced(runners, self.rounds, self.bars, rows, {})

    def merge(self) -> None:
        self.bars.begin("A merge of a tenth of the rows into DuckDB")
        peers = self.peers
        change = changes(self.csv, self.folder, 60_000 if self.short else 600_000)
        keys = [part for name in KEY for part in ("--key", name)]
        rows = 0
        runners = {}

        def again(who: str, table: str, command: list) -> tuple:
            kept, path = self.folder / f"kept-{who}.duckdb", self.end(who)

            def ready() -> None:
                gone(path)
                shutil.copyfile(kept, path)

            return (ready, command, lambda: counted(path, table))

        def keep(who: str, command: list) -> None:
            gone(self.end(who))
            limited(command)
            shutil.copyfile(self.end(who), self.folder / f"kept-{who}.duckdb")

        end = self.end("headrace")
        keep("headrace", ingest(self.csv, end))
        merge = ingest(change, end, "--mode", "merge", *keys)
        runners["headrace"] = again("headrace", "t", merge)
        timed(merge)
        rows = counted(end, "t")
        shutil.copyfile(self.folder / "kept-headrace.duckdb", self.folder / "kept-alone.duckdb")
        script = UPSERT.format(columns={name: SQL[type_] for name, type_ in TYPES.items()})
        alone = [sys.executable, "-c", script, change, self.end("alone")]
        runners[ALONE] = again("alone", "t", alone)
        if "dlt" in peers.python:
            end = str(self.end("dlt"))
            keep("dlt", peers.dlt("csv", str(self.csv), end))
            runners["dlt"] = again("dlt", "bench.t", peers.dlt("merge", str(change), end))
        if "ingestr" in peers.python:
            end = f"duckdb:///{self.end('ingestr')}"
            try:
                keep("ingestr", peers.ingestr(f"csv://{self.csv}", "t", end, "main.t"))
            except subprocess.CalledProcessError:
                peers.python.pop("ingestr")
                print("  ingestr: no result (it cannot load the table)")
        if "ingestr" in peers.python:
            more = ["--incremental-strategy", "merge"]
            more += [part for name in KEY for part in ("--primary-key", name)]
            command = peers.ingestr(f"csv://{change}", "t", end, "main.t", *more)
            runners["ingestr"] = again("ingestr", "main.t", command)
        least = {"dlt": 3.0, "ingestr": 7.0}
        raced(runners, self.rounds, self.bars, rows, least)


def benches(csv: Path, rounds: int, bars: Bars, folder: Path, *, short: bool) -> dict:
    races = Races(csv, rounds, bars, folder, short=short)
    return {
        "csv": races.csv_to_duckdb, "lines": races.lines, "files": races.files,
        "postgresql": races.postgresql, "source": races.source, "merge": races.merge,
    }  # fmt: skip


if __name__ == "__main__":
    run(__doc__, benches)
