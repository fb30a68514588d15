"""What the benches share: the data, a clock, and bars that are held or not."""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "bench" / "data"
RESULTS = DATA / "results"
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


def lineitem(scale: float) -> Path:
    """Return TPC-H's lineitem as CSV, made where it is not there: whole, whoever else makes it."""
    path = DATA / f"sf{scale:g}" / "lineitem.csv"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as made:
            subprocess.run(
                [BIN / "tpchgen-cli", "csv", "-s", str(scale), "-T", "lineitem", "-o", made],
                check=True, capture_output=True,
            )  # fmt: skip
            Path(made, "lineitem.csv").replace(path)
    return path


# A child's peak begins with what its parent holds: so a small process starts it, and waits for it.
STARTER = """
import os, sys, time
out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
begun = time.monotonic()
child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ, file_actions=[
    (os.POSIX_SPAWN_DUP2, out, 1), (os.POSIX_SPAWN_DUP2, out, 2)])
_, status, usage = os.wait4(child, 0)
print(time.monotonic() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
sys.exit(os.waitstatus_to_exitcode(status) != 0)
"""


def timed(command: list, **env: str) -> tuple[float, float, float]:
    """Run a command; return wall and CPU seconds and peak MiB of its process."""
    with tempfile.NamedTemporaryFile() as output:
        done = subprocess.run(
            [sys.executable, "-IS", "-c", STARTER, output.name, *map(str, command)],
            env=os.environ | env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"{command}: {Path(output.name).read_text()}{done.stderr}")
    wall, cpu, peak = map(float, done.stdout.split())
    return wall, cpu, peak


def ingest(source: Path, end: str, *more: str) -> list:
    typed = [part for name, type_ in TYPES.items() for part in ("--type", f"{name}={type_}")]
    return [BIN / "headrace", "ingest", source, end, "--table", "t", "--json", *typed, *more]


HASH = """
import duckdb, sys
with duckdb.connect(sys.argv[1], read_only=True) as con:
    con.execute("set enable_progress_bar = false")  # it would be part of what is compared
    print(con.execute(f"select count(*), bit_xor(hash({sys.argv[2]})),"
                      f" sum(hash({sys.argv[2]})::hugeint % 1000003) from t").fetchone())
"""


