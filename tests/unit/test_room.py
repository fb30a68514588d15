"""DuckDB in little memory."""

import subprocess
import sys

import duckdb
import pytest

from headrace.contract import room

FREED = """
import duckdb
from headrace.contract import room

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 >> 20

con = duckdb.connect()
con.execute("set memory_limit = '268MB'")
con.execute("create table t as select range as id, hash(range) as h from range(8000000)")
con.execute("drop table t")
print(resident())
con.execute(room.freeing(con))
print(resident())
"""


def test_what_is_freed_goes_back_to_the_system():
    found = subprocess.run(
        [sys.executable, "-c", FREED], check=True, capture_output=True, text=True, timeout=60
    )
    before, after = map(int, found.stdout.split())
    assert before > 150  # else the allocator keeps nothing any more, and nothing need be done
    assert after < 100


@pytest.mark.parametrize(
    "limit", ["60MB", "143MB", "256MB", "268MB", "512MB", "1050MB", "1200MB", "3954MB", "62GB"]
)
def test_the_limit_stays_what_it_was(limit):
    with duckdb.connect() as con:
        con.execute(f"set memory_limit = '{limit}'")
        asked = "select current_setting('memory_limit')"
        before = con.execute(asked).fetchall()
        for _ in range(20):
            con.execute(room.freeing(con))
        assert con.execute(asked).fetchall() == before


@pytest.mark.parametrize(("rows", "copies"), [(1_000, 1), (1_500_000, 2)])
def test_what_duckdb_holds_of_a_table_that_is_made_anew_is_taken_off_its_limit_twice(rows, copies):
    """The old one is there until the transaction ends."""
    columns = ", ".join(f"1 as c{n}" for n in range(32))
    with duckdb.connect() as con:
        con.execute(f"create table t as select {columns} from range(2000000)")
        con.execute(f"create table gone as select range as id from range({rows})")
        room.confine(con, 100_000_000)
        statements = room.going(con, "t", "gone", "fresh", 100_000_000)
        assert len(statements) > 1 if copies == 2 else len(statements) == 1
        [(limit,)] = con.execute("select current_setting('memory_limit')").fetchall()
        for statement in statements:
            con.execute(statement)
        assert con.execute("select count(*) from t").fetchall() == [(2_000_000 - rows,)]
    held = (2_000_000 * 32 + rows) * room.HELD_BYTES / room.GROUP_ROWS
    expected = max(100e6 - copies * held, 75e6) / 2**20
    assert float(limit.removesuffix(" MiB")) == pytest.approx(expected, abs=1)
