"""Child tables: arrays in JSON become rows of their own, which follow their parents."""

import json
import sqlite3

import duckdb
import psycopg
import pytest

from headrace.assembly import work
from headrace.domain.errors import Misconfigured, Refused
from headrace.domain.shape import Policy, Shape
from headrace.engine.plan import Stopped
from headrace.settings import RUN_BYTES_MIN
from tests.conformance.test_table_sources import _mysql
from tests.engine import MYSQL, Memory, Rig, kind_of, order

TABLES = {"more": {"nested": "tables"}}
KEYED = ("duckdb", "postgresql", "sqlite", MYSQL)


@pytest.fixture(params=(*KEYED, "parquet"))
def rig(request, tmp_path, fresh):
    return made(request.param, tmp_path, fresh)


@pytest.fixture(params=(*KEYED, "duckdb in parts"))
def keyed(request, tmp_path, fresh):
    return made(kind_of(request), tmp_path, fresh)


def made(kind, tmp_path, fresh):
    rig = Rig(kind, tmp_path, fresh(kind))
    rig.kind = kind
    return rig


def load(rig, records, action="replace", **more):
    return rig.load("a.json", json.dumps(records), action, key=("id",), **TABLES, **more)


def rows(rig, table, columns):
    """Read a table, whatever it lies in."""
    query = f"select {', '.join(columns)} from {table} order by {', '.join(columns)}"
    where = rig.end[1]
    if rig.kind == "postgresql":
        with psycopg.connect(where["url"]) as con:
            return con.execute(query).fetchall()
    if rig.kind == "mysql":
        with _mysql(where["url"]) as con, con.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())
    if rig.kind == "sqlite":
        with sqlite3.connect(where["path"]) as con:
            return con.execute(query).fetchall()
    if rig.kind == "duckdb":
        with duckdb.connect(where["path"], read_only=True) as con:
            return con.execute(query).fetchall()
    files = json.loads((rig.folder / "lake" / table / "_manifest.json").read_text())["files"]
    paths = [str(rig.folder / "lake" / table / file) for file in files]
    return duckdb.execute(
        query.replace(f"from {table}", f"from read_parquet({paths}, union_by_name=true)")
    ).fetchall()


ORDERS = [
    {"id": 1, "who": {"name": "Ann", "tags": ["a", "b"]}, "items": [
        {"sku": "x", "n": 2, "parts": [{"p": 1}, {"p": 2}]}, {"sku": "y", "n": 1, "id": 77}]},
    {"id": 2, "who": {"name": "Bob", "tags": []}, "items": [{"sku": "z", "n": 5, "parts": [{"p": 9}]}]},
    {"id": 3, "who": {"name": "Cy"}, "items": None},
]  # fmt: skip


def test_arrays_become_tables_however_deep(rig):
    receipt = load(rig, ORDERS)
    assert rows(rig, "t", ["id", "who__name"]) == [(1, "Ann"), (2, "Bob"), (3, "Cy")]
    assert rows(rig, "t__items", ["_parent_id", "_index", "sku", "n", "id"]) == [
        (1, 0, "x", 2, None), (1, 1, "y", 1, 77), (2, 0, "z", 5, None),
    ]  # fmt: skip
    assert rows(rig, "t__items__parts", ["_parent_id", "_index", "_index_2", "p"]) == [
        (1, 0, 0, 1), (1, 0, 1, 2), (2, 0, 0, 9),
    ]  # fmt: skip
    assert rows(rig, "t__who__tags", ["_parent_id", "_index", "value"]) == [
        (1, 0, "a"),
        (1, 1, "b"),
    ]
    books = {table.name: (table.books.read, table.books.inserted) for table in receipt.tables}
    assert books == {
        "t": (3, 3),
        "t__items": (3, 3),
        "t__items__parts": (3, 3),
        "t__who__tags": (2, 2),
    }
    assert receipt.quarrel() is None
    with pytest.raises(Exception, match=r"(?i)items|column"):
        rows(rig, "t", ["items"])


def test_a_merge_replaces_the_children_of_the_parents_that_it_brings(keyed):
    load(keyed, ORDERS)
    receipt = load(
        keyed,
        [{"id": 1, "who": {"name": "Ann", "tags": ["c"]}, "items": [{"sku": "x", "n": 3, "parts": []}]},
         {"id": 4, "who": {"name": "Dee", "tags": ["d"]}, "items": []}],
        "save",
    )  # fmt: skip
    assert rows(keyed, "t__items", ["_parent_id", "_index", "sku", "n"]) == [
        (1, 0, "x", 3),
        (2, 0, "z", 5),
    ]
    assert rows(keyed, "t__items__parts", ["_parent_id", "_index", "_index_2", "p"]) == [
        (2, 0, 0, 9)
    ]
    assert rows(keyed, "t__who__tags", ["_parent_id", "_index", "value"]) == [
        (1, 0, "c"),
        (4, 0, "d"),
    ]
    books = {table.name: table.books for table in receipt.tables}
    assert (books["t__items"].updated, books["t__items"].deleted) == (1, 1)
    assert (books["t__items__parts"].read, books["t__items__parts"].deleted) == (0, 2)
    assert receipt.quarrel() is None