def content_hash(path: Path) -> str:
    """Return what tells the rows of a table apart from others.

    In a process of its own: the peak of a child begins with what its parent holds.
    """
    command = [sys.executable, "-c", HASH, str(path), ", ".join(TYPES)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Bars:
    """What was measured against what was promised; kept for the report (bench/report.py)."""

    def __init__(self, script: str, *, judged: bool) -> None:
        self.judged = judged
        self.failed: list[str] = []
        self._kept = RESULTS / f"{Path(script).stem}.json"
        self._title = ""
        self._rows: list[dict] = []

    def begin(self, title: str) -> None:
        """Begin a bench: what is measured from now on belongs to it."""
        self._keep()  # of those before: this one may never end
        os.sync()  # nor does it wait for what they have left to be written
        print(f"\n{title}", flush=True)
        self._title = title

    def against(
        self, other: str, ours: list[float], theirs: list[float], bar: float, note: str = ""
    ) -> None:
        """Hold the median ratio of two ways that were measured side by side, in seconds."""
        print(f"  headrace {spread(ours)}, {other} {spread(theirs)}, medians of {len(ours)}")
        ratios = [one / two for one, two in zip(ours, theirs, strict=True)]
        name = f"time against {other}{note}"
        value = statistics.median(ratios)
        self._tell(name, value, bar, "x", most=True, ours=ours, theirs=theirs, other=other)

    def race(self, other: str, ours: list[float], theirs: list[float], bar: float) -> None:
        """Hold how many times our time another takes."""
        print(f"    {other} {spread(theirs)}")
        value = statistics.median(theirs) / statistics.median(ours)
        name = f"{other} takes"
        self._tell(name, value, bar, "x our time", ours=ours, theirs=theirs, other=other)

    def hold(self, name: str, value: float, bar: float, unit: str) -> None:
        self._tell(name, value, bar, unit, most=True)

    def least(self, name: str, value: float, bar: float, unit: str) -> None:
        self._tell(name, value, bar, unit)

    def tell(self, name: str, said: str) -> None:
        """Keep what is no number: who gave no result, and why."""
        print(f"  {name}: {said}", flush=True)
        self._rows.append({"bench": self._title, "what": name, "said": said})

    def wrong(self, said: str) -> None:
        """A result that is not what it should be fails whatever its time."""
        print(f"  WRONG {said}", flush=True)
        self.failed.append(f"{self._title}: {said}")
        self._rows.append({"bench": self._title, "what": "content", "said": f"WRONG: {said}"})

    def _tell(
        self, name: str, value: float, bar: float, unit: str, *, most: bool = False, **more: object
    ) -> None:
        ok = value <= bar if most else value >= bar
        print(f"  {'ok  ' if ok else 'FAIL'} {name}: {value:.3g} {unit} (bar {bar:g})", flush=True)
        if not ok and self.judged:
            self.failed.append(f"{self._title}: {name}")
        row = {"bench": self._title, "what": name, "value": value, "bar": bar, "unit": unit}
        self._rows.append(row | {"most": most, "ok": ok} | more)

    def end(self) -> None:
        """Keep what was measured, and exit: 1 if a bar is not held."""
        self._keep()
        if self.failed:
            sys.exit(f"\nnot held: {'; '.join(self.failed)}")
        print(
            "\nEvery bar is held." if self.judged else "\nShort form: bars are shown, not judged."
        )

    def _keep(self) -> None:
        """Keep what was measured in place of what was before."""
        if not self.judged or not self._rows:
            return
        RESULTS.mkdir(parents=True, exist_ok=True)
        before = json.loads(self._kept.read_text())["rows"] if self._kept.exists() else []
        again = {row["bench"] for row in self._rows}
        rows = [row for row in before if row["bench"] not in again] + self._rows
        load = os.getloadavg()[0]
        self._kept.write_text(
            json.dumps({"on": time.strftime("%Y-%m-%d"), "load": load, "rows": rows})
        )


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} s ({min(values):.2f}-{max(values):.2f})"


def added_to(path: Path, more: bytes, copy: Path) -> None:
    """Copy a file and add to it, without holding it: a child's peak begins with its parent's."""
    shutil.copyfile(path, copy)
    with copy.open("ab") as file:
        file.write(more)


def peer(folder: Path, *packages: str, name: str = "peer") -> Path:
    """Install packages into an environment of their own; return its Python."""
    uv = shutil.which("uv") or ROOT / ".boot" / "bin" / "uv"
    home = folder / name
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, home], check=True)
    python = home / "bin" / "python"
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *packages], check=True)
    return python


def run(described: str, benches: Callable[..., Mapping[str, Callable]]) -> None:
    """Do what the command line asks of `benches(csv, rounds, bars, folder, short=…)`, by name."""
    parser = argparse.ArgumentParser(
        description=described, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="little data; bars are not judged")
    parser.add_argument("--only", default="", help="the name of one bench")
    parser.add_argument("--rounds", type=int, default=0, help="5, in short 1")
    given = parser.parse_args()
    rounds = given.rounds or (1 if given.short else 5)
    bars = Bars(sys.argv[0], judged=not given.short)
    csv = lineitem(0.02 if given.short else 1)
    folder = Path(tempfile.mkdtemp(prefix="headrace-bench-"))
    os.environ["TMPDIR"] = str(folder)  # what a peer leaves behind goes with it
    load = os.getloadavg()
    print(f"{os.cpu_count()} cores, load {load[0]:.1f}, {csv.stat().st_size / 1e6:.0f} MB CSV")
    try:
        for name, bench in benches(csv, rounds, bars, folder, short=given.short).items():
            if given.only in ("", name):
                bench()
    finally:
        shutil.rmtree(folder)
    bars.end()
