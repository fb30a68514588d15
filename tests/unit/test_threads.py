"""How many threads write a table depends on its width, the length of its rows, and the memory."""

from types import SimpleNamespace

import duckdb
import pytest

from headrace.engine.stage import Stager


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
