"""Tables of every database that is a source: the same promises, held by each."""

import contextlib
import datetime as dt
import json
import socket
import sqlite3
import threading
from decimal import Decimal
from pathlib import Path
from urllib.parse import unquote, urlsplit

import duckdb
import psycopg
import pymysql
import pytest

from headrace.assembly import discover, work
from headrace.connectors.families.table_source import _Reading
from headrace.contract.tools import Known
from headrace.domain.errors import (
    Denied,
    Invalid,
    Misconfigured,
    Refused,
    Unavailable,
    Unbalanced,
    Unchanged,
)
from headrace.domain.run import Range
from headrace.domain.shape import Shape
from headrace.engine.plan import Stopped
from headrace.native import wire
from headrace.native.wire import MysqlRows
from headrace.settings import RUN_BYTES_MIN
from tests.engine import Memory, kind_of, order
from tests.mariadb import mariadb
from tests.postgres import postgres
from tests.proxy import proxied

pytestmark = pytest.mark.xdist_group("databases")
KINDS = ["postgresql", "mysql", "sqlite", "duckdb", "sqlalchemy"]


class Rig:
    """One database with an empty schema."""

    def __init__(self, kind, at, folder):
        self.kind, self.at, self.folder = kind, at, folder

    def run(self, *statements):
        if self.kind == "mysql":
            with _mysql(self.at) as con, con.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
            return
        connect = {
            "postgresql": psycopg.connect,
            "sqlalchemy": lambda url: psycopg.connect(url.replace("+psycopg", "")),
            "sqlite": sqlite3.connect,
            "duckdb": duckdb.connect,
        }
        with contextlib.closing(connect[self.kind](self.at)) as con:
            for statement in statements:
                con.execute(statement)
            con.commit()

    def source(self, **more):
        given = {} if "query" in more else {"table": "t"}
        where = dict.fromkeys(("postgresql", "mysql", "sqlalchemy"), "url").get(self.kind, "path")
        return self.kind, given | {where: self.at} | more

    def moment(self):
        pg = dict.fromkeys(("postgresql", "sqlalchemy"), "timestamptz")
        return (pg | {"mysql": "datetime(6)"}).get(self.kind, "timestamp")


def _mysql(url):
    parts = urlsplit(url)
    return pymysql.connect(
        host="127.0.0.1", port=parts.port, user=parts.username, autocommit=True,
        password=unquote(parts.password).encode(), database=parts.path[1:],
    )  # fmt: skip


@pytest.fixture(scope="module")
def servers():
    with contextlib.ExitStack() as stack:
        found = {}

        def get(kind):
            if kind not in found:
                found[kind] = stack.enter_context(
                    {"postgresql": postgres, "mysql": mariadb}[kind]()
                )
            return found[kind]

        yield get


def rig_of(kind, servers, folder):
    if kind in ("sqlite", "duckdb"):
        return Rig(kind, str(folder / f"source.{kind}"), folder)
    rig = Rig(kind, servers("postgresql" if kind == "sqlalchemy" else kind), folder)
    if kind == "sqlalchemy":
        rig.at = rig.at.replace("://", "+psycopg://", 1)
    if kind in ("postgresql", "sqlalchemy"):
        rig.run(
            "drop schema public cascade",
            "create schema public",
            "drop schema if exists there cascade",
        )
    else:
        rig.run("drop database test", "create database test character set utf8mb4")
    return rig


@pytest.fixture(params=KINDS)
def rig(request, servers, tmp_path):
    return rig_of(kind_of(request), servers, tmp_path)


def loaded(rig, *, known=None, source=None, **more):
    destination = ("duckdb", {"path": str(rig.folder / "o.duckdb")})
    (rig.folder / "data").mkdir(exist_ok=True)
    return work(
        order(rig.folder, rig.source(**(source or {})), destination, known=known, **more), Memory()
    )


def rows(rig, sql="select * from t order by 1"):
    with duckdb.connect(str(rig.folder / "o.duckdb"), read_only=True) as con:
        return con.execute(sql).fetchall()


def error_of(rig, **more):
    with pytest.raises(Exception) as caught:
        loaded(rig, **more)
    return caught.value.error if isinstance(caught.value, Stopped) else caught.value


COMMON = {
    "integer": ("bigint", ["0", "-9223372036854775808", "9223372036854775807"]),
    "decimal": ("decimal(30,10)", ["12345678901234567890.0123456789", "-0.0000000001", "0"]),
    "float": ("double precision", ["0.1", "-1e300", "1.7976931348623157e308"]),
    "string": ("varchar(200)", ["", " x ", 'a"b,c', "l1\nl2", "l1\r\nl2", "ü😀", "NULL", "\\N", "\\", "'"]),
    "date": ("date", ["2024-02-29", "1000-01-01", "9999-12-31"]),
    "timestamp": ("timestamp", ["2024-02-29 23:59:59.123456", "2000-01-01 00:00:00"]),
}  # fmt: skip


@pytest.fixture(params=[True, False], ids=["native", "slow"])
def native(request, monkeypatch):
    """Both with the native library and where it was not built."""
    if not request.param:
        monkeypatch.setattr(wire, "available", lambda: False)
        monkeypatch.setattr(wire, "drains", lambda: False)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("type_", COMMON)
