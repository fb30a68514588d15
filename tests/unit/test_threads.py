"""How a table is written depends on its width, the length of its rows, and the memory."""

from types import SimpleNamespace

import duckdb
import pytest

from headrace.engine.stage import Stager
from headrace.settings import Settings


def beginning(columns, row_bytes):
    """Return a stager that has begun with such rows, in a run of 288 MB."""
    con = duckdb.connect()
    con.execute("set threads = 8")
    plan = SimpleNamespace(transformations=(), key=(), documents=False, memory_bytes=288 << 20)
    stager = Stager(plan, SimpleNamespace(stages=True, stage="s"), con, None, None)
    scan = SimpleNamespace(files=(), record_bytes=lambda: row_bytes)
    stager._begin([SimpleNamespace(scan=scan, columns=["c"] * columns, extra=())])
    return stager, con


@pytest.mark.parametrize(
    ("columns", "row_bytes", "threads"),
    [(2, 100, 8), (16, 400, 8), (50, 400, 4), (200, 2_000, 1), (2_000, 9, 1), (3, 5_000, 3),
     (3, 50_000, 1)],
)  # fmt: skip
def test_threads_follow_the_rows(columns, row_bytes, threads):
    stager, con = beginning(columns, row_bytes)
    for _ in range(2):
        stager._take_threads(quickly=True)
        assert con.execute("select current_setting('threads')").fetchone() == (threads,)
    stager._take_threads(quickly=False)
    threads = threads if columns > 16 else 8
    assert con.execute("select current_setting('threads')").fetchone() == (threads,)


@pytest.mark.parametrize(
    ("columns", "row_bytes", "without"),
    [(2, 100, ""), (16, 400, ""), (200, 4_000, ""), (3, 2_000, "Dictionary"),
     (90, 9_000, "Dictionary")],
)  # fmt: skip
def test_only_of_long_texts_no_dictionaries_are_made(columns, row_bytes, without):
    _, con = beginning(columns, row_bytes)
    found = con.execute("select current_setting('disabled_compression_methods')").fetchone()
    assert found == (without,)


@pytest.mark.parametrize(
    ("cores", "memory", "workers", "threads"),
    [(2, 1 << 30, 2, 2), (16, 1 << 30, 2, 2), (16, 8 << 30, 2, 8), (16, 8 << 30, 1, 16),
     (64, 2 << 30, 2, 6), (1, 8 << 30, 1, 2), (16, 8 << 30, 16, 2)],
)  # fmt: skip
def test_a_run_takes_its_share_of_the_cores_that_its_memory_is_enough_for(
    monkeypatch, cores, memory, workers, threads
):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert Settings(memory_bytes=memory, workers=workers).run_threads == threads
