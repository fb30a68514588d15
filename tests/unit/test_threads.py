"""How many threads write a table depends on its width, the length of its rows, and the memory."""

from types import SimpleNamespace

import duckdb
import pytest

from headrace.engine.stage import Stager
from headrace.settings import Settings


@pytest.mark.parametrize(
    ("columns", "row_bytes", "threads"),
    [(2, 100, 8), (16, 400, 8), (50, 400, 4), (200, 2_000, 1), (2_000, 9, 1), (3, 5_000, 3),
     (3, 50_000, 1)],
)  # fmt: skip
def test_threads_follow_the_rows(columns, row_bytes, threads):
    con = duckdb.connect()
    con.execute("set threads = 8")
    plan = SimpleNamespace(transformations=(), key=(), documents=False, memory_bytes=288 << 20)
    stager = Stager(plan, SimpleNamespace(stages=True, stage="s"), con, None, None)
    scan = SimpleNamespace(files=(), record_bytes=lambda: row_bytes)
    fitted = [SimpleNamespace(scan=scan, columns=["c"] * columns, extra=())]
    stager._begin(fitted)
    for _ in range(2):
        stager._take_threads(quickly=True)
        assert con.execute("select current_setting('threads')").fetchone() == (threads,)
    stager._take_threads(quickly=False)
    threads = threads if columns > 16 else 8
    assert con.execute("select current_setting('threads')").fetchone() == (threads,)


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
