"""A table compared with its source: every difference is found, named, and mended where it can be."""

import contextlib
import json
import sqlite3

import duckdb
import psycopg
import pytest

from headrace.assembly import work
from headrace.cli.main import app
from headrace.contract import canonical
from headrace.contract.tools import Known
from headrace.domain.errors import Differs, Invalid, Misconfigured, NotFound, Refused
from headrace.domain.shape import Names, Shape
from headrace.domain.verification import By, Verify
from headrace.engine import verify as verifying
from headrace.engine.plan import Stopped
from tests.conformance.test_table_sources import _mysql, rig_of, servers
from tests.engine import Memory, order

pytestmark = pytest.mark.xdist_group("databases")
__all__ = ["servers"]  # a fixture
SOURCES = ["postgresql", "mysql", "duckdb", "sqlite"]
TABLES = ["duckdb", "postgresql", "parquet"]
ROWS = 3_000
COLUMNS = "id int primary key, name varchar(40), price decimal(12,3), day date, changed {}"


class Pair:
    """A source with rows, and a table that was loaded from it."""

    def __init__(self, kind, end, servers, folder):
        self.source = rig_of(kind, servers, folder)
        self.folder, self.kind, self.fence = folder, end, 0
        (folder / "data").mkdir(exist_ok=True)
        if end == "postgresql":
            self.url = servers("postgresql")
            with psycopg.connect(self.url, autocommit=True) as con:
                con.execute("drop schema if exists there cascade")
                con.execute("create schema there")
        self.end = {
            "duckdb": lambda: ("duckdb", {"path": str(folder / "o.duckdb")}),
            "postgresql": lambda: ("postgresql", {"url": self.url, "schema": "there"}),
            "parquet": lambda: ("parquet", {"path": str(folder / "lake")}),
            "mysql": lambda: ("mysql", {"url": rig_of("mysql", servers, folder).at}),
        }[end]()
        moment = self.source.moment()
        rows = ", ".join(
            f"({n}, 'na''me {n % 7}', {n}.5{n % 10}0, '2024-02-{n % 28 + 1:02}', '2024-01-01 00:{n // 60 % 60:02}:{n % 60:02}.{n % 1000:03}')"
            for n in range(ROWS)
        )
        self.source.run(
            f"create table t ({COLUMNS.format(moment)})", f"insert into t values {rows}",
            "insert into t (id) values (900000)",
        )  # fmt: skip

    def order(self, *, source=None, **more):
        self.fence += 1
        return order(
            self.folder, self.source.source(**(source or {})), self.end,
            **({"key": ("id",), "fence": self.fence} | more),
        )  # fmt: skip

    def load(self, **more):
        return work(self.order(**more), Memory())

    def verify(self, wanted=None, *, source=None, **more):
        """Return what was found, with the error if there is one."""
        asked = self.order(source=source, action="append", verify=wanted or Verify(), **more)
        journal = Memory()
        try:
            return work(asked, journal), None, journal
        except Stopped as stopped:
            return stopped.receipt, stopped.error, journal

    def change(self, *statements):
        """Change the table, as somebody might who should not."""
        if self.kind == "duckdb":
            with duckdb.connect(str(self.folder / "o.duckdb")) as con:
                for statement in statements:
                    con.execute(statement)
        elif self.kind == "postgresql":
            with psycopg.connect(self.url, autocommit=True) as con:
                con.execute("set search_path = there")
                for statement in statements:
                    con.execute(statement)

        else:
            with _mysql(self.end[1]["url"]) as con, con.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)

    def rows(self, what="count(*)"):
        if self.kind == "mysql":
            with _mysql(self.end[1]["url"]) as con, con.cursor() as cursor:
                cursor.execute(f"select {what} from t")
                return list(cursor.fetchall())
        if self.kind == "postgresql":
            with psycopg.connect(self.url) as con:
                return con.execute(f"select {what} from there.t").fetchall()
        with duckdb.connect(str(self.folder / "o.duckdb"), read_only=True) as con:
            return con.execute(f"select {what} from t").fetchall()


@pytest.fixture(params=[(kind, end) for kind in SOURCES for end in TABLES], ids="-".join)
def pair(request, servers, tmp_path):
    return Pair(*request.param, servers, tmp_path)


