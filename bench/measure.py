"""What the benches share: the data, a clock, and bars that are held or not."""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
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


def lineitem(scale: float) -> Path:
    path = DATA / f"sf{scale:g}" / "lineitem.csv"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [BIN / "tpchgen-cli", "csv", "-s", str(scale), "-T", "lineitem", "-o", path.parent],
            check=True, capture_output=True,
        )  # fmt: skip
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
    bars = Bars(judged=not given.short)
    csv = lineitem(0.1 if given.short else 1)
    folder = Path(tempfile.mkdtemp(prefix="headrace-bench-"))
    load = os.getloadavg()
    print(f"{os.cpu_count()} cores, load {load[0]:.1f}, {csv.stat().st_size / 1e6:.0f} MB CSV")
    try:
        for name, bench in benches(csv, rounds, bars, folder, short=given.short).items():
            if given.only in ("", name):
                bench()
    finally:
        shutil.rmtree(folder)
    if bars.failed:
        sys.exit(f"\nnot held: {', '.join(bars.failed)}")
    print("\nEvery bar is held." if bars.judged else "\nShort form: bars are shown, not judged.")
