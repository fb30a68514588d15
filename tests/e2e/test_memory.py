"""The memory of a run is bounded by its share, not by the size of its input."""

import json
import os
import subprocess
import sys

import pytest

from headrace.assembly import work
from headrace.settings import RUN_BYTES_MIN
from tests.engine import Memory, order

MEGABYTES = 560


def write(path, kind, megabytes):
    with path.open("wb") as file:
        if kind == "csv":
            file.write(b"id,name,price,note\n")
            block = b"".join(
                b"%d,name %d,%d.25,%s\n" % (n, n, n % 1000, b"x" * (n % 60)) for n in range(20_000)
            )
        else:
            block = b"".join(
                json.dumps({"id": n, "name": f"name {n}", "price": n / 8, "note": "x" * (n % 60)}).encode() + b"\n"
                for n in range(20_000)
            )  # fmt: skip
        if kind == "array":
            block = block.replace(b"}\n", b"},\n")
            file.write(b"[")
        while file.tell() < megabytes * 1_000_000:
            file.write(block)
        if kind == "array":
            file.write(b'{"id": 1}]')


# A child's peak begins with that of who started it, so a small process starts it.
STARTER = """
import os, subprocess, sys
with subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE) as process:
    told = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
print(usage.ru_maxrss / 1024)
sys.stdout.flush()
sys.stdout.buffer.write(told)
"""


def peak(path, kind, folder):
    """Load a file in a process of its own; return its peak in MiB, and the rows that landed."""
    command = [
        sys.executable, "-c", STARTER, sys.executable, "-m", "headrace", "ingest", str(path), "o.duckdb",
        "--table", "t", "--json", "--format", "csv" if kind == "csv" else "json",
    ]  # fmt: skip
    env = os.environ | {"HEADRACE_MEMORY": "256MB", "MALLOC_ARENA_MAX": "2"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, check=True)
    took, told = done.stdout.split(b"\n", 1)
    receipt = json.loads(told)
    assert receipt["state"] == "succeeded", receipt
    return float(took), receipt["books"]["inserted"]


@pytest.mark.parametrize("kind", ["csv", "lines", "array"])
def test_a_file_twice_as_large_as_the_memory_is_loaded_in_it(tmp_path, kind):
    write(tmp_path / "x", kind, MEGABYTES)
    took, rows = peak(tmp_path / "x", kind, tmp_path)
    assert rows > 5_000_000
    assert took < 360, took  # MiB: 256 MB for the rows, and the program itself


def test_the_least_that_a_run_may_have_holds_a_small_file(tmp_path):
    """In 33 MB, which is what DuckDB gets of it; its own buffer for a file of CSV takes 32."""
    (tmp_path / "data").mkdir()
    (tmp_path / "x.csv").write_text("id,name,at\n" + "1,a,2024-02-29\n" * 1000)
    told = order(
        tmp_path, ("csv", {"url": str(tmp_path / "x.csv")}),
        ("duckdb", {"path": str(tmp_path / "o.duckdb")}), memory_bytes=RUN_BYTES_MIN,
    )  # fmt: skip
    assert work(told, Memory()).books.inserted == 1000
