"""Instances of DuckDB: whose they are, and what a file's name may be."""

import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pytest

from headrace.connectors.destinations.duckdb import DuckdbLoad
from headrace.connectors.families import duckdb_file
from headrace.connectors.families.duckdb_file import opened
from headrace.contract import instance as instances
from headrace.contract import room
from headrace.contract.destination import Target
from headrace.contract.instance import another, instance, instance_in, prepare
from headrace.domain.errors import Refused
from headrace.domain.task import Action
from tests.engine import Rig

OTHER = """
import duckdb, sys
try:
    duckdb.connect(sys.argv[1]).execute("select 1")
except duckdb.IOException as error:
    sys.exit("Could not set lock" not in str(error))
else:
    sys.exit("it is open")
"""


@pytest.fixture
def tools(tmp_path: Path) -> SimpleNamespace:
    return SimpleNamespace(spool=tmp_path, memory_bytes=100_000_000)


def held(path: Path) -> bool:
    """Tell whether another process finds the file held."""
    return not subprocess.run([sys.executable, "-c", OTHER, str(path)], check=False).returncode


@pytest.mark.parametrize(
    "name",
    [
        "memory.duckdb",
        "Memory.a.db",
        "temp.duckdb",
        "system.db",
        "main.duckdb",
        "a b.duckdb",
        'it\'s "q".db',
    ],
)
def test_a_file_of_any_name_is_the_database_that_is_meant(tmp_path, name):
    path = tmp_path / name
    with instance(path) as con:
        con.execute("create table t as select 1 as a")
    with duckdb.connect(str(path)) as con:
        assert con.execute("from t").fetchall() == [(1,)]
        con.execute("create view v as from t")
        [(plain,)] = con.execute("select current_database()").fetchall()
    with instance(path) as con:  # a view may name its database
        assert con.execute(
            f'select a from "{plain.replace(chr(34), chr(34) * 2)}".main.v'
        ).fetchone()


def test_what_is_prepared_is_given_once_and_is_empty(monkeypatch):
    monkeypatch.setattr(instances, "_ready", [])
    monkeypatch.setattr(instances, "_prepares", False)  # and so again after the test
    prepare()
    prepare()
    assert len(instances._ready) == 1
    one, other = instance(), instance()
    one.execute("set threads = 1; create table t as select 1")
    assert other.execute("select count(*) from duckdb_tables()").fetchone() == (0,)
    assert instances._ready == []


def test_two_stages_in_one_folder_are_not_one(tmp_path):
    with instance_in(tmp_path) as one, instance_in(tmp_path) as other:
        one.execute("create table t as select 1")
        assert other.execute("select count(*) from duckdb_tables()").fetchone() == (0,)
        assert another(one).execute("from t").fetchall() == [(1,)]


def test_a_file_that_is_open_is_shared_in_this_process_and_held_against_others(tmp_path, tools):
    path = tmp_path / "t.duckdb"
    with opened(path, tools) as one:
        one.execute("create table t as select 1 as a")
        found = []

        def read() -> None:
            with opened(path, tools) as other:
                found.extend(other.execute("from t").fetchall())

        reader = threading.Thread(target=read)
        reader.start()
        reader.join()
        assert found == [(1,)]
        assert held(path)
        one.execute("insert into t values (2)")  # the other's end has not closed it
    assert not held(path)
    with duckdb.connect(str(path)) as con:
        assert con.execute("select sum(a) from t").fetchone() == (3,)


