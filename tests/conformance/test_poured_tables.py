"""Large tables, whose rows are judged and loaded while they still come."""

import threading
import time

import psycopg
import pytest

from headrace.assembly import preview_rows, work
from headrace.connectors.families import mysql_table, postgres_table, pouring
from headrace.connectors.families.pouring import Pouring, QuickPoured
from headrace.domain.errors import Cancelled, Refused, TooManyRejected, Unavailable
from headrace.domain.event import EventKind
from headrace.native import text
from tests.conformance.test_table_sources import error_of, loaded, rig_of, rows, servers
from tests.engine import Memory, order

__all__ = ["servers"]  # a fixture
pytestmark = pytest.mark.xdist_group("databases")
COUNT = 60_000


@pytest.fixture(params=["postgresql", "mysql"])
def rig(request, servers, tmp_path, monkeypatch):
    """A table that counts as large."""
    rig = rig_of(request.param, servers, tmp_path)
    if request.param == "mysql":
        monkeypatch.setattr(mysql_table, "LARGE_BYTES", 1 << 16)
        rig.run(
            "create table t (id int primary key, n decimal(20,3), pad varchar(200))",
            f"insert into t select seq, seq / 8, repeat('x', 90) from seq_1_to_{COUNT}",
            "update t set pad = null where id % 7 = 0", "update t set pad = '' where id % 5 = 0",
            "update t set pad = 'a\"b,\\n\\\\' where id % 11 = 0", "analyze table t",
        )  # fmt: skip
    else:
        monkeypatch.setattr(postgres_table, "LARGE_BYTES", 1 << 16)
        rig.run(
            "create table t (id int primary key, n numeric(20,3), pad text)",
            f"insert into t select n, n / 8.0, repeat('x', 90) from generate_series(1, {COUNT}) n",
            "update t set pad = null where id % 7 = 0", "update t set pad = '' where id % 5 = 0",
            "update t set pad = E'a\"b,\\n\\\\' where id % 11 = 0",
        )  # fmt: skip
    return rig


@pytest.fixture
def streams(monkeypatch):
    """Every quick way through a file that was not whole yet."""
    found, real = [], QuickPoured.__init__

    def init(self, con, pouring, *given, **more):
        real(self, con, pouring, *given, **more)
        found.extend(self.streams([pouring.file]))

    monkeypatch.setattr(QuickPoured, "__init__", init)
    return found


@pytest.fixture
def held(monkeypatch):
    """Call `held(work)`: before the last rows are told of, `work` is done."""

    def hold(work):
        real = Pouring._run

        def run(self):
            pour = self._pour

            def poured():
                count = pour()
                work()
                return count

            self._pour = poured
            real(self)

        monkeypatch.setattr(Pouring, "_run", run)

    return hold


def until(met, what):
    end = time.monotonic() + 60
    while not met():
        assert time.monotonic() < end, what
        time.sleep(0.01)


@pytest.fixture
def followed(streams, held):
    """The same; and no reading ends before somebody follows it."""
    seen = []

    def wait():
        until(lambda: len(streams) > len(seen), "nobody reads meanwhile")
        seen.append(len(streams))

    held(wait)
    return streams


def judge(rig):
    """Hold what landed against what the numbers say it must be."""
    [found] = rows(
        rig,
        "select count(*), count(distinct id), sum(id), sum(n), count(*) filter (pad is null),"
        " count(*) filter (pad = ''), count(*) filter (pad = 'a\"b,' || chr(10) || '\\'),"
        " count(*) filter (pad = repeat('x', 90)) from t",
    )
    ids = range(1, COUNT + 1)
    odd = sum(1 for n in ids if n % 11 == 0)
    empty = sum(1 for n in ids if n % 5 == 0 and n % 11)
    null = sum(1 for n in ids if n % 7 == 0 and n % 5 and n % 11)
    numbers = sum(ids)
    assert found[:3] == (COUNT, COUNT, numbers)
    assert float(found[3]) == pytest.approx(numbers / 8, rel=1e-6)
    assert found[4:] == (null, empty, odd, COUNT - null - empty - odd)


def test_rows_are_read_while_they_come(rig, streams, held):
    held(lambda: until(lambda: streams and streams[0].records > 1_000, "nobody reads meanwhile"))
    journal = Memory()
    destination = ("duckdb", {"path": str(rig.folder / "o.duckdb")})
    (rig.folder / "data").mkdir()
    receipt = work(order(rig.folder, rig.source(), destination), journal)
    judge(rig)
    assert receipt.books.read == receipt.books.inserted == COUNT
    assert [one.rows for one in journal.events if one.kind is EventKind.FETCH] == [COUNT]
    assert receipt.files[0].bytes > 2 << 20  # what it came to, not what was guessed
    assert receipt.files[0].books.read == COUNT


def test_a_merge_takes_them_in_their_order(rig, followed):
    loaded(rig, key=("id",), action="save")
    receipt = loaded(rig, key=("id",), action="save", fence=2)
    judge(rig)
    assert len(followed) == 2
    assert (receipt.books.inserted, receipt.books.updated + receipt.books.unchanged) == (0, COUNT)