def test_few_parents_take_their_children_from_a_large_table_in_little_memory(tmp_path, fresh):
    """Of those parents all keys have room at once, of the children's parents they have not."""
    rig = made("duckdb", tmp_path, fresh)
    few = [{"id": n, "items": [{"sku": "new"}]} for n in range(100)]
    load(rig, few)
    with duckdb.connect(rig.end[1]["path"]) as con:
        con.execute("insert into t__items (_parent_id, _index, sku)"
                    " select range // 2, range % 2 + 1, 'old' from range(8000000)")  # fmt: skip
    receipt = load(rig, few, "save", memory_bytes=RUN_BYTES_MIN)
    books = {table.name: table.books for table in receipt.tables}
    assert (books["t__items"].updated, books["t__items"].deleted) == (100, 200)
    assert rows(rig, "t__items where _parent_id < 101", ["_parent_id", "_index", "sku"]) == [
        *((n, 0, "new") for n in range(100)), (100, 1, "old"), (100, 2, "old"),
    ]  # fmt: skip
    assert rows(rig, "t__items", ["count(*)"]) == [(100 + 8_000_000 - 200,)]


def test_a_partial_update_leaves_the_children_of_what_it_does_not_carry(keyed):
    load(keyed, ORDERS)
    load(
        keyed, [{"id": 2, "items": [{"sku": "new"}]}, {"id": 1, "who": {"name": "Anna"}}], "partial"
    )
    assert rows(keyed, "t", ["id", "who__name"]) == [(1, "Anna"), (2, "Bob"), (3, "Cy")]
    assert rows(keyed, "t__items", ["_parent_id", "_index", "sku"]) == [
        (1, 0, "x"), (1, 1, "y"), (2, 0, "new"),
    ]  # fmt: skip


def test_of_two_records_with_one_key_only_the_last_has_children(rig):
    receipt = load(rig, [{"id": 1, "v": [1, 2, 3]}, {"id": 1, "v": [7]}, {"id": None, "v": [9]}],
                   failure_threshold=50)  # fmt: skip
    assert rows(rig, "t__v", ["_parent_id", "_index", "value"]) == [(1, 0, 7)]
    assert receipt.tables[0].books.rejected == 2


def test_what_is_an_array_only_at_times_is_one_element_elsewhere(rig):
    load(rig, [{"id": 1, "v": [1, 2]}, {"id": 2, "v": 3}, {"id": 3, "v": None}, {"id": 4}])
    assert rows(rig, "t__v", ["_parent_id", "_index", "value"]) == [(1, 0, 1), (1, 1, 2), (2, 0, 3)]


def test_keys_are_as_the_table_has_them(rig):
    shape = Shape(rename={"id": "number"}, cast={"id": "string"})
    text = json.dumps([{"id": "007", "v": [{"a": "x"}]}, {"id": "12.50", "v": [{"a": "y"}]}])
    rig.load("a.json", text, key=("number",), shape=shape, **TABLES)
    assert rows(rig, "t__v", ["_parent_number", "a"]) == [("007", "x"), ("12.50", "y")]


def test_rows_are_added_and_columns_too(rig):
    load(rig, [{"id": 1, "v": [{"a": 1}]}])
    load(rig, [{"id": 2, "v": [{"a": 2, "b": "new"}]}], "append")
    assert rows(rig, "t__v", ["_parent_id", "a", "b"]) == [(1, 1, None), (2, 2, "new")]


def test_what_cannot_become_tables_is_told(rig):
    with pytest.raises(Stopped) as stopped:
        rig.load("a.json", '[{"id": 1, "v": [1]}]', **TABLES)
    assert isinstance(stopped.value.error, Misconfigured)
    assert "need a key" in stopped.value.error.message
    with pytest.raises(Stopped) as stopped:
        load(rig, [{"id": 1, "v": [{"_index": 5}]}])
    assert isinstance(stopped.value.error, Refused)
    assert "'_index'" in stopped.value.error.message
    with pytest.raises(Stopped) as stopped:
        load(rig, [{"id": 1, "v": [1]}], shape=Shape(policy=Policy.FREEZE))
    assert "evolve" in stopped.value.error.message


def test_a_column_may_stay_json(rig):
    rig.load("a.json", '[{"id": 1, "v": [1], "w": [2]}]', key=("id",),
             more={"nested": "tables", "mapping": {"v": "json"}})  # fmt: skip
    assert [str(row[1]) for row in rows(rig, "t", ["id", "v"])] == ["[1]"]
    assert rows(rig, "t__w", ["_parent_id", "value"]) == [(1, 2)]


def test_a_failure_leaves_parents_and_tells(rig, monkeypatch):
    """A child that cannot land keeps its parents from landing."""
    load(rig, ORDERS)
    from headrace.engine import children

    def fails(*given):
        raise Refused("no room")

    monkeypatch.setattr(children, "_write_lines", fails)
    with pytest.raises(Stopped):
        load(rig, [{"id": 9, "items": [{"sku": "q"}]}])
    assert len(rows(rig, "t", ["id"])) == 3
    assert len(rows(rig, "t__items", ["sku"])) == 3


def test_an_attempt_after_a_kill_tells_of_all_tables(rig):
    (rig.folder / "a.json").write_text(json.dumps(ORDERS))
    source = "json", {"url": str(rig.folder / "a.json"), "nested": "tables"}
    asked = order(rig.folder, source, rig.end, key=("id",), fence=1)
    first = work(asked, Memory())
    assert work(asked, Memory()) == first
    assert len(first.tables) == 4