def test_values_and_nulls_are_what_they_are(rig, type_):
    sql, values = COMMON[type_]
    if type_ == "float" and rig.kind == "duckdb":
        sql = "double"
    if type_ == "timestamp" and rig.kind == "mysql":
        sql = "datetime(6)"
    quote = "'{}'" if type_ in ("string", "date", "timestamp") else "{}"
    escaped = [
        value.replace("\\", "\\\\" if rig.kind == "mysql" else "\\").replace("'", "''") for value in values
    ]  # fmt: skip
    if rig.kind == "sqlite" and type_ == "decimal":
        escaped = values = ["12345678901234.25", "-0.5", "0"]  # it has no others: they are doubles
    rig.run(
        f"create table t (id int, v {sql})",
        *(f"insert into t values ({n}, {quote.format(one)})" for n, one in enumerate(escaped)),
        "insert into t values (99, null)",
    )
    receipt = loaded(rig)
    assert receipt.books.read == receipt.books.inserted == len(values) + 1
    convert = {
        "integer": int, "decimal": Decimal, "float": float, "string": str,
        "date": dt.date.fromisoformat, "timestamp": dt.datetime.fromisoformat,
    }[type_]  # fmt: skip
    found = [value for _, value in rows(rig)]
    assert found == [*map(convert, values), None]
    assert [type(one) for one in found[:-1]] == [type(convert(values[0]))] * len(values)


def test_columns_filters_and_queries(rig):
    rig.run("create table t (id int, a varchar(9), b varchar(9))", "insert into t values (1, 'x', 'y'), (2, 'z', 'w'), (3, null, 'v')",
            "create view seen as select id, b from t where id > 1")  # fmt: skip
    loaded(rig, source={"columns": ["b", "id"]})
    assert rows(rig) == [("v", 3), ("w", 2), ("y", 1)]
    loaded(rig, source={"where": "t.id < 3 and a is not null"})
    assert rows(rig) == [(1, "x", "y"), (2, "z", "w")]
    loaded(rig, source={"table": "seen"})
    assert rows(rig) == [(2, "w"), (3, "v")]
    loaded(rig, source={"query": "select id * 2 as twice, upper(b) as loud from t where id <> 2"})
    assert rows(rig) == [(2, "Y"), (6, "V")]
    loaded(rig, source={"query": "select id as k from t", "where": "k > 1"})
    assert rows(rig) == [(2,), (3,)]
    rig.run("delete from t")
    receipt = loaded(rig)
    assert (receipt.books.read, receipt.tables[0].rows_after) == (0, 0)


def test_what_there_is_is_discovered(rig):
    rig.run("create table parts (a int, b int, c varchar(9), primary key (b, a))", "create table plain (x int)",
            "create view seen as select a from parts", "insert into parts values (1, 2, 'x'), (2, 2, 'y')")  # fmt: skip
    if rig.kind == "postgresql":
        rig.run("analyze parts")
    _, settings = rig.source()
    found = {one.name: one for one in discover(rig.kind, settings)}
    assert list(found) == ["parts", "plain", "seen"]
    assert [(one.kind, list(one.key)) for one in found.values()] == [
        ("table", ["b", "a"]), ("table", []), ("view", []),
    ]  # fmt: skip
    assert found["parts"].rows == (None if rig.kind == "sqlalchemy" else 2)
    assert found["seen"].rows is None


def test_what_cannot_be_read_is_told(rig):
    rig.run("create table t (id int, a varchar(9))")
    for source, kind, told in (
        ({"table": "nobody"}, Refused, "no table"), ({"columns": ["z"]}, Misconfigured, "no column 'z'"),
        ({"cursor": "z"}, Misconfigured, "no column 'z'"), ({"cursor": "a"}, Misconfigured, "no cursor"),
        ({"query": "select from where"}, Refused, "refused" if rig.kind != "sqlite" else "cannot be used"),
        ({"where": "nonsense = 1"}, Refused, "nonsense"), ({"table": "", "query": ""}, Invalid, "must be given"),
        ({"table": "t", "query": "select 1"}, Invalid, "not both"),
    ):  # fmt: skip
        found = error_of(rig, source=source)
        assert isinstance(found, kind), (source, found)
        assert told in str(found), (source, str(found))


def test_nothing_is_written_by_a_query(rig):
    rig.run("create table t (id int)", "insert into t values (1)")
    for query in ("delete from t", "drop table t", "select 1 as a); delete from t; --"):
        assert isinstance(error_of(rig, source={"query": query}), Refused)
    assert loaded(rig).books.read == 1


class Delta:
    """Runs that go on where the last one stood, as the server would have them."""

    def __init__(self, rig, **more):
        self.rig, self.more = rig, more
        self.versions = None
        self.fence = 0

    def run(self, *, delta=True, **more):
        known = None
        if delta and self.versions is not None:
            known = Known(versions=self.versions, whole=self.more.get("action") == "replace")
        self.fence += 1
        try:
            receipt = loaded(self.rig, known=known, fence=self.fence, **self.more, **more)
        except Unchanged:
            return None
        self.versions = {file.name: file.version for file in receipt.files}
        return receipt.books.read