def test_rows_that_are_gone_are_removed(rig, followed):
    loaded(rig, key=("id",), action="save", deletes=True)
    judge(rig)
    rig.run("delete from t where id % 3 = 0")
    receipt = loaded(rig, key=("id",), action="save", deletes=True, fence=2)
    assert len(followed) == 2
    assert (receipt.books.deleted, receipt.books.read) == (COUNT // 3, COUNT - COUNT // 3)
    assert rows(rig, "select count(*), count(*) filter (id % 3 = 0) from t") == [
        (COUNT - COUNT // 3, 0)
    ]


def test_few_rows_of_a_large_table(rig, streams):
    receipt = loaded(rig, source={"where": "t.id <= 3"})
    assert receipt.books.read == 3
    assert [row[0] for row in rows(rig)] == [1, 2, 3]
    assert not streams  # they were there at once
    assert loaded(rig, source={"where": "t.id < 0"}, fence=2).tables[0].rows_after == 0


def test_rows_that_the_quick_way_cannot_take_are_judged_exactly(rig, followed):
    """A type of the mapping that most rows are not of: each is judged, once all are there."""
    found = error_of(rig, source={"mapping": {"pad": "integer"}})
    assert isinstance(found, TooManyRejected)
    assert "'pad'" in str(found)
    receipt = loaded(rig, source={"mapping": {"pad": "integer"}}, failure_threshold=100, fence=2)
    assert len(followed) == 2
    wrong = sum(1 for n in range(1, COUNT + 1) if n % 11 == 0 or (n % 5 and n % 7))
    assert (receipt.books.read, receipt.books.rejected) == (COUNT, wrong)
    assert receipt.books.inserted == COUNT - wrong


def test_a_reading_that_fails_near_its_end(rig, streams, held):
    def fail():
        until(lambda: streams and streams[0].records > 1_000, "nobody reads meanwhile")
        raise Unavailable("The line is dead.", end="source")

    loaded(rig)
    held(fail)
    found = error_of(rig, fence=2)
    assert isinstance(found, Unavailable)
    assert "The line is dead" in str(found)
    judge(rig)  # as before


def test_a_reading_that_fails_before_anybody_reads_what_has_come(rig, held, monkeypatch):
    opens, real = threading.Event(), QuickPoured.relation

    def fail():
        assert opens.wait(60)
        raise Unavailable("The line is dead.", end="source")

    def late(self, *given, **more):
        opens.set()
        until(lambda: self._pouring.growth.value == text.CUT, "nothing has failed")
        return real(self, *given, **more)

    held(fail)
    monkeypatch.setattr(QuickPoured, "relation", late)
    found = error_of(rig)
    assert isinstance(found, Unavailable)
    assert "The line is dead" in str(found)


@pytest.mark.parametrize("rig", ["postgresql"], indirect=True)
def test_a_server_that_cuts_the_connections(rig, streams):
    """Whoever reads what has come is told what has become of the rest."""
    kill = (
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where application_name = 'headrace' and pid <> pg_backend_pid()"
    )
    rig.run("insert into t select n, n, repeat('y', 180) from generate_series(100000, 900000) n")
    killed = []

    def cut():
        until(lambda: streams, "nothing is read")
        with psycopg.connect(rig.at, autocommit=True) as con:
            killed.extend(con.execute(kill).fetchall())

    thread = threading.Thread(target=cut)
    thread.start()
    found = error_of(rig)
    thread.join()
    assert killed
    assert isinstance(found, Unavailable | Refused)
    assert "PostgreSQL" in str(found)
    tables = "select count(*) from duckdb_tables() where table_name = 't'"
    assert not (rig.folder / "o.duckdb").exists() or rows(rig, tables) == [(0,)]


def test_a_cancel_ends_both(rig, streams, held):
    """Also while nothing comes: the peer is silent, and nobody waits for it."""
    journal = Memory()
    silent = threading.Event()

    def cancel():
        until(lambda: streams and streams[0].records > 1_000, "nobody reads meanwhile")
        journal.cancel.set()
        silent.wait(20)

    held(cancel)
    threading.Timer(8, silent.set).start()
    begun = time.monotonic()
    destination = ("duckdb", {"path": str(rig.folder / "o.duckdb")})
    (rig.folder / "data").mkdir(exist_ok=True)
    with pytest.raises(Cancelled):
        work(order(rig.folder, rig.source(), destination), journal)
    assert time.monotonic() - begun < 20
    assert not [one for one in threading.enumerate() if one.name == "headrace-pour"]


def test_a_preview_waits_for_its_first_rows_only(rig, held, monkeypatch):
    monkeypatch.setattr(pouring, "STOP_S", 0.1)
    silent = threading.Event()
    held(lambda: silent.wait(60))
    begun = time.monotonic()
    columns, found = preview_rows(*rig.source(), 5)
    assert time.monotonic() - begun < 30
    silent.set()
    assert (columns[0].name, columns[0].type) == ("id", "integer")
    assert len(found) == 5
    many = preview_rows(*rig.source(), COUNT - 1)[1]  # more than its beginning holds
    assert len(many) == COUNT - 1


@pytest.mark.parametrize("end", ["parquet", "search", "postgresql"])
def test_other_ends_take_them(rig, end, servers, request):
    given = {
        "parquet": {"path": str(rig.folder / "lake")}, "search": {"indexName": "t"},
        "postgresql": {"url": servers("postgresql"), "schema": "public"},
    }[end]  # fmt: skip
    # An index takes whole documents, for which there is no quick way.
    streams = [] if end == "search" else request.getfixturevalue("followed")
    (rig.folder / "data").mkdir(exist_ok=True)
    source = rig.source(columns=["id", "pad"])
    receipt = work(order(rig.folder, source, (end, given), table="landed"), Memory())
    assert receipt.books.read == receipt.books.inserted == COUNT
    assert receipt.tables[0].rows_after == COUNT
    assert end == "search" or streams
