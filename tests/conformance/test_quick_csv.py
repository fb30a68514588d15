"""Large plain CSV goes the quick way; whatever is odd in it, nobody notices but by the clock."""

import json
import threading
import time

import duckdb
import psycopg
import pytest

from headrace.assembly import work
from headrace.connectors.destinations import postgresql
from headrace.connectors.families import csv_scan as csv_source
from headrace.connectors.families import quick_csv, quick_streams
from headrace.domain.errors import Cancelled, Unavailable
from headrace.native import text
from tests.engine import Memory, order

ROWS = 60_000
TYPES = {
    "id": "integer", "price": "decimal(12,2)", "day": "date", "name": "string", "f": "float",
    "wide": "decimal(30,5)", "moment": "timestamp", "ok": "boolean",
}  # fmt: skip
TOLD = (
    "select count(*), sum(id), sum(price), min(day)::varchar, max(day)::varchar, count(name),"
    " sum(length(name)), sum(f), sum(wide), min(moment)::varchar, max(moment)::varchar, count(*) filter (where ok)"
    " from {}"
)


def lines():
    yield "id,price,day,name,f,wide,moment,ok"
    for n in range(ROWS):
        name = f'"row ""{n}"",\nsecond line"' if n % 7 == 0 else f"row {n}" if n % 5 else ""
        day = f"20{n % 30:02}-0{n % 9 + 1}-1{n % 10}"
        yield (
            f"{n},{n}.{n % 100:02},{day},{name},{n}.5,{n}000000000000000000.{n % 7}25,"
            f"{day}T10:{n % 60:02}:00.{n % 1000:03}+00,{'true' if n % 3 else 'f'}"
        )


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "plain.csv"
    path.write_text("\n".join(lines()) + "\n")
    return path


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(quick_streams, "PIECE_BYTES_MIN", 1 << 20)


@pytest.fixture
def ways(monkeypatch):
    """Return a list that tells how each quick try ended: complete or not."""
    found = []
    for kind in (quick_csv.QuickCsv, quick_csv.QuickCsvFiles):

        def close(self, real=kind.close):
            found.append(self.complete())
            real(self)

        monkeypatch.setattr(kind, "close", close)
    return found


@pytest.fixture(params=["a stream a file", "a stream over many"])
def many(request, monkeypatch):
    """Several files both ways."""
    if request.param == "a stream a file":
        monkeypatch.setattr(csv_source, "are_many", lambda _: False)
    return request.param


def ends_at(kind, folder, url):
    return {
        "duckdb": ("duckdb", {"path": str(folder / "o.duckdb")}),
        "postgresql": ("postgresql", {"url": url}),
        "parquet": ("parquet", {"path": str(folder / "lake")}),
    }[kind]


def content(kind, folder, url):
    """Return what tells the rows apart: count, sums, and a hash of each column."""
    told = TOLD
    if kind == "postgresql":
        with psycopg.connect(url) as con:
            row = con.execute(told.format("t")).fetchone()
    else:
        with duckdb.connect(str(folder / "o.duckdb") if kind == "duckdb" else ":memory:") as con:
            row = con.execute(
                told.format("t" if kind == "duckdb" else f"'{folder}/lake/t/*/*.parquet'")
            ).fetchone()
    return [str(value).removesuffix(".0") for value in row]


def slow_content(path):
    with duckdb.connect() as con:
        row = con.execute(
            TOLD.format(
                "read_csv(?, columns={'id': 'bigint', 'price': 'decimal(12,2)', 'day': 'date',"
                " 'name': 'varchar', 'f': 'double', 'wide': 'decimal(30,5)', 'moment': 'timestamp',"
                " 'ok': 'boolean'}, header=true, auto_detect=false, quote='\"', escape='\"',"
                " parallel=false)"
            ),
            [str(path)],
        ).fetchone()
    return [str(value).removesuffix(".0") for value in row]


def stages(url):
    with psycopg.connect(url) as con:
        return con.execute(
            "select relname from pg_class where relname like '%headrace\\_stage%'"
        ).fetchall()


def load(path, folder, end, mapping=TYPES, **more):
    source = ("csv", {"url": str(path), "mapping": mapping})
    return work(order(folder, source, end, **more), Memory())