def counts(receipt):
    return {name: receipt.verification[name] for name in ("missing", "extra", "different")}


SPOIL = (
    "delete from t where id in (5, 2999)", "update t set name = 'x' where id = 7",
    "update t set price = null where id = 8",
    "insert into t (id, name) values (77777, 'nobody')",
)  # fmt: skip
SPOILED = {"missing": 2, "extra": 1, "different": 2}


def test_what_was_loaded_is_the_same_and_what_was_changed_is_found_and_mended(pair):
    pair.load()
    receipt, error, journal = pair.verify()
    assert error is None
    assert counts(receipt) == {"missing": 0, "extra": 0, "different": 0}
    found = receipt.verification
    assert (found["sourceRows"], found["tableRows"]) == (ROWS + 1, ROWS + 1)
    assert (found["columns"], found["leftOut"], found["differing"]) == (5, {}, 0)
    assert found["pushed"] == (pair.source.kind != "sqlite")
    assert found["by"] == "key"
    assert journal.advanced[0][1] == receipt
    if pair.kind == "parquet":
        return  # its rows cannot be changed by hand
    pair.change(*SPOIL)
    receipt, error, journal = pair.verify()
    assert isinstance(error, Differs)
    assert "2 rows are missing, 1 rows are not in the source, 2 rows differ" in error.message
    assert counts(receipt) == SPOILED
    assert {(one["what"], one["key"]["id"]) for one in receipt.verification["examples"]} == {
        ("missing", "5"), ("missing", "2999"), ("different", "7"), ("different", "8"), ("extra", "77777"),
    }  # fmt: skip
    assert not journal.advanced
    receipt, error, journal = pair.verify(Verify(repair=True))
    if pair.source.kind == "sqlite":
        assert isinstance(error, Misconfigured)
        assert "can only be read from its start" in error.message
        return
    assert error is None
    assert counts(receipt) == SPOILED
    assert receipt.verification["repaired"]
    assert receipt.quarrel() is None
    books = receipt.tables[0].books
    # Only the rows of buckets that differ were read: of at least 64.
    assert 4 <= books.read <= ROWS * 6 / 64
    assert (books.inserted, books.deleted) == (2, 1)
    assert books.updated == books.read - 2
    assert pair.verify()[1] is None
    assert pair.rows() == [(ROWS + 1,)]


@pytest.fixture(params=["duckdb", "postgresql", "mysql"])
def tables(request, servers, tmp_path):
    return Pair("postgresql", request.param, servers, tmp_path)