def test_what_duckdb_holds_of_a_large_table_beside_its_limit_is_taken_off_it(
    tmp_path, tools, monkeypatch
):
    def limit(name):
        with opened(tmp_path / name, tools) as con:
            [(text,)] = con.execute("select current_setting('memory_limit')").fetchall()
        number, unit = text.split()
        assert unit == "MiB"
        return float(number)

    columns = ", ".join(f"1 as c{n}" for n in range(32))
    with duckdb.connect(str(tmp_path / "large.duckdb")) as con:
        con.execute(f"create table t as select {columns} from range(2000000)")
    empty = limit("empty.duckdb")
    assert empty == pytest.approx(50e6 / 2**20, abs=0.1)
    assert empty - limit("large.duckdb") == pytest.approx(64e6 / 122_880 * 3_500 / 2**20, abs=1)
    monkeypatch.setattr(room, "HELD_BYTES", 10**9)
    assert limit("large.duckdb") == pytest.approx(empty * 3 / 4, abs=1)


def test_who_opened_a_file_first_may_close_it_first(tmp_path, tools):
    path = tmp_path / "t.duckdb"
    first, second = opened(path, tools), opened(path, tools)
    first.__enter__().execute("create table t as select 1 as a")
    con = second.__enter__()
    first.__exit__(None, None, None)
    assert con.execute("from t").fetchall() == [(1,)]
    assert held(path)
    second.__exit__(None, None, None)
    assert not held(path)


def test_a_file_is_not_written_while_this_process_reads_it(tmp_path, tools):
    path = tmp_path / "t.duckdb"
    with opened(path, tools) as con:
        con.execute("create table t as select 1 as a")
    with (
        opened(path, tools, read_only=True), pytest.raises(Refused, match="being read"),
        opened(path, tools),
    ):  # fmt: skip
        pass
    with opened(path, tools) as con:
        con.execute("insert into t values (2)")


@pytest.mark.parametrize("name", ["t.duckdb", "memory.duckdb"])
def test_a_process_that_has_time_later_lets_go_of_the_file_at_once(
    tmp_path, tools, monkeypatch, name
):
    for kept in ("_ready", "_spent"):
        monkeypatch.setattr(instances, kept, [])
    monkeypatch.setattr(instances, "_prepares", False)
    prepare()
    path = tmp_path / name
    with opened(path, tools) as con:
        con.execute("create table t as select 1 as a")
        assert held(path)
    assert not held(path)
    assert not Path(f"{path}.wal").exists()
    with opened(path, tools) as con:  # what was left is ended before there is another one
        assert instances._spent == []
        assert con.execute("from t").fetchall() == [(1,)]
    prepare()
    assert (len(instances._ready), len(instances._spent)) == (1, 0)


def test_a_file_is_let_go_even_if_no_memory_can_be_given_back(tmp_path, tools, monkeypatch):
    path = tmp_path / "t.duckdb"
    target = Target(table="t", action=Action.APPEND, key=(), scope="s", fence=1, token="a")
    monkeypatch.setattr(room, "freeing", lambda con: "from nowhere")
    load = DuckdbLoad(opened(path, tools), target, tools.memory_bytes)
    load.begin()
    load.con.execute(f"create table {load.stage} as select 1 as id")
    load.commit(lambda counts: "note")
    load.close()
    assert not held(path)
    with opened(path, tools) as con:
        assert con.execute("from t").fetchall() == [(1,)]


def test_what_is_no_duckdb_file_is_told_so_and_may_be_mended(tmp_path, tools):
    path = tmp_path / "t.duckdb"
    path.write_bytes(b"SQLite format 3\0" * 1000)
    with pytest.raises(Refused, match="is not a DuckDB file"), opened(path, tools):
        pass
    path.unlink()
    with opened(path, tools) as con:
        con.execute("create table t as select 1 as a")


def test_a_load_has_let_go_of_its_file_when_it_is_over(tmp_path, monkeypatch):
    """Its end goes on beside other work."""
    real, rig = duckdb_file.let_go, Rig("duckdb", tmp_path, "")

    def late(con) -> None:
        time.sleep(0.5)
        real(con)

    monkeypatch.setattr(duckdb_file, "let_go", late)
    rig.load("a.csv", "id\n1\n")
    assert not held(tmp_path / "o.duckdb")
    assert rig.rows() == [{"id": 1}]