@pytest.mark.parametrize("kind", ["duckdb", "postgresql", "parquet"])
@pytest.mark.parametrize("key", [(), ("id",)])
def test_a_plain_file_lands_whole(tmp_path, plain, fresh_database, ways, kind, key):
    receipt = load(plain, tmp_path, ends_at(kind, tmp_path, fresh_database), key=key)
    assert (receipt.books.read, receipt.books.inserted) == (ROWS, ROWS)
    assert content(kind, tmp_path, fresh_database) == slow_content(plain)
    assert ways == [True], "it did not go the quick way"
    assert not stages(fresh_database)


REST = ",1,2024-01-01,t"
ODD = {
    "a bad value": (
        f"59990,1.00,2024-01-01,x,1e5{REST}\nx1,1.00,2024-01-01,x,1{REST}\n",
        "bad_value",
    ),
    "too few cells": ("1,2\n", "too_few_cells"),
    "a stray quote": (f'1,1.00,2024-01-01,"a"b,1{REST}\n', "bad_quoting"),
    "bad bytes": (f"1,1.00,2024-01-01,\udcff,1{REST}\n", "bad_encoding"),
}


@pytest.mark.parametrize("kind", ["duckdb", "postgresql"])
@pytest.mark.parametrize("odd", ODD)
def test_what_is_odd_is_found_and_the_rest_lands(tmp_path, plain, fresh_database, ways, kind, odd):
    tail, rule = ODD[odd]
    path = tmp_path / "odd.csv"
    path.write_bytes(plain.read_bytes() + tail.encode(errors="surrogateescape"))
    receipt = load(path, tmp_path, ends_at(kind, tmp_path, fresh_database), failure_threshold=50)
    good = ROWS + tail.count("\n") - 1
    assert (receipt.books.inserted, receipt.books.rejected) == (good, 1)
    assert receipt.rules == {rule: 1}
    assert ways == [odd != "a stray quote"], "where a record ends is certain without quotes only"
    assert not stages(fresh_database)


def test_later_twins_win_in_the_order_of_the_file(tmp_path, plain, ways):
    path = tmp_path / "twins.csv"
    path.write_bytes(plain.read_bytes() + f"5,9.99,2024-01-01,last,1{REST}\n".encode())
    receipt = load(path, tmp_path, ends_at("duckdb", tmp_path, ""), key=("id",))
    assert (receipt.books.inserted, receipt.books.duplicates) == (ROWS, 1)
    with duckdb.connect(str(tmp_path / "o.duckdb")) as con:
        assert con.execute("select name from t where id = 5").fetchone() == ("last",)
    assert ways == [True]


@pytest.mark.usefixtures("many")
def test_several_large_files_have_books_of_their_own(tmp_path, plain, ways):
    (tmp_path / "in").mkdir()
    for name in ("1", "2"):
        (tmp_path / "in" / f"{name}.csv").write_bytes(plain.read_bytes())
    receipt = load(tmp_path / "in" / "*.csv", tmp_path, ends_at("duckdb", tmp_path, ""))
    assert [file.books.inserted for file in receipt.files] == [ROWS, ROWS]
    assert ways == [True]


@pytest.mark.parametrize("kind", ["duckdb", "postgresql"])
def test_a_quick_reader_that_loses_rows_is_found_out(
    tmp_path, plain, fresh_database, monkeypatch, kind
):
    real = text.CsvStream.__init__

    def lossy(self, *args, **how):
        if how["begin"]:
            how["begin"] += plain.read_bytes()[how["begin"] :].index(b"\n") + 1
        real(self, *args, **how)

    monkeypatch.setattr(text.CsvStream, "__init__", lossy)
    receipt = load(plain, tmp_path, ends_at(kind, tmp_path, fresh_database))
    assert receipt.books.inserted == ROWS
    assert content(kind, tmp_path, fresh_database) == slow_content(plain)


def test_a_second_connection_that_is_refused_does_no_harm(
    tmp_path, plain, fresh_database, monkeypatch
):
    real, calls = postgresql.Postgresql._connect, []

    def connect(self):
        calls.append(1)
        if len(calls) > 1:
            raise Unavailable("too many connections")
        return real(self)

    monkeypatch.setattr(postgresql.Postgresql, "_connect", connect)
    load(plain, tmp_path, ends_at("postgresql", tmp_path, fresh_database))
    assert len(calls) > 1
    assert content("postgresql", tmp_path, fresh_database) == slow_content(plain)


