"""Rows come in chunks that are bounded by their number and by their bytes."""

import duckdb
import pytest

from headrace.contract.chunks import BYTES_MAX, FEW, buffered, chunks


class Rows:
    """A cursor over rows that are made as they are asked for."""

    def __init__(self, sizes):
        self._left = [(n, "x" * size) for n, size in enumerate(sizes)]

    def fetchmany(self, size):
        some, self._left = self._left[:size], self._left[size:]
        return some


def test_every_row_comes_once_and_in_order():
    found = list(chunks(Rows([3] * 1_000), 300))
    assert [row[0] for chunk in found for row in chunk] == list(range(1_000))
    assert [len(chunk) for chunk in found] == [320, 320, 320, 40]


def test_no_rows_are_no_chunk():
    assert list(chunks(Rows([]), 300)) == []


def test_long_rows_come_few_at_a_time():
    found = list(chunks(Rows([1 << 20] * 200), 10_000))
    assert [len(chunk) for chunk in found] == [FEW, FEW, FEW, 8]
    assert sum(map(len, chunks(Rows([10_000] * 5_000), 10_000))) == 5_000
    assert max(map(len, chunks(Rows([10_000] * 5_000), 10_000))) * 10_000 < BYTES_MAX + FEW * 10_000


def test_one_long_row_at_the_end_of_a_few_is_seen():
    sizes = ([1] * (FEW - 1) + [1 << 20]) * 3
    assert [len(chunk) for chunk in chunks(Rows(sizes), 10_000)] == [FEW] * 3


@pytest.mark.parametrize(
    ("width", "row_bytes"), [(0, 0), (1, 8_000_000), (3, 50_000), (200, 2_000)]
)
@pytest.mark.parametrize("threads", [1, 2, 64])
def test_whatever_is_told_of_a_buffer_all_rows_come(width, row_bytes, threads):
    con = duckdb.connect()
    con.execute(f"set threads = {threads}")
    con.execute("create table t as select range as n, repeat('x', 1000) from range(30000)")
    con.execute(f"set streaming_buffer_size = '{buffered(1_000_000, width, row_bytes)}B'")
    for query in ("from t", "from t order by n", "select n, sum(n) over () from t"):
        assert sum(map(len, chunks(con.execute(query), 1_000))) == 30_000