def test_without_a_key_days_of_the_cursor_are_compared_and_loaded_again(tables):
    tables.source.run("update t set day = '2023-05-05' where id % 100 = 3")
    source = {"cursor": "day"}
    tables.load(source=source, key=(), action="append")
    assert tables.verify(source=source, key=())[0].verification["by"] == "cursor"
    tables.change(
        "delete from t where id = 103", "insert into t (id, day) values (4, '2023-05-05')"
    )
    receipt, error, _ = tables.verify(Verify(repair=True), source=source, key=())
    assert error is None
    assert counts(receipt) == {"missing": 1, "extra": 1, "different": 0}
    assert receipt.verification["differing"] == 1
    books = receipt.tables[0].books
    assert (books.read, books.inserted, books.replaced_out) == (ROWS // 100, 30, 30)
    assert tables.rows() == [(ROWS + 1,)]
    assert tables.verify(source=source, key=())[1] is None


def test_buckets_may_be_ranges_of_a_number(tables):
    source = {"cursor": "id"}
    tables.source.run("insert into t (id, name) values (-5, 'below'), (-3000, 'far below')")
    tables.load(source=source)
    tables.change("update t set name = 'x' where id in (-5, 1500)")
    wanted = Verify(repair=True, by=By.CURSOR, buckets=300)
    receipt, error, _ = tables.verify(wanted, source=source)
    assert error is None
    assert counts(receipt) == {"missing": 0, "extra": 0, "different": 2}
    assert receipt.verification["by"] == "cursor"
    assert receipt.tables[0].books.updated < ROWS + 3
    assert tables.verify(wanted, source=source)[1] is None


def test_rows_alike_are_counted_where_nothing_tells_them_apart(tables):
    tables.source.run(
        "create table twice (v int)", "insert into twice values (1), (1), (1), (2), (null)"
    )
    source = {"table": "twice"}
    tables.load(source=source, key=(), action="append")
    assert tables.verify(source=source, key=())[0].verification["by"] == "row"
    tables.change(
        "insert into t values (2), (2)", "delete from t where v = 1", "insert into t values (1)"
    )
    receipt, error, _ = tables.verify(source=source, key=())
    assert isinstance(error, Differs)
    assert counts(receipt) == {"missing": 2, "extra": 2, "different": 0}
    receipt, error, _ = tables.verify(Verify(repair=True), source=source, key=())
    assert isinstance(error, Misconfigured)
    assert "without a key or a cursor" in error.message


def test_what_has_changed_since_the_last_run_is_the_next_ones(tables):
    source = {"cursor": "changed"}
    first = tables.load(source=source)
    known = Known(versions={file.name: file.version for file in first.files})
    tables.source.run("update t set name = 'new', changed = '2025-01-01' where id = 4",
                      "insert into t (id, changed) values (5000, '2025-01-02')")  # fmt: skip
    receipt, error, _ = tables.verify(source=source, known=known)
    assert error is None
    assert receipt.verification["pending"] == 2
    tables.change("delete from t where id = 9")
    receipt, error, _ = tables.verify(source=source, known=known)
    assert counts(receipt) == {"missing": 1, "extra": 0, "different": 0}
    assert tables.verify(source=source)[1] is not None  # nobody says how far it was read
    # Without a key what lies beyond is not looked at.
    receipt, error, _ = tables.verify(Verify(by=By.CURSOR), source=source, key=(), known=known)
    assert counts(receipt) == {"missing": 1, "extra": 1, "different": 0}


def test_columns_that_were_renamed_chosen_or_made_are_compared_as_they_landed(tables):
    plain = Shape(select=("id", "name", "price"), rename={"name": "Called"}, names=Names.SNAKE)
    made = Shape(
        mask={"name": 2}, hash=("day",), compute={"twice": "id * 2"}, cast={"price": "string"}
    )
    for shape, pushed in ((plain, True), (made, False)):
        tables.load(shape=shape, hash_key=b"k")
        receipt, error, _ = tables.verify(shape=shape, hash_key=b"k")
        assert error is None
        assert receipt.verification["pushed"] is pushed
        assert receipt.verification["leftOut"] == {}
    tables.change("update t set twice = 3 where id = 4")
    assert counts(tables.verify(shape=made, hash_key=b"k")[0])["different"] == 1


def test_columns_that_one_side_lacks_are_told(tables):
    tables.load()
    tables.source.run("alter table t add column more text", "alter table t drop column day")
    receipt, error, _ = tables.verify()
    assert error is None
    assert receipt.verification["leftOut"] == {
        "more": "the table does not have it", "day": "the source does not have it",
    }  # fmt: skip


def test_files_are_read_and_compared_as_they_would_land(servers, tmp_path):
    (tmp_path / "data").mkdir()
    text = "id,v,w\n" + "".join(f"{n},{n}.50,x{n}\n" for n in range(1000)) + "1000,bad,y\n"
    (tmp_path / "a.csv").write_text(text)
    source = "csv", {"url": str(tmp_path / "a.csv"), "mapping": {"v": "decimal(9,2)"}}
    end = "duckdb", {"path": str(tmp_path / "o.duckdb")}
    more = {"key": ("id",), "failure_threshold": 50}
    work(order(tmp_path, source, end, **more), Memory())
    asked = order(tmp_path, source, end, action="append", verify=Verify(), **more)
    found = work(asked, Memory()).verification
    assert (found["same"], found["pushed"], found["sourceRows"]) == (True, False, 1000)
    with duckdb.connect(str(tmp_path / "o.duckdb")) as con:
        con.execute("update t set v = 3 where id = 999")
    with pytest.raises(Stopped) as stopped:
        work(asked, Memory())
    assert stopped.value.receipt.verification["different"] == 1


def test_what_cannot_be_compared_is_told(tables, tmp_path):
    with pytest.raises(NotFound, match="no table"):
        tables.verify()
    tables.load()
    for wanted, more, told in (
        (Verify(by=By.CURSOR), {}, "needs a cursor"), (Verify(by=By.KEY), {"key": ()}, "needs a key"),
        (Verify(by=By.CURSOR), {"source": {"cursor": "price"}}, "needs a cursor"),
        (Verify(), {"key": ("nobody",)}, "key"), (Verify(), {"source": {"table": "gone"}}, "no table"),
    ):  # fmt: skip
        with pytest.raises((Invalid, Misconfigured, Refused), match=told):
            tables.verify(wanted, **more)
    asked = order(tmp_path, tables.source.source(), ("search", {"indexName": "t"}), key=("id",), verify=Verify())  # fmt: skip
    with pytest.raises(Misconfigured, match="cannot be compared"):
        work(asked, Memory())


def test_a_repair_that_is_killed_after_its_commit_is_told_and_not_repeated(tables, monkeypatch):
    tables.load()
    tables.change(*SPOIL)
    asked = tables.order(action="append", verify=Verify(repair=True))
    real = verifying._Repaired.advance

    def dies(self, *given):
        raise RuntimeError("killed")

    monkeypatch.setattr(verifying._Repaired, "advance", dies)
    with pytest.raises(RuntimeError):
        work(asked, Memory())
    monkeypatch.setattr(verifying._Repaired, "advance", real)
    assert tables.rows() == [(ROWS + 1,)]
    receipt = work(asked, Memory())
    assert (receipt.tables[0].books.inserted, receipt.tables[0].books.deleted) == (2, 1)


def test_a_row_that_changes_while_it_is_repaired_fails_the_run(tables, monkeypatch):
    tables.load()
    tables.change(*SPOIL)
    real = verifying.execute

    def meddled(*given):
        receipt = real(*given)
        tables.change("delete from t where id = 5")
        return receipt

    monkeypatch.setattr(verifying, "execute", meddled)
    receipt, error, _ = tables.verify(Verify(repair=True))
    assert isinstance(error, Differs)
    assert "After the repair" in error.message
    assert counts(receipt) == {"missing": 1, "extra": 0, "different": 0}
    assert receipt.tables[0].books.inserted == 2


def test_a_table_that_something_refers_to_is_repaired_in_place(servers, tmp_path):
    pair = Pair("postgresql", "postgresql", servers, tmp_path)
    pair.load()
    pair.change("alter table t add primary key (id)", "create table of_it (id bigint references t)",
                "insert into of_it values (7), (8)", *SPOIL)  # fmt: skip
    receipt, error, _ = pair.verify(Verify(repair=True))
    assert error is None, error
    assert counts(receipt) == SPOILED
    assert pair.verify()[1] is None


def test_a_digest_that_is_made_otherwise_on_one_side_would_be_noticed(tables, monkeypatch):
    """The check of the check: with another canonical text on one side nothing is the same."""
    tables.load()
    monkeypatch.setitem(canonical.DUCKDB.kinds, "string", "'x' || @")
    monkeypatch.setitem(canonical.MYSQL.kinds, "string", "concat('x', @)")
    if tables.kind == "postgresql":
        monkeypatch.setitem(canonical.POSTGRESQL.kinds, "string", "@ || random()::text")
    receipt, error, _ = tables.verify()
    assert isinstance(error, Differs)
    assert receipt.verification["different"] == ROWS  # the last one has no name


def test_the_cli_compares(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    with contextlib.closing(sqlite3.connect("a.sqlite")) as con:
        con.execute("create table t (id integer, v text)")
        con.executemany("insert into t values (?, ?)", [(n, f"v{n}") for n in range(100)])
        con.commit()
    runner = CliRunner()
    assert runner.invoke(app, ["ingest", "sqlite:///a.sqlite#t", "o.duckdb"]).exit_code == 0
    ends = ["verify", "sqlite:///a.sqlite#t", "o.duckdb", "--key", "id"]
    good = runner.invoke(app, ends)
    assert good.exit_code == 0, good.output
    assert "100 rows compared with 100" in good.output
    assert "the same" in good.output
    with duckdb.connect("o.duckdb") as con:
        con.execute("delete from t where id = 42")
    bad = runner.invoke(app, ends)
    assert bad.exit_code == 1
    assert "missing id = 42" in bad.output
    told = json.loads(runner.invoke(app, [*ends, "--json"]).stdout)
    assert (told["state"], told["error"]["code"]) == ("failed", "differs")
    assert told["verification"]["missing"] == 1
