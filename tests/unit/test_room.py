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