@pytest.mark.parametrize("ours", [True, False])
def test_rows_of_a_copy_are_made_here_and_where_they_cannot_be_by_the_library(
    tmp_path, plain, fresh_database, monkeypatch, ours
):
    if ours:
        monkeypatch.setattr(postgresql, "_LibraryRows", None)  # whoever calls it fails
    else:
        monkeypatch.setattr(postgresql.CopyRows, "of", lambda *_: None)
    load(plain, tmp_path, ends_at("postgresql", tmp_path, fresh_database))
    assert content("postgresql", tmp_path, fresh_database) == slow_content(plain)


def test_the_next_load_drops_what_a_killed_one_has_left(tmp_path, plain, fresh_database):
    end = ends_at("postgresql", tmp_path, fresh_database)
    load(plain, tmp_path, end, fence=3)
    target = postgresql.PostgresqlLoad._make_stage
    left = []

    def leave(self, rows):
        target(self, rows)
        left.append(self._stage)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postgresql.PostgresqlLoad, "_make_stage", leave)
        patch.setattr(postgresql.PostgresqlLoad, "abort", lambda self: None)
        with pytest.raises(KeyboardInterrupt):
            load(plain, tmp_path, end, fence=4)
    with psycopg.connect(fresh_database) as con:
        con.execute("create table __headrace_stage_0123456789abcdef_1 ()")  # another task's
    assert len(stages(fresh_database)) == 2
    load(plain, tmp_path, end, fence=5)
    assert stages(fresh_database) == [("__headrace_stage_0123456789abcdef_1",)]
    assert left


def test_a_copy_that_fails_ends_the_others(tmp_path, plain, fresh_database, monkeypatch):
    with psycopg.connect(fresh_database) as con:
        con.execute("create table t (id bigint)")
    real = postgresql._encoder
    made = []

    def encoder(*args):
        made.append(1)
        if len(made) == 2:
            raise psycopg.OperationalError("the connection is lost")
        return real(*args)

    monkeypatch.setattr(postgresql, "_encoder", encoder)
    with pytest.raises(Exception, match="connection is lost"):
        load(plain, tmp_path, ends_at("postgresql", tmp_path, fresh_database))
    assert not stages(fresh_database)
    with psycopg.connect(fresh_database) as con:
        assert con.execute("select count(*) from t").fetchone() == (0,)


@pytest.mark.parametrize("kind", ["duckdb", "postgresql"])
def test_a_cancel_stops_the_quick_way(tmp_path, plain, fresh_database, monkeypatch, kind):
    journal = Memory()
    batches = []
    real = text.CsvStream.place.fget

    def place(self):  # asked for by the progress
        batches.append(1)
        journal.cancel.set()
        return real(self)

    monkeypatch.setattr(text.CsvStream, "place", property(place))
    path = tmp_path / "long.csv"
    body = plain.read_bytes()
    path.write_bytes(body + body[body.index(b"\n") + 1 :] * 40)
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        work(
            order(
                tmp_path, ("csv", {"url": str(path), "mapping": TYPES}),
                ends_at(kind, tmp_path, fresh_database),
            ),
            journal,
        )  # fmt: skip
    assert batches
    assert time.monotonic() - begun < 10
    assert not stages(fresh_database)
    assert threading.active_count() < 20


def test_a_file_that_is_small_is_left_to_the_tolerant_way(tmp_path, ways):
    path = tmp_path / "small.csv"
    path.write_text("id,price,day,name,f,wide,moment,ok\n1,2,2024-01-01,x,1,1,2024-01-01,t\n")
    assert path.stat().st_size < csv_source.SMALL_BYTES
    load(path, tmp_path, ends_at("duckdb", tmp_path, ""))
    assert ways == []


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("kind", ["duckdb", "postgresql", "parquet"])
def test_odd_rows_of_some_files_are_told_by_file_and_the_others_land(
    tmp_path, fresh_database, ways, kind
):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        lines = [f"{number * 100_000 + n},some text {n}" for n in range(60_000)]
        if number != 1:
            lines[30_000:30_000] = ["bad,row", "1,2,3", f"+{number},a value all the same"]
        (folder / f"{number}.csv").write_text("id,v\n" + "\n".join(lines) + "\n")
    told = order(
        tmp_path, ("csv", {"url": f"{folder}/*.csv", "mapping": {"id": "integer"}}),
        ends_at(kind, tmp_path, fresh_database), action="append", failure_threshold=1,
    )  # fmt: skip
    receipt = work(told, Memory())
    assert ways == [True]
    assert [(file.books.read, file.books.inserted, file.books.rejected) for file in receipt.files] == [
        (60_003, 60_001, 2), (60_000, 60_000, 0), (60_003, 60_001, 2),
    ]  # fmt: skip
    assert receipt.rules == {"bad_value": 2, "too_many_cells": 2}
    kept = [
        json.loads(line)
        for file in (tmp_path / "rejects").glob("*")
        for line in file.read_text().splitlines()
    ]
    assert sorted((row["file"][-5:], row["record"], row["line"], row["raw"]) for row in kept) == [
        (f"{number}.csv", place, place + 1, raw)
        for number in (0, 2) for place, raw in ((30_001, "bad,row"), (30_002, "1,2,3"))
    ]  # fmt: skip
    for row in kept:
        at = row["byte"]
        assert (folder / row["file"][-5:]).read_bytes()[at:].startswith(row["raw"].encode() + b"\n")


