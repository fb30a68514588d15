"""The memory of a run is bounded by its share, not by the size of its input."""

import json
import os
import subprocess
import sys

import pytest

from headrace.assembly import work
from headrace.engine.plan import Stopped
from headrace.settings import RUN_BYTES_MIN, Settings
from tests.engine import Memory, order

MEGABYTES = 560
ACTIONS = [("replace", ()), ("save", ("c0",)), ("append", ())]


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


def peak(path, kind, folder, to="o.duckdb", *how):
    """Load a file in a process of its own; return its peak in MiB, and the rows that landed."""
    command = [
        sys.executable, "-c", STARTER, sys.executable, "-m", "headrace", "ingest", str(path), to,
        "--table", "t", "--json", "--format", "csv" if kind == "csv" else "json", *how,
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


def test_long_texts_are_not_held_while_they_are_written(tmp_path):
    """DuckDB's dictionaries would hold those of a whole group, outside its limit: 440 MB here."""
    with (tmp_path / "x").open("w") as out:
        out.write("id,text\n")
        out.writelines(f"{n},{n}{'x' * 4_000}\n" for n in range(110_000))
    took, rows = peak(tmp_path / "x", "csv", tmp_path)
    assert rows == 110_000
    assert took < 500, took


def test_the_least_that_a_run_may_have_holds_a_small_file(tmp_path):
    """In 33 MB, which is what DuckDB gets of it; its own buffer for a file of CSV takes 32."""
    (tmp_path / "data").mkdir()
    (tmp_path / "x.csv").write_text("id,name,at\n" + "1,a,2024-02-29\n" * 1000)
    told = order(
        tmp_path, ("csv", {"url": str(tmp_path / "x.csv")}),
        ("duckdb", {"path": str(tmp_path / "o.duckdb")}), memory_bytes=RUN_BYTES_MIN,
    )  # fmt: skip
    assert work(told, Memory()).books.inserted == 1000


def wide(path, columns, rows):
    """Write a table of numbers, texts and days, all rows but for their key the same."""
    values = [
        ("7", "a text of some length", "2024-02-29", "1.5")[n % 4] for n in range(columns - 1)
    ]
    rest = ",".join(values)
    with path.open("w") as out:
        out.write(",".join(f"c{n}" for n in range(columns)) + "\n")
        for n in range(rows):
            out.write(f"{n},{rest}\n")


@pytest.mark.parametrize(
    ("columns", "rows", "actions"), [(200, 20_000, ACTIONS), (1_500, 400, ACTIONS[:1])]
)
def test_a_wide_table_goes_into_what_a_run_has_by_default(tmp_path, columns, rows, actions):
    """In 288 MiB: a share of 1 GB for two at a time. New, then merged into, then added to."""
    (tmp_path / "data").mkdir()
    wide(tmp_path / "x.csv", columns, rows)
    books = []
    for action, key in actions:
        told = order(
            tmp_path, ("csv", {"url": str(tmp_path / "x.csv")}),
            ("duckdb", {"path": str(tmp_path / "o.duckdb")}), action=action, key=key,
            memory_bytes=Settings().run_memory_bytes,
        )  # fmt: skip
        table = work(told, Memory()).tables[0]
        books.append((table.books.inserted, table.books.updated, table.rows_after))
    assert books == [(rows, 0, rows), (0, rows, rows), (rows, 0, 2 * rows)][: len(actions)]


def test_what_is_too_wide_is_told_by_its_columns(tmp_path):
    (tmp_path / "data").mkdir()
    wide(tmp_path / "x.csv", 1_000, 20_000)
    told = order(
        tmp_path, ("csv", {"url": str(tmp_path / "x.csv")}),
        ("duckdb", {"path": str(tmp_path / "o.duckdb")}), memory_bytes=RUN_BYTES_MIN * 4,
    )  # fmt: skip
    with pytest.raises(Stopped) as stopped:
        work(told, Memory())
    assert "A table of 1,000 columns takes a lot." in str(stopped.value.error)
    assert "HEADRACE_MEMORY" in stopped.value.error.hint


def long(path, rows):
    """Write rows of 50 kB."""
    with path.open("w") as out:
        out.write("id,name,note\n")
        for n in range(rows):
            out.write(f"{n},name {n},{n:050000}\n")


@pytest.mark.parametrize(("to", "most"), [("o.sqlite", 260), ("o.parquet", 300)])
def test_long_rows_are_held_by_their_bytes_and_not_by_their_number(tmp_path, to, most):
    long(tmp_path / "x.csv", 6_000)
    took, rows = peak(tmp_path / "x.csv", "csv", tmp_path, to)
    assert rows == 6_000
    assert took < most, took  # MiB


def test_long_rows_are_merged_into_postgresql_a_few_at_a_time(tmp_path, fresh_database):
    long(tmp_path / "x.csv", 5_000)
    url = fresh_database.replace("+psycopg", "")
    took, rows = peak(tmp_path / "x.csv", "csv", tmp_path, url, "--mode", "merge", "--key", "id")
    assert rows == 5_000
    assert took < 640, took  # MiB: DuckDB's own 2,048 rows twice, and no more