@pytest.mark.parametrize("type_", ["moment", "date", "bigint", "decimal(10,2)"])
def test_delta_reads_what_lies_beyond_the_cursor_and_what_comes_late_at_it(rig, type_):
    def row(id_, step):
        at = {"bigint": f"{step}", "decimal(10,2)": f"{step}.25"}.get(type_, f"'2024-01-{step:02}'")
        if type_ == "moment":
            at = f"'2024-01-{step:02} 10:00:00.123456'"
        return f"insert into t values ({id_}, 'a', {at})"

    column = rig.moment() if type_ == "moment" else type_
    rig.run(
        f"create table t (id int primary key, v varchar(9), at_ {column})", row(1, 1), row(2, 2)
    )
    delta = Delta(rig, action="append", source={"cursor": "at_"})
    assert delta.run() == 2
    assert delta.run() is None
    rig.run(row(3, 2))  # the very value that the cursor stands at
    assert delta.run() == 1
    rig.run(row(4, 3), row(5, 5))
    assert delta.run() == 2
    assert delta.run() is None
    assert [found[0] for found in rows(rig)] == [1, 2, 3, 4, 5]
    assert delta.run(delta=False) == 5
    assert delta.run() is None


def test_rows_alike_at_the_edge_are_counted_and_late_ones_found_in_the_overlap(rig):
    rig.run(
        "create table t (v varchar(9), at_ bigint)",
        "insert into t values ('x', 10), ('x', 10), ('', 10), (null, 10)",
    )
    delta = Delta(rig, action="append", source={"cursor": "at_", "overlap": 5})
    assert delta.run() == 4
    rig.run("insert into t values ('x', 10), (null, 10)")
    assert delta.run() == 2
    assert delta.run() is None
    rig.run("insert into t values ('late', 7)", "insert into t values ('new', 12)")
    assert delta.run() == 2
    rig.run("insert into t values ('too late', 3)", "insert into t values ('late', 8)")
    assert delta.run() == 1
    assert delta.run() is None
    assert sorted(str(row[0]) for row in rows(rig)) == sorted(
        ["x", "x", "x", "", "None", "None", "late", "new", "late"]
    )


@pytest.mark.parametrize("what", ["moment", "date"])
def test_an_overlap_of_moments_is_in_seconds(rig, what):
    column = rig.moment() if what == "moment" else "date"
    day = "2024-03-{:02} 00:00:00" if what == "moment" else "2024-03-{:02}"
    rig.run(
        f"create table t (v int, at_ {column})", f"insert into t values (1, '{day.format(10)}')"
    )
    delta = Delta(rig, action="append", source={"cursor": "at_", "overlap": 2 * 86_400})
    assert delta.run() == 1
    rig.run(
        f"insert into t values (2, '{day.format(8)}')",
        f"insert into t values (3, '{day.format(7)}')",
    )
    assert delta.run() == 1
    assert [row[0] for row in rows(rig)] == [1, 2]


def test_a_replace_reads_all_if_anything_has_changed(rig):
    rig.run("create table t (id int, at_ int)", "insert into t values (1, 1), (2, 2)")
    delta = Delta(rig, action="replace", source={"cursor": "at_"})
    assert delta.run() == 2
    assert delta.run() is None
    rig.run("insert into t values (3, 3)")
    assert delta.run() == 3
    rig.run("insert into t values (4, 3)")  # late, at the edge
    assert delta.run() == 4


def test_a_filter_holds_for_deltas_too(rig):
    rig.run("create table t (id int, at_ int)", "insert into t values (1, 1), (2, 2), (3, 9)")
    delta = Delta(rig, action="append", source={"cursor": "at_", "where": "at_ < 5 or at_ is null"})
    assert delta.run() == 2
    rig.run("insert into t values (4, 3), (5, 10)")
    assert delta.run() == 1
    assert [row[0] for row in rows(rig)] == [1, 2, 4]


def test_a_back_fill_reads_a_range(rig):
    rig.run(f"create table t (id int, at_ {rig.moment()})", *(
        f"insert into t values ({day}, '2024-01-{day:02} 12:00:00')" for day in range(1, 6)))  # fmt: skip
    of = {"cursor": "at_"}
    loaded(
        rig,
        source=of,
        range=Range(since="2024-01-02T12:00:00Z", until="2024-01-04T12:00:00Z"),
        action="append",
    )
    assert [row[0] for row in rows(rig)] == [2, 3]
    found = error_of(rig, source=of, range=Range(since="no moment"), action="append")
    assert isinstance(found, Invalid | Refused)
    assert isinstance(error_of(rig, range=Range(since="1"), action="append"), Misconfigured)


def test_one_snapshot_whatever_is_written_meanwhile(servers, tmp_path):
    for kind in ("mysql", "sqlite"):
        rig = rig_of(kind, servers, tmp_path / kind)
        (tmp_path / kind).mkdir()
        rig.run("create table t (id int primary key, n int)")
        if kind == "sqlite":
            rig.run("pragma journal_mode = wal")
        rig.run(
            *(
                f"insert into t values {', '.join(f'({n}, 0)' for n in range(at, at + 2000))}"
                for at in range(0, 40_000, 2000)
            )
        )
        stop = threading.Event()

        def write(rig=rig, stop=stop):
            n = 0
            while not stop.is_set():
                n += 1
                rig.run(f"update t set n = {n}")  # all rows, or none

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for _ in range(3):
                loaded(rig)
                assert len(rows(rig, "select distinct n from t")) == 1
        finally:
            stop.set()
            thread.join()