def test_many_files_of_all_sorts_are_each_accounted_for(tmp_path, ways):
    """Marks of UTF-8, no last newline, carriage returns, a header alone, blank lines, quotes."""
    folder = tmp_path / "in"
    folder.mkdir()
    expected = {}
    for number in range(400):
        rows = [f"{number * 1000 + n},text {n}" for n in range(200)]
        text = "id,v\n" + "\n".join(rows) + "\n"
        sort, good, bad = number % 8, len(rows), 0
        match sort:
            case 1:
                text = "\ufeff" + text
            case 2:
                text = text.removesuffix("\n")
            case 3:
                text = text.replace("\n", "\r\n")
            case 4:
                text, good = "id,v\n", 0
            case 5:
                text = text.replace("\n", "\n\n")
            case 6:
                text = text.replace("text 7\n", '"te""xt\n7"\n')
            case 7 if number < 50:
                text, good, bad = text.replace(",text 9\n", "\n"), good - 1, 1
        path = folder / f"{number:03}.csv"
        path.write_bytes(text.encode())
        expected[str(path)] = (good + bad, good, bad)
    receipt = work(
        order(
            tmp_path, ("csv", {"url": f"{folder}/*.csv", "mapping": {"id": "integer"}}),
            ends_at("duckdb", tmp_path, ""), failure_threshold=1,
        ),
        Memory(),
    )  # fmt: skip
    assert ways == [True]
    assert {
        file.name: (file.books.read, file.books.inserted, file.books.rejected)
        for file in receipt.files
    } == expected
    with duckdb.connect(str(tmp_path / "o.duckdb")) as con:
        assert con.execute("select count(*), count(distinct id) from t").fetchone() == (
            receipt.books.inserted, receipt.books.inserted,
        )  # fmt: skip
        quoted = "select count(*) from t where v = 'te\"xt' || chr(10) || '7'"
        assert con.execute(quoted).fetchone() == (50,)


def test_of_many_files_the_later_twin_wins_in_their_order(tmp_path, ways):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(60):
        rows = "".join(f"{n},from {number} {'x' * 20}\n" for n in range(1000))
        (folder / f"{number:03}.csv").write_text("id,v\n" + rows)
    receipt = load(
        folder / "*.csv", tmp_path, ends_at("duckdb", tmp_path, ""), key=("id",), mapping={}
    )
    assert ways == [True]
    assert (receipt.books.inserted, receipt.books.duplicates) == (1000, 59_000)
    with duckdb.connect(str(tmp_path / "o.duckdb")) as con:
        found = con.execute("select distinct split_part(v, ' ', 2) from t").fetchall()
    assert found == [("59",)]


def test_a_file_that_goes_away_between_others_is_an_error(tmp_path, monkeypatch):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number:02}.csv").write_text("id,v\n" + f"{number},{'x' * 50}\n" * 1000)
    real = text.ManyCsvStream._open

    def late(self, stream):
        (folder / "07.csv").unlink(missing_ok=True)
        return real(self, stream)

    monkeypatch.setattr(text.ManyCsvStream, "_open", late)
    with pytest.raises(Exception, match=r"cannot be read|07\.csv"):
        load(folder / "*.csv", tmp_path, ends_at("duckdb", tmp_path, ""), mapping={})
