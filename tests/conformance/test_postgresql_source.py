"""Tables of PostgreSQL as a source: exact values, one snapshot, and delta by a cursor."""

import json
import shutil
import tempfile
import threading
from collections import Counter
from pathlib import Path

import duckdb
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.assembly import work
from headrace.connectors.families.postgres_table import _copied, dressed
from headrace.contract.tools import Known
from headrace.domain.errors import Misconfigured, Refused, Unavailable, Unchanged
from headrace.engine.plan import Stopped
from headrace.native import wire
from tests.engine import Memory, order

TYPES = """
create type mood as enum ('sad', 'it''s "ok"'); create domain price as numeric(12,2);
create type pair as (a int, b text);
create table t (
  id bigint primary key, small smallint, whole integer, num numeric(20,5), free numeric, price price, real4 real,
  f8 double precision, yes boolean, txt text, vc varchar(20), ch char(3), b bytea, d date, tm time(6), ts timestamp,
  tz timestamptz(3), iv interval, u uuid, j json, jb jsonb, arr int[], words text[], m mood, ip inet, r int4range,
  p pair, "Odd ""name" text, empty text
);
insert into t values (
  1, -32768, 2147483647, 123456789012345.12345, 1e30 + 0.000000001, 12.50, 1.5, 1e-300, true, E'a"b,\\nc\\tü😀', ' x ', 'é',
  '\\x00ff10', '0001-01-01', '23:59:59.999999', '9999-12-31 23:59:59.999999', '2024-06-01 12:00:00.123+02',
  '1 mon 2 days', '6b0f9a34-0000-4000-8000-000000000001', '{"a": [1, null]}', '{"b": 2.50}', '{1,null,3}',
  array['x,y', '"q"', null], 'it''s "ok"', '10.0.0.1', '[1,5)', (1, 'a,b'), 'odd', ''
);
insert into t (id) values (2);
insert into t (id, f8, d, ts, yes) values (3, 'NaN', '2024-02-29', '2000-01-01', false);
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path


def loaded(folder, url, *, known=None, **more):
    """Load a table into DuckDB, as t; return the receipt."""
    source = {"url": url, "table": "t"} | more.pop("source", {})
    told = order(
        folder, ("postgresql", source), ("duckdb", {"path": str(folder / "o.duckdb")}), known=known, **more
    )  # fmt: skip
    return work(told, Memory())


def rows(folder, sql="select * from t order by 1"):
    with duckdb.connect(str(folder / "o.duckdb"), read_only=True) as con:
        return con.execute(sql).fetchall()


def run(url, *statements):
    with psycopg.connect(url) as con:
        for statement in statements:
            con.execute(statement)


def test_every_type_keeps_its_value(folder, fresh_database):
    run(fresh_database, TYPES)
    receipt = loaded(folder, fresh_database)
    assert receipt.books.read == receipt.books.inserted == 3
    types = dict(
        rows(folder, "select column_name, data_type from duckdb_columns() where table_name = 't'")
    )
    assert {name: types[name] for name in ("id", "num", "price", "free", "f8", "yes", "d", "tm", "ts", "tz", "arr", "j")} == {
        "id": "BIGINT", "num": "DECIMAL(20,5)", "price": "DECIMAL(12,2)", "free": "VARCHAR", "f8": "DOUBLE",
        "yes": "BOOLEAN", "d": "DATE", "tm": "TIME", "ts": "TIMESTAMP", "tz": "TIMESTAMP", "arr": "JSON", "j": "JSON",
    }  # fmt: skip
    with duckdb.connect(str(folder / "o.duckdb"), read_only=True) as con:
        found = con.execute("select * from t order by id")
        names = [column[0] for column in found.description]
        one, two, three = (dict(zip(names, row, strict=True)) for row in found.fetchall())
    shown = {name: str(value) for name, value in one.items()}
    assert shown == {
        "id": "1", "small": "-32768", "whole": "2147483647", "num": "123456789012345.12345",
        "free": "1000000000000000000000000000000.000000001", "price": "12.50", "real4": "1.5", "f8": "1e-300",
        "yes": "True", "txt": 'a"b,\nc\tü😀', "vc": " x ", "ch": "é  ", "b": "AP8Q", "d": "0001-01-01",
        "tm": "23:59:59.999999", "ts": "9999-12-31 23:59:59.999999", "tz": "2024-06-01 10:00:00.123000",
        "iv": "1 mon 2 days", "u": "6b0f9a34-0000-4000-8000-000000000001", "j": '{"a": [1, null]}', "jb": '{"b": 2.50}',
        "arr": "[1,null,3]", "words": '["x,y","\\"q\\"",null]', "m": 'it\'s "ok"', "ip": "10.0.0.1", "r": "[1,5)",
        "p": '{"a":1,"b":"a,b"}', 'Odd "name': "odd", "empty": "",
    }  # fmt: skip
    assert [name for name, value in two.items() if value is not None] == ["id"]  # NULL is not ""
    assert (str(three["f8"]), three["yes"], str(three["d"])) == ("nan", False, "2024-02-29")


def test_rows_are_taken_byte_for_byte_as_the_server_itself_writes_csv(tmp_path, fresh_database):
    """They come in the form that costs the server less, and are made CSV here."""
    run(
        fresh_database,
        TYPES,
        r"insert into t (id, txt, empty) values (4, E'\\N', E'\\\\'), (5, E'\\b\\f\\v\r,', E'\\.')",
    )
    query = "select * from t order by id"
    with psycopg.connect(fresh_database) as con:
        dressed(con)
        with con.cursor() as cursor, cursor.copy(f"copy ({query}) to stdout (format csv)") as copy:
            theirs = b"".join(map(bytes, copy))
        with (tmp_path / "ours").open("w+b") as file:
            assert wire.drains()
            assert _copied(con, query, file.fileno(), wire.Drain()) == 5
            assert (tmp_path / "ours").read_bytes() == theirs


def test_what_no_column_can_hold_is_rejected_with_its_row(folder, fresh_database):
    run(fresh_database, "create table t (id int, d date, ts timestamp)",
        "insert into t values (1, 'infinity', null), (2, null, '0044-03-15 BC'), (3, '2024-01-01', null)")  # fmt: skip
    with pytest.raises(Stopped) as caught:
        loaded(folder, fresh_database)
    assert "'d': bad_value" in str(caught.value.error)
    receipt = loaded(folder, fresh_database, failure_threshold=100)
    assert (receipt.books.read, receipt.books.inserted, receipt.books.rejected) == (3, 1, 2)
    kept = [
        json.loads(line)
        for file in (folder / "rejects").glob("*")
        for line in file.read_text().splitlines()
    ]
    assert {row["raw"] for row in kept} == {"1,infinity,", "2,,0044-03-15 00:00:00 BC"}
    assert (
        loaded(
            folder, fresh_database, source={"mapping": {"d": "string", "ts": "string"}}
        ).books.inserted
        == 3
    )


def test_columns_are_chosen_and_a_view_and_an_empty_table_are_read(folder, fresh_database):
    run(fresh_database, "create schema s", "create table s.t (id int, a text, b text)",
        "create view s.v as select id, b from s.t where id > 1",
        "insert into s.t values (1, 'x', 'y'), (2, 'z', 'w')")  # fmt: skip
    loaded(folder, fresh_database, source={"schema": "s", "columns": ["b", "id"]})
    assert rows(folder) == [("w", 2), ("y", 1)]
    loaded(folder, fresh_database, source={"schema": "s", "table": "v"})
    assert rows(folder) == [(2, "w")]
    run(fresh_database, "delete from s.t")
    receipt = loaded(folder, fresh_database, source={"schema": "s"})
    assert (receipt.books.read, receipt.tables[0].rows_after) == (0, 0)


@pytest.mark.parametrize(
    ("source", "error", "told"),
    [
        ({"table": "nobody"}, Refused, "no table public.nobody"), ({"schema": "x"}, Refused, "no table x.t"),
        ({"columns": ["z"]}, Misconfigured, "no column 'z'"), ({"cursor": "z"}, Misconfigured, "no column 'z'"),
        ({"cursor": "a"}, Misconfigured, "no cursor"), ({"mapping": {"z": "string"}}, Misconfigured, "no column 'z'"),
        ({"url": "postgresql://headrace@127.0.0.1:1/x"}, Unavailable, "does not answer"),
        ({"url": "http://x"}, Misconfigured, "not a PostgreSQL URL"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told(folder, fresh_database, source, error, told):
    run(fresh_database, 'create table t (id int, a text); create table twins (a int, "A" int)')
    with pytest.raises(Exception) as caught:
        loaded(folder, fresh_database, source=source)
    found = caught.value.error if isinstance(caught.value, Stopped) else caught.value
    assert isinstance(found, error), found
    assert told in str(found)
    with pytest.raises(Stopped, match="both 'a' and 'A'"):
        loaded(folder, fresh_database, source={"table": "twins"})


def test_one_snapshot_whatever_is_written_meanwhile(folder, fresh_database):
    run(fresh_database, "create table t (id int primary key, n int)",
        "insert into t select n, 0 from generate_series(1, 50000) n")  # fmt: skip
    stop = threading.Event()

    def write():
        with psycopg.connect(fresh_database, autocommit=True) as con:
            n = 0
            while not stop.is_set():
                n += 1
                con.execute("update t set n = %s", [n])  # all rows, or none

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(3):
            loaded(folder, fresh_database)
            assert len(rows(folder, "select distinct n from t")) == 1
    finally:
        stop.set()
        thread.join()


# Delta.


class Delta:
    """Runs that go on where the last one stood, as the server would have them."""

    def __init__(self, folder, url, **more):
        self.folder, self.url, self.more = folder, url, more
        self.versions = None
        self.fence = 0

    def run(self, *, delta=True):
        """Return the rows that were read; None if there was nothing new."""
        known = None
        whole = self.more.get("action") == "replace"
        if delta and self.versions is not None:
            known = Known(versions=self.versions, whole=whole)
        self.fence += 1
        try:
            receipt = loaded(self.folder, self.url, known=known, fence=self.fence, **self.more)
        except Unchanged:
            return None
        self.versions = {file.name: file.version for file in receipt.files}
        return receipt.books.read


@pytest.mark.parametrize(
    "type_", ["timestamptz", "timestamp(3)", "date", "bigint", "numeric(10,2)"]
)
def test_delta_reads_what_lies_beyond_the_cursor_and_what_comes_late_at_it(
    folder, fresh_database, type_
):
    at = {"bigint": "({})", "numeric(10,2)": "({} + 0.25)"}.get(type_, "('2024-01-01'::date + {})")
    row = f"insert into t values ({{}}, 'a', {at})".format
    run(
        fresh_database,
        f"create table t (id int primary key, v text, at {type_})",
        row(1, 1),
        row(2, 2),
    )
    delta = Delta(folder, fresh_database, action="append", source={"cursor": "at"})
    assert delta.run() == 2
    assert delta.run() is None
    run(fresh_database, row(3, 2))  # the very value that the cursor stands at
    assert delta.run() == 1
    run(fresh_database, row(4, 3), row(5, 5))
    assert delta.run() == 2
    assert delta.run() is None
    assert [found[0] for found in rows(folder)] == [1, 2, 3, 4, 5]
    assert delta.run(delta=False) == 5  # full reads all, whatever was read before
    assert delta.run() is None


def test_rows_alike_at_the_edge_are_counted_not_confused(folder, fresh_database):
    run(
        fresh_database, "create table t (v text, at int)", "insert into t values ('x', 1), ('x', 1)"
    )
    delta = Delta(folder, fresh_database, action="append", source={"cursor": "at"})
    assert delta.run() == 2
    run(fresh_database, "insert into t values ('x', 1)")
    assert delta.run() == 1
    assert delta.run() is None
    assert len(rows(folder)) == 3


def test_changed_rows_are_saved_by_their_key(folder, fresh_database):
    run(fresh_database, "create table t (id int primary key, v text, at timestamptz default clock_timestamp())",
        "insert into t values (1, 'a'), (2, 'b')")  # fmt: skip
    delta = Delta(folder, fresh_database, action="save", key=("id",), source={"cursor": "at"})
    assert delta.run() == 2
    run(fresh_database, "update t set v = 'B', at = clock_timestamp() where id = 2",
        "insert into t values (3, 'c')")  # fmt: skip
    assert delta.run() == 2
    assert [row[:2] for row in rows(folder)] == [(1, "a"), (2, "B"), (3, "c")]


def test_a_replace_reads_all_if_anything_has_changed(folder, fresh_database):
    run(fresh_database, "create table t (id int, at int)", "insert into t values (1, 1), (2, 2)")
    delta = Delta(folder, fresh_database, action="replace", source={"cursor": "at"})
    assert delta.run() == 2
    assert delta.run() is None
    run(fresh_database, "insert into t values (3, 3)")
    assert delta.run() == 3


def test_a_crowded_edge_is_told_apart_by_keys_only(folder, fresh_database, monkeypatch):
    monkeypatch.setattr("headrace.connectors.families.table_source.SEEN_MAX", 3)
    run(
        fresh_database,
        "create table t (id int, at int)",
        "insert into t select n, 1 from generate_series(1, 9) n",
    )
    keyed = Delta(folder, fresh_database, action="save", key=("id",), source={"cursor": "at"})
    assert keyed.run() == 9
    assert keyed.run() is None
    appended = Delta(
        folder, fresh_database, action="append", table="t", source={"cursor": "at"}, scope="other"
    )
    run(fresh_database, "insert into t values (10, 1)")
    assert keyed.run() == 10  # again, and the keys tell
    assert len(rows(folder)) == 10
    shutil.rmtree(folder / "data")
    (folder / "data").mkdir()
    (folder / "o.duckdb").unlink()
    assert appended.run() == 10
    run(fresh_database, "insert into t values (11, 1)")
    with pytest.raises(Stopped, match="nobody can tell"):
        appended.run()


def test_an_open_transaction_is_found_within_the_overlap(folder, fresh_database):
    run(
        fresh_database, "create table t (id int, at timestamptz)", "insert into t values (1, now())"
    )
    delta = Delta(folder, fresh_database, action="append", source={"cursor": "at", "overlap": 3600})
    with psycopg.connect(fresh_database) as slow:
        slow.execute("insert into t values (2, now())")  # its moment is before the next row's
        run(fresh_database, "insert into t values (3, now() + interval '1 second')")
        assert delta.run() == 2
    assert delta.run() == 1  # committed late
    assert delta.run() is None
    assert sorted(row[0] for row in rows(folder)) == [1, 2, 3]


def test_rows_without_a_cursor_are_for_full_runs(folder, fresh_database):
    run(fresh_database, "create table t (id int, at int)", "insert into t values (1, null)")
    delta = Delta(folder, fresh_database, action="append", source={"cursor": "at"})
    assert delta.run() == 1
    run(fresh_database, "insert into t values (2, 5)")
    assert delta.run() == 2  # no edge yet: everything
    assert delta.run() is None


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    batches=st.lists(
        st.lists(st.tuples(st.integers(0, 3), st.sampled_from("ab")), max_size=6),
        min_size=1,
        max_size=5,
    )
)
def test_appended_in_any_order_within_the_overlap_nothing_is_lost_or_doubled(postgres_url, batches):
    """Each batch brings rows at most 3 before the highest so far, equal ones too."""
    folder = Path(tempfile.mkdtemp())
    (folder / "data").mkdir()
    try:
        run(postgres_url, "drop table if exists t", "create table t (v text, at int)")
        delta = Delta(folder, postgres_url, action="append", source={"cursor": "at", "overlap": 3})
        highest, written = 0, []
        for number, batch in enumerate(batches):
            for back, value in batch:
                at = max(highest + number - back, highest - 3)
                written.append((value, at))
                run(postgres_url, f"insert into t values ('{value}', {at})")
            highest = max([highest, *(at for _, at in written)])
            delta.run()
        assert Counter(
            rows(folder) if (folder / "o.duckdb").exists() and written else []
        ) == Counter(written)
    finally:
        shutil.rmtree(folder)