def test_many_connections_read_one_snapshot_of_a_large_table(servers, tmp_path, monkeypatch):
    from headrace.connectors.families import postgres_table

    monkeypatch.setattr(postgres_table, "LARGE_BYTES", 1 << 16)
    rig = rig_of("postgresql", servers, tmp_path)
    rig.run("create table t (id int primary key, n int, pad text)",
            "insert into t select n, 0, repeat('x', 200) from generate_series(1, 20000) n",
            "delete from t where id % 7 = 0")  # fmt: skip
    made = []
    real = postgres_table.PostgresSnapshot._poured
    monkeypatch.setattr(
        postgres_table.PostgresSnapshot, "_poured",
        lambda self, cons, queries, file: (made.append((len(cons), len(queries))), real(self, cons, queries, file))[1],
    )  # fmt: skip
    stop = threading.Event()

    def write():
        with psycopg.connect(rig.at, autocommit=True) as con:
            n = 0
            while not stop.is_set():
                n += 1
                con.execute("update t set n = %s", [n])

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(3):
            receipt = loaded(rig)
            assert receipt.books.read == 20_000 - 20_000 // 7
            assert rows(rig, "select count(*), count(distinct id), count(distinct n) from t") == [
                (20_000 - 20_000 // 7, 20_000 - 20_000 // 7, 1)
            ]
    finally:
        stop.set()
        thread.join()
    assert (2, 16) in made


@pytest.fixture
def shared(servers, tmp_path, monkeypatch):
    """A table of MySQL that several connections read; `made` tells how many did."""
    from headrace.connectors.families import mysql_table

    monkeypatch.setattr(mysql_table, "LARGE_BYTES", 1)
    rig = rig_of("mysql", servers, tmp_path)
    rig.run("create table t (id int primary key, n int, pad text)",
            "insert into t select seq, 0, repeat('x', seq % 300) from seq_1_to_20000",
            "delete from t where id % 7 = 0", "analyze table t")  # fmt: skip
    made = []
    real = mysql_table.MysqlSnapshot.__init__

    def init(self, cons, *given):
        made.append(len(cons))
        real(self, cons, *given)

    monkeypatch.setattr(mysql_table.MysqlSnapshot, "__init__", init)
    return rig, made


WHOLE = [(20_000 - 20_000 // 7, 20_000 - 20_000 // 7, 1)]
LOOKED_AT = "select count(*), count(distinct id), count(distinct n) from t"


def _written_between(rig, monkeypatch):
    """Have somebody write to the table after each connection has begun; return what came of it."""
    from headrace.connectors.sources import mysql as mysql_source

    tried, real = [], mysql_source.BEGIN

    class Begin:
        def __iter__(self):
            yield from real
            with _mysql(rig.at) as con, con.cursor() as cursor:
                cursor.execute("set session lock_wait_timeout = 1")
                try:
                    cursor.execute("update t set n = n + 1")
                    tried.append("written")
                except pymysql.err.OperationalError:
                    tried.append("refused")

    monkeypatch.setattr(mysql_source, "BEGIN", Begin())
    return tried


def test_many_connections_read_one_state_of_a_table_of_mysql(shared, monkeypatch):
    rig, made = shared
    tried = _written_between(rig, monkeypatch)
    assert loaded(rig).books.read == WHOLE[0][0]
    assert rows(rig, LOOKED_AT) == WHOLE
    assert (made, tried) == ([2], ["refused", "refused"])


def test_connections_that_begin_at_two_states_of_a_table_are_caught(shared, monkeypatch):
    from headrace.connectors.families import mysql_table

    rig, made = shared
    tried = _written_between(rig, monkeypatch)
    monkeypatch.setattr(mysql_table, "held", lambda *_: contextlib.nullcontext(enter_result=True))
    loaded(rig)
    assert (made, tried) == ([2], ["written", "written"])
    assert rows(rig, LOOKED_AT) != WHOLE


def test_one_connection_reads_where_a_table_of_mysql_cannot_be_held(shared):
    rig, made = shared
    with _mysql(rig.at) as con, con.cursor() as cursor:
        cursor.execute("begin")
        cursor.execute("update t set n = 1 where id = 1")  # for longer than is waited
        loaded(rig)
    assert made == [1]
    assert rows(rig, LOOKED_AT) == WHOLE


def test_ranges_of_a_key_of_mysql_lose_no_row_at_their_edges(shared):
    rig, made = shared
    far = 2**63 - 1
    rig.run("create or replace table t (id bigint, n int, primary key (id, n))",
            f"insert into t select cast(seq as signed) * 12345 - {far // 2}, seq % 3 from seq_1_to_999",
            f"insert into t values ({far}, 0), ({-far - 1}, 0), (0, 0), (0, 1)", "analyze table t")  # fmt: skip
    loaded(rig)
    assert made == [2]
    assert rows(rig, "select count(*), min(id), max(id) from t") == [(1003, -far - 1, far)]


def test_a_connection_of_mysql_that_is_cut_halfway_is_told_and_leaves_nothing(shared, monkeypatch):
    from headrace.connectors.families import mysql_table

    rig, _ = shared
    real, begun = mysql_table._rows, []

    def cut(con, *given):
        begun.append(con)
        if len(begun) == 5:
            con._sock.shutdown(socket.SHUT_RDWR)
        return real(con, *given)

    monkeypatch.setattr(mysql_table, "_rows", cut)
    assert isinstance(error_of(rig), Unavailable)
    assert ("t",) not in rows(rig, "show tables")


def test_a_large_table_that_fails_halfway_is_told_and_leaves_nothing(
    servers, tmp_path, monkeypatch
):
    from headrace.connectors.families import postgres_table

    monkeypatch.setattr(postgres_table, "LARGE_BYTES", 1 << 16)
    rig = rig_of("postgresql", servers, tmp_path)
    rig.run(
        "create table t (id int, pad text)",
        "insert into t select n, repeat('x', 200) from generate_series(1, 20000) n",
    )
    found = error_of(rig, source={"where": "100 / (t.id - 15000) is not null"})
    assert isinstance(found, Refused)
    assert "division by zero" in str(found)
    assert (
        not (tmp_path / "o.duckdb").exists()
        or rows(
            rig, "select table_name from duckdb_tables() where not internal and table_name = 't'"
        )
        == []
    )


def test_types_of_mysql_keep_their_values(servers, tmp_path):
    rig = rig_of("mysql", servers, tmp_path)
    rig.run(
        "create table t (id int, u bigint unsigned, b blob, f float, bits bit(9), e enum('x','y'), s set('p','q'), y year,"
        " tm time(6), ts timestamp(6), d40 decimal(40,2), big longtext, g point)",
        "insert into t values (1, 18446744073709551615, x'00ff10', 0.5, b'100000001', 'y', 'p,q', 2024,"
        " '23:59:59.999999', '2024-06-01 12:00:00.5', 12345678901234567890123456789012345678.25, repeat('ab', 700000), point(1, 2))",
    )  # the session that wrote it stands at +05:30
    loaded(rig)
    [row] = rows(rig)
    assert row[:-2] == (
        1, Decimal(18446744073709551615), "AP8Q", 0.5, Decimal(257), "y", "p,q", 2024, dt.time(23, 59, 59, 999999),
        dt.datetime(2024, 6, 1, 6, 30, 0, 500000), "12345678901234567890123456789012345678.25",
    )  # fmt: skip
    assert (row[-2], row[-1]) == ("ab" * 700_000, "POINT(1 2)")


def test_what_no_column_can_hold_is_rejected_with_its_row(servers, tmp_path):
    rig = rig_of("mysql", servers, tmp_path)
    rig.run("create table t (id int, d date, tm time)", "set sql_mode = ''")
    with _mysql(rig.at) as con, con.cursor() as cursor:
        cursor.execute("set sql_mode = ''")
        cursor.execute(
            "insert into t values (1, '0000-00-00', null), (2, null, '-100:00:00'), (3, '2024-01-01', '10:00:00')"
        )
    receipt = loaded(rig, failure_threshold=100)
    assert (receipt.books.read, receipt.books.inserted, receipt.books.rejected) == (3, 1, 2)
    kept = [
        json.loads(line)["raw"]
        for file in (tmp_path / "rejects").glob("*") for line in file.read_text().splitlines()
    ]  # fmt: skip
    assert sorted(kept) == ["1,0000-00-00,", "2,,-100:00:00"]


def test_rows_larger_than_a_packet_are_read(servers, tmp_path):
    """A packet of MySQL holds 16 MiB; a longer row spans several, and is too long to be a record."""
    rig = rig_of("mysql", servers, tmp_path)
    with _mysql(rig.at) as con, con.cursor() as cursor:
        cursor.execute("set global max_allowed_packet = 1073741824")
    rig.run("create table t (id int, big longtext)", "insert into t values (1, 'a'), (3, 'c')",
            "insert into t values (2, repeat('y', 17000000))")  # fmt: skip
    receipt = loaded(rig, failure_threshold=50)
    assert (receipt.books.read, receipt.books.inserted, receipt.books.rejected) == (3, 2, 1)
    assert rows(rig) == [(1, "a"), (3, "c")]


def test_values_of_sqlite_that_are_not_of_their_type_are_rejected(tmp_path):
    rig = Rig("sqlite", str(tmp_path / "s.sqlite"), tmp_path)
    rig.run(
        "create table t (id integer, n integer, r real, ok boolean, b blob, j json, any_, d decimal(9,2))",
        "insert into t values (1, 5, 0.1, 1, x'00ff10', '{\"a\": 1}', 'text', 0.1)",
        "insert into t values (2, 'five', 1, 0, null, null, 3, 2)",
        "insert into t values (3, 6, 1e300, null, 'x', null, null, 3.999)",
    )
    receipt = loaded(rig, failure_threshold=50)
    assert receipt.rules == {"bad_value": 1}
    assert rows(rig) == [
        (1, 5, 0.1, True, "AP8Q", '{"a": 1}', "text", Decimal("0.10")),
        (3, 6, 1e300, None, "x", None, None, Decimal("4.00")),
    ]


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_files_outside_the_roots_stay_closed(tmp_path, kind):
    (tmp_path / "inside").mkdir()
    rig = Rig(kind, str(tmp_path / f"out.{kind}"), tmp_path)
    rig.run("create table t (id int)")
    roots = (str(tmp_path / "inside"), str(tmp_path / "o.duckdb"))
    assert isinstance(error_of(rig, files_roots=roots), Denied)
    (tmp_path / "secret.csv").write_text("a\n1\n")
    queries = {
        "duckdb": [f"select * from read_csv('{tmp_path}/secret.csv')", f"select * from '{tmp_path}/secret.csv'"],
        "sqlite": [f"select load_extension('{tmp_path}/secret.csv')", "select readfile('/etc/passwd')"],
    }  # fmt: skip
    for query in queries[kind]:
        assert isinstance(error_of(rig, source={"query": query}), Refused)
    if kind == "duckdb":
        rig.run(f"create view leak as select * from read_csv('{tmp_path}/secret.csv')")
        assert isinstance(error_of(rig, source={"table": "leak"}), Refused)


def test_a_duckdb_file_is_not_read_by_the_run_that_writes_it(tmp_path):
    rig = Rig("duckdb", str(tmp_path / "o.duckdb"), tmp_path)
    rig.run("create table other (id int)")
    assert "being written by this very run" in str(error_of(rig, source={"table": "other"}))


def test_a_database_that_is_down_or_lets_nobody_in_is_told(servers, tmp_path):
    rig = rig_of("mysql", servers, tmp_path)
    rig.run("create table t (id int)", "insert into t values (1)")
    port = urlsplit(rig.at).port
    for url, kind, told in (
        (f"mysql://nobody:x@127.0.0.1:{port}/test", Refused, "Access denied"),
        (rig.at.replace("/test", "/nothing"), Refused, "nothing"), ("mysql://u@127.0.0.1:1/x", Unavailable, "does not answer"),
        ("http://x/y", Misconfigured, "not a MySQL URL"), ("mysql://u@127.0.0.1", Misconfigured, "names no database"),
        (rig.at + "?ssl-mode=maybe", Misconfigured, "ssl-mode"), (rig.at + "?ssl-mode=required", Unavailable, "SSL"),
    ):  # fmt: skip
        found = error_of(rig, source={"url": url})
        assert isinstance(found, kind), (url, found)
        assert told in str(found), str(found)
    found = error_of(rig, open_inside=False)
    assert isinstance(found, Denied)


def test_a_connection_that_is_cut_in_its_rows_is_the_outside_s_fault(servers, tmp_path):
    rig = rig_of("mysql", servers, tmp_path)
    rig.run("create table t (id int, pad varchar(1000))")
    rig.run(
        *(
            f"insert into t values {', '.join(f'({n}, repeat(0, 1000))' for n in range(500))}"
            for _ in range(40)
        )
    )
    with proxied(rig.at) as (proxy, url):
        rig.at = url
        some = MysqlRows.pour

        def pour(self, write, told):
            def cut():
                proxy.cut()
                told()

            return some(self, write, cut)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MysqlRows, "pour", pour)
            found = error_of(rig)
        assert isinstance(found, Unavailable), found


def test_the_cli_reads_tables(tmp_path):
    import subprocess
    import sys

    rig = Rig("sqlite", str(tmp_path / "s.sqlite"), tmp_path)
    rig.run("create table orders (id int, v text)", "insert into orders values (1, 'a'), (2, 'b')")

    def run(*words):
        command = [sys.executable, "-m", "headrace", "ingest", *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    done = run("sqlite:///s.sqlite#orders", "o.duckdb", "--json")
    assert json.loads(done.stdout)["books"]["inserted"] == 2, done.stderr
    done = run(
        "sqlite:///s.sqlite",
        "o.duckdb",
        "--table",
        "q",
        "--set",
        "query=select id from orders where id > 1",
        "--json",
    )
    assert json.loads(done.stdout)["books"]["inserted"] == 1, done.stderr
    done = run("duckdb:///o.duckdb#orders", "p.duckdb", "--json")
    assert json.loads(done.stdout)["books"]["inserted"] == 2, done.stderr
    done = run("mysql://me:geheim@127.0.0.1:1/x", "o.duckdb")
    assert done.returncode == 2
    assert "geheim" not in done.stderr
    assert "Which table?" in done.stderr
    command = [sys.executable, "-m", "headrace", "discover", "sqlite:///s.sqlite"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "orders" in done.stdout
    done = run("ftp://me:geheim@127.0.0.1:1/x", "o.duckdb")
    assert "geheim" not in done.stderr + done.stdout


# Rows that are gone.

GONE = {"action": "save", "key": ("id",), "deletes": True}

GONE_FROM = pytest.mark.parametrize("rig", [*KINDS, "sqlite in parts"], indirect=True)


@GONE_FROM
def test_rows_that_are_gone_are_removed_and_no_others(rig):
    moment = rig.moment()
    rig.run(f"create table t (id int, changed {moment}, v varchar(9))",
            *(f"insert into t values ({n}, '2026-01-0{n} 00:00:00', 'a')" for n in range(1, 7)))  # fmt: skip
    first = loaded(rig, source={"cursor": "changed"}, **GONE)
    assert (first.books.inserted, first.books.deleted) == (6, 0)
    versions = {file.name: file.version for file in first.files}
    rig.run("delete from t where id in (2, 6)", "update t set v = 'b', changed = '2026-02-01 00:00:00' where id = 3",
            "insert into t values (7, '2026-02-02 00:00:00', 'c')")  # fmt: skip
    again = loaded(
        rig, source={"cursor": "changed"}, known=Known(versions=versions), fence=2, **GONE
    )
    assert (again.books.updated, again.books.inserted, again.books.deleted) == (1, 1, 2)
    assert again.quarrel() is None
    assert again.tables[0].rows_after == 5
    assert [(row[0], row[2]) for row in rows(rig)] == [
        (1, "a"), (3, "b"), (4, "a"), (5, "a"), (7, "c"),
    ]  # fmt: skip
    versions = {file.name: file.version for file in again.files}
    rig.run("delete from t where id = 1")  # and nothing else: no row is beyond the cursor
    last = loaded(
        rig, source={"cursor": "changed"}, known=Known(versions=versions), fence=3, **GONE
    )
    assert (last.books.read, last.books.deleted) == (0, 1)
    assert [row[0] for row in rows(rig)] == [3, 4, 5, 7]


def test_an_emptied_table_does_not_empty_the_destination(rig):
    rig.run("create table t (id int, v varchar(9))", "insert into t values (1, 'a')")
    loaded(rig, **GONE)
    rig.run("delete from t")
    error = error_of(rig, fence=2, **GONE)
    assert isinstance(error, Refused)
    assert "no rows any more" in error.message
    assert rows(rig) == [(1, "a")]


@GONE_FROM
def test_keys_are_compared_as_the_table_has_them(rig):
    """Renamed, hashed and computed keys of several columns, texts with quotes and line ends."""
    rig.run("create table t (a varchar(20), b int, v int)", "insert into t values ('x', 1, 1), ('it''s\n\"y\"', 2, 2), (' ', 3, 3)")  # fmt: skip
    more = GONE | {
        "key": ("name", "B", "twice"), "hash_key": b"key",
        "shape": Shape(rename={"a": "name", "b": "B"}, hash=("a",), compute={"twice": "b * 2"}),
    }  # fmt: skip
    assert loaded(rig, **more).books.inserted == 3
    rig.run("delete from t where b = 2")
    again = loaded(rig, fence=2, **more)
    assert (again.books.updated, again.books.deleted) == (2, 1)
    assert [row[1] for row in rows(rig, "select * from t order by B")] == [1, 3]


def test_a_back_fill_removes_nothing(rig):
    moment = rig.moment()
    rig.run(f"create table t (id int, changed {moment})",
            *(f"insert into t values ({n}, '2026-01-0{n} 00:00:00')" for n in range(1, 5)))  # fmt: skip
    loaded(rig, source={"cursor": "changed"}, **GONE)
    rig.run("delete from t where id = 4")
    part = loaded(rig, source={"cursor": "changed"}, fence=2,
                  range=Range(since="2026-01-01T00:00:00Z", until="2026-01-03T00:00:00Z"), **GONE)  # fmt: skip
    assert (part.books.read, part.books.deleted) == (2, 0)


@GONE_FROM
def test_rows_without_a_key_stay(rig):
    rig.run("create table t (id int, v varchar(9))", "insert into t values (1, 'a'), (2, 'b')")
    loaded(rig, action="append")
    with duckdb.connect(str(rig.folder / "o.duckdb")) as con:
        con.execute("insert into t values (null, 'mine'), (9, 'gone')")
    assert loaded(rig, fence=2, **GONE).books.deleted == 1
    assert rows(rig) == [(1, "a"), (2, "b"), (None, "mine")]


def test_rows_that_are_gone_are_removed_in_postgresql_too(servers, tmp_path):
    rig = rig_of("postgresql", servers, tmp_path)
    rig.run("create table t (id int, v text)", "insert into t select n, 'a' from generate_series(1, 50000) n",
            "create schema there")  # fmt: skip
    (tmp_path / "data").mkdir()
    end = ("postgresql", {"url": rig.at, "schema": "there"})

    def load(fence):
        return work(order(tmp_path, rig.source(), end, fence=fence, **GONE), Memory())

    load(1)
    rig.run("delete from t where id % 10 = 0", "update t set v = 'b' where id = 1")
    receipt = load(2)
    assert (receipt.books.updated, receipt.books.deleted) == (45_000, 5_000)
    with psycopg.connect(rig.at) as con:
        same = "select count(*) from public.t full join there.t u using (id) where t.v is distinct from u.v"
        assert con.execute(same).fetchone() == (0,)


def test_rows_that_are_gone_leave_a_large_table_in_little_memory(servers, tmp_path):
    """Of those that stay all keys have room at once, of the table's they have not."""
    rig = rig_of("sqlite", servers, tmp_path)
    rig.run("create table t (id int, n int)",
            "with recursive r (i) as (select 0 union all select i + 1 from r where i < 99999)"
            " insert into t select i * 60, 7 from r")  # fmt: skip
    with duckdb.connect(str(tmp_path / "o.duckdb")) as con:
        con.execute("create table t as select range as id, 0::bigint as n from range(6000000)")
        con.execute("insert into t values (null, 1)")
    books = loaded(rig, memory_bytes=RUN_BYTES_MIN, **GONE).books
    assert (books.updated, books.deleted) == (100_000, 5_900_000)
    told = rows(rig, "select n, count(*), count(distinct id) from t group by n order by n")
    assert told == [(1, 1, 0), (7, 100_000, 100_000)]


@pytest.mark.parametrize("action", ["append", "replace", "delete"])
def test_only_a_merge_removes_what_is_gone(servers, tmp_path, action):
    rig = rig_of("sqlite", servers, tmp_path)
    rig.run("create table t (id int)", "insert into t values (1)")
    assert error_of(rig, **GONE | {"action": action}).field == "deletes"


def test_files_cannot_tell_what_is_gone(tmp_path):
    (tmp_path / "a.csv").write_text("id\n1\n")
    end = ("duckdb", {"path": str(tmp_path / "o.duckdb")})
    with pytest.raises(Misconfigured, match="CSV files: rows that are gone"):
        work(order(tmp_path, ("csv", {"url": str(tmp_path / "a.csv")}), end, **GONE), Memory())


def test_a_key_that_is_lost_on_the_way_removes_nothing(servers, tmp_path, monkeypatch):
    """A reader that drops one key would have a row removed that is still there."""
    rig = rig_of("sqlite", servers, tmp_path)
    rig.run("create table t (id int)", "insert into t values (1), (2), (3)")
    loaded(rig, **GONE)
    real = _Reading.keys

    def lossy(self, names):
        file = real(self, names)
        path = Path(file.path)
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
        return file

    monkeypatch.setattr(_Reading, "keys", lossy)
    assert isinstance(error_of(rig, fence=2, **GONE), Unbalanced)
    assert len(rows(rig)) == 3


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("no url", "is no URL"), ("mysql+pymysql://a@db/x", "has a connector of its own"),
        ("sqlite:////etc/passwd", "has a connector of its own"), ("mssql+pymssql:///x", "names no host"),
        ("mssql+pyodbc://a@127.0.0.1/x?driver=/tmp/evil.so", "may not set 'driver'"),
        ("postgresql+psycopg://a@127.0.0.1/x?sslkey=/etc/shadow", "may not set 'sslkey'"),
        ("nothing+known://a@127.0.0.1/x", "no SQLAlchemy dialect"),
        ("oracle+oracledb://a@127.0.0.1/x", "not installed"),
    ],
)  # fmt: skip
def test_urls_that_sqlalchemy_is_not_given(tmp_path, url, told):
    (tmp_path / "data").mkdir()
    ends = (
        ("sqlalchemy", {"url": url, "table": "t"}),
        ("duckdb", {"path": str(tmp_path / "o.duckdb")}),
    )
    with pytest.raises(Stopped) as stopped:
        work(order(tmp_path, *ends), Memory())
    assert isinstance(stopped.value.error, Misconfigured)
    assert told in stopped.value.error.message
    with pytest.raises(Misconfigured, match=told):
        work(order(tmp_path, ("csv", {"url": "x.csv"}), ("sqlalchemy", {"url": url})), Memory())


@pytest.mark.parametrize("kind", ["duckdb", "parquet"])
def test_nanoseconds_are_rejected_or_kept_as_text_never_rounded(tmp_path, kind):
    at = tmp_path / f"x.{kind}"
    said = (
        "2024-01-01 10:00:00.123456",
        "2024-01-01 10:00:00.123456789",
        "1900-01-01 00:00:00.000000001",
    )
    rows_ = ", ".join(f"({n}, '{text}'::timestamp_ns)" for n, text in enumerate(said))
    with duckdb.connect(str(at) if kind == "duckdb" else ":memory:") as con:
        con.execute(f'create table t as select * from (values {rows_}) as v(id, "at")')
        if kind == "parquet":
            con.execute(f"copy t to '{at}'")
    source = (kind, {"path": str(at), "table": "t"} if kind == "duckdb" else {"url": str(at)})
    (tmp_path / "data").mkdir()

    def load(mapping=None):
        given = (source[0], source[1] | {"mapping": mapping or {}})
        end = ("duckdb", {"path": str(tmp_path / "o.duckdb")})
        receipt = work(order(tmp_path, given, end, failure_threshold=100), Memory())
        with duckdb.connect(str(tmp_path / "o.duckdb"), read_only=True) as con:
            return receipt.books, con.execute('select "at" from t order by id').fetchall()

    books, found = load()
    assert (books.read, books.inserted, books.rejected) == (3, 1, 2)
    assert found == [(dt.datetime(2024, 1, 1, 10, 0, 0, 123456),)]
    books, found = load({"at": "string"})
    assert (books.inserted, found) == (3, [(text,) for text in said])


def test_a_hugeint_beyond_what_a_decimal_holds_is_a_rejected_row(tmp_path):
    at = tmp_path / "x.duckdb"
    with duckdb.connect(str(at)) as con:
        con.execute(
            "create table t as select 1 as id, (-5)::hugeint as n union all select 2, 170141183460469231731687303715884105727"
        )
    (tmp_path / "data").mkdir()
    told = order(tmp_path, ("duckdb", {"path": str(at), "table": "t"}),
                 ("duckdb", {"path": str(tmp_path / "o.duckdb")}), failure_threshold=100)  # fmt: skip
    books = work(told, Memory()).books
    assert (books.read, books.inserted, books.rejected) == (2, 1, 1)
