"""What becomes of columns on their way into a table: chosen, renamed, cast, hashed, computed; and
what happens when the source brings others than the table has."""

import hashlib
import hmac
import json

import psycopg
import pytest

from headrace.domain.errors import Invalid, Misconfigured, TooManyRejected
from headrace.domain.shape import Names, Policy, Shape
from headrace.engine.plan import Stopped
from headrace.engine.shaping import snake
from headrace.service.shapes import check_shape, hash_key
from tests.engine import MYSQL, Rig

PEOPLE = (
    "Id,Full Name,email,card,price,qty\n"
    '1,Ann Ä,ann@x.org,4111111111111111,2.5,3\n2,Bob,,42,1.25,0\n3,"Cy, D",cy@x.org,1234,8,2\n'
)
KEY = hash_key("a secret of sixteen", "default")


@pytest.fixture(params=("duckdb", "postgresql", "parquet", "sqlite", "sqlalchemy", MYSQL))
def rig(request, tmp_path, fresh):
    return Rig(request.param, tmp_path, fresh(request.param))


@pytest.fixture(params=("duckdb", "postgresql", "sqlite", "sqlalchemy", MYSQL))
def keyed(request, tmp_path, fresh):
    return Rig(request.param, tmp_path, fresh(request.param))


def rejected(rig):
    """Return rule, record and column of what the last load has rejected."""
    newest = max((rig.folder / "rejects").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    kept = [json.loads(line) for line in newest.read_text().splitlines()]
    return [(one["rule"], one["record"], one["column"]) for one in kept]


def test_columns_are_chosen_renamed_and_ordered(rig):
    shape = Shape(select=("qty", "Id", "Full Name"), rename={"Id": "number"}, names=Names.SNAKE)
    rig.load("a.csv", PEOPLE, shape=shape)
    assert [list(row) for row in rig.rows()] == [["qty", "number", "full_name"]] * 3
    assert {row["number"]: row["full_name"] for row in rig.rows()}[3] == "Cy, D"


def test_columns_are_dropped(rig):
    rig.load("a.csv", PEOPLE, shape=Shape(drop=("email", "card")))
    assert list(rig.rows()[0]) == ["Id", "Full Name", "price", "qty"]


def test_values_are_hashed_with_a_key_and_masked(rig):
    shape = Shape(select=("Id", "email", "card"), hash=("email",), mask={"card": 4})
    rig.load("a.csv", PEOPLE, shape=shape, hash_key=KEY)
    found = {row["Id"]: row for row in rig.rows()}
    assert found[1]["email"] == hmac.digest(KEY, b"ann@x.org", hashlib.sha256).hex()
    assert found[2]["email"] is None
    assert [found[n]["card"] for n in (1, 2, 3)] == ["************1111", "**", "****"]


def test_a_long_key_hashes_as_the_standard_says(tmp_path):
    rig = Rig("duckdb", tmp_path, "")
    key = b"k" * 100
    rig.load("a.csv", "name\nÄnne\n", shape=Shape(hash=("name",)), hash_key=key)
    assert rig.rows() == [{"name": hmac.digest(key, "Änne".encode(), hashlib.sha256).hex()}]


def test_without_a_key_nothing_is_hashed(tmp_path):
    rig = Rig("duckdb", tmp_path, "")
    with pytest.raises(Stopped, match="there is none") as stopped:
        rig.load("a.csv", PEOPLE, shape=Shape(hash=("email",)))
    assert stopped.value.error.field == "columns.hash"


def test_columns_are_computed(rig):
    shape = Shape(
        select=("Id", "price"),
        compute={
            "total": "price * qty",
            "PRICE": "price::decimal(8,2) + 0.5",
            "who": "upper(split_part(\"Full Name\", ' ', 1)) || case when qty > 0 then '!' else '' end",
            "parts": "list_transform([Id, qty], lambda n: n + 1)",
        },
    )
    rig.load("a.csv", PEOPLE, shape=shape)
    found = {row["Id"]: row for row in rig.rows()}
    assert list(found[1]) == ["Id", "PRICE", "total", "who", "parts"]
    assert [float(found[n]["total"]) for n in (1, 2, 3)] == [7.5, 0, 16]
    assert [str(found[n]["PRICE"]) for n in (1, 2, 3)] == ["3.00", "1.75", "8.50"]
    assert [found[n]["who"] for n in (1, 2, 3)] == ["ANN!", "BOB", "CY,!"]
    parts = found[3]["parts"]
    assert (json.loads(parts) if isinstance(parts, str) else parts) == [4, 3]


def test_a_row_that_cannot_be_computed_is_rejected_and_no_other(rig):
    text = "id,day\n" + "".join(f"{n},2024-01-{n % 40:02}\n" for n in range(1, 200))
    shape = Shape(cast={"day": "string"}, compute={"when": "day::date"})
    bad = [n for n in range(1, 200) if not 1 <= n % 40 <= 31]
    receipt = rig.load("a.csv", text, shape=shape, failure_threshold=100)
    assert receipt.books.rejected == len(bad)
    assert [(record, rule) for rule, record, _ in rejected(rig)] == [(n, "expression") for n in bad]
    assert sorted(row["id"] for row in rig.rows()) == sorted({*range(1, 200)} - {*bad})


@pytest.mark.parametrize(
    "text",
    [
        "(select 1)", "price from t", "1) from (select 1", "sum(price)", "row_number() over ()",
        "getenv('HOME')", "getvariable('headrace_outer')", "current_setting('threads')", "random()",
        "error('x')", "nextval('x')", "read_text('/etc/passwd')", "*", "columns('p.*')", "$1",
        "price; drop table t", "price as b, 1", "nothing_there", "pg_catalog.pg_size_pretty(1)",
        "system.main.getvariable('a')", "", "x" * 20_000, "exists (from t)", "unnest([1,2])",
        "1 union select 2", "c0", "v0", "__headrace_file", "price + ", "query('select 1')",
        "price in (select 1)", "alias(price) over ()", "sleep_ms(1)", "geomean(price)", "list_sum(price)",
        "regexp_split_to_table(\"Full Name\", ' ')", "json_group_array(price)",
    ],
)  # fmt: skip
def test_an_expression_is_one_value_of_the_records_own_columns(tmp_path, text):
    rig = Rig("duckdb", tmp_path, "")
    with pytest.raises((Stopped, Misconfigured)) as stopped:
        rig.load("a.csv", PEOPLE, shape=Shape(compute={"x": text}))
    error = stopped.value.error if isinstance(stopped.value, Stopped) else stopped.value
    assert isinstance(error, Misconfigured)
    assert error.field == "columns.compute.x"


def test_while_expressions_run_nothing_but_the_runs_own_files_can_be_read(tmp_path, monkeypatch):
    """Even if the look at an expression missed something, DuckDB itself would refuse."""
    from headrace.engine import expressions

    monkeypatch.setattr(expressions, "type_of", lambda name, text, types: ("string", text))
    (tmp_path / "secret.txt").write_text("secret")
    rig = Rig("duckdb", tmp_path, "")
    text = f"(select content from read_text('{tmp_path}/secret.txt'))"
    with pytest.raises(Exception, match="disabled by configuration"):
        rig.load("a.csv", PEOPLE, shape=Shape(compute={"x": text}))


@pytest.mark.parametrize(
    ("shape", "field"),
    [
        (Shape(select=("nope",)), "columns.select"), (Shape(drop=("nope",)), "columns.drop"),
        (Shape(rename={"nope": "a"}), "columns.rename"), (Shape(mask={"nope": 1}), "columns.mask"),
        (Shape(cast={"nope": "date"}), "columns.cast"), (Shape(hash=("nope",)), "columns.hash"),
        (Shape(rename={"Id": "EMAIL"}), "columns.rename"),
    ],
)  # fmt: skip
def test_what_the_source_cannot_give_is_refused_by_name(tmp_path, shape, field):
    with pytest.raises(Stopped) as stopped:
        Rig("duckdb", tmp_path, "").load("a.csv", PEOPLE, shape=shape, hash_key=KEY)
    assert stopped.value.error.field == field
    assert stopped.value.error.hint


@pytest.mark.parametrize(
    ("shape", "field"),
    [
        (Shape(cast={"a": "number"}), "columns.cast.a"), (Shape(mask={"a": -1}), "columns.mask.a"),
        (Shape(rename={"a": " "}), "columns.rename.a"),
        (Shape(compute={"__headrace_file": "1"}), "columns.compute.__headrace_file"),
        (Shape(select=("a",), drop=("a",)), "columns.drop"),
        (Shape(hash=("a",), mask={"a": 1}), "columns.mask"),
        (Shape(compute={"a": "(select 1)"}), "columns.compute.a"),
    ],
)  # fmt: skip
def test_a_shape_that_cannot_be_is_refused_before_it_is_kept(shape, field):
    with pytest.raises((Invalid, Misconfigured)) as error:
        check_shape(shape)
    assert error.value.field == field


@pytest.mark.parametrize(
    ("name", "normal"),
    [
        ("Full Name", "full_name"), ("userID", "user_id"), ("HTTPServer", "http_server"),
        ("Preis (€)", "preis"), ("Straße-Nr.", "straße_nr"), ("Ünïcode", "unicode"),
        ("2nd", "_2nd"), ("already_snake", "already_snake"), ("%", "_"), ("a__b", "a_b"),
    ],
)  # fmt: skip
def test_names_are_normalised(name, normal):
    assert snake(name) == normal
    assert snake(normal) == normal


def test_a_cast_takes_the_text_of_any_value_and_rejects_what_does_not_fit(rig):
    rows = [{"id": 1, "n": "5"}, {"id": 2, "n": 6}, {"id": 3, "n": "x"}, {"id": 4, "n": 1.5}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    rig.load("a.json", text, shape=Shape(cast={"n": "integer"}), failure_threshold=100)
    assert [(row["id"], row["n"]) for row in rig.rows()] == [(1, 5), (2, 6)]
    assert rejected(rig) == [("bad_value", 3, "n"), ("bad_value", 4, "n")]


def test_keys_are_the_tables_columns(keyed):
    shape = Shape(rename={"Id": "number"}, hash=("email",))
    keyed.load("a.csv", PEOPLE, "save", ("number",), shape=shape, hash_key=KEY)
    text = PEOPLE.replace("Bob", "Bert") + ",Nobody,,,1,1\n"
    receipt = keyed.load(
        "a.csv", text, "save", ("number",), shape=shape, hash_key=KEY, failure_threshold=50
    )
    assert (receipt.books.updated, receipt.books.inserted, receipt.books.rejected) == (3, 0, 1)
    assert rejected(keyed) == [("missing_key", 4, None)]
    assert {row["number"]: row["Full Name"] for row in keyed.rows()}[2] == "Bert"


def test_a_hashed_or_computed_column_can_be_the_key(keyed):
    shape = Shape(
        select=("email", "qty"), hash=("email",),
        compute={"domain": "nullif(split_part(email, '@', 2), '')"},
    )  # fmt: skip
    receipt = keyed.load(
        "a.csv", PEOPLE, "save", ("domain",), shape=shape, hash_key=KEY, failure_threshold=50
    )
    assert rejected(keyed) == [("missing_key", 2, None), ("duplicate_key", 1, None)]
    assert receipt.books.duplicates == 1
    assert [row["qty"] for row in keyed.rows()] == [2]


def test_partial_updates_know_renamed_members(keyed):
    first = '{"id":1,"aB":"x","n":1}\n{"id":2,"aB":"y","n":2}\n'
    shape = Shape(names=Names.SNAKE, compute={"twice": "n * 2"})
    keyed.load("a.json", first, "partial", ("id",), shape=shape)
    keyed.load("a.json", '{"id":1,"aB":null}\n{"id":2,"n":5}\n', "partial", ("id",), shape=Shape(
        names=Names.SNAKE))  # fmt: skip
    assert keyed.rows() == [
        {"id": 1, "a_b": None, "n": 1, "twice": 2}, {"id": 2, "a_b": "y", "n": 5, "twice": 4},
    ]  # fmt: skip


def test_files_with_other_columns_are_shaped_as_one_table(rig):
    (rig.folder / "in").mkdir()
    (rig.folder / "in/1.csv").write_text("id,a,b\n1,5,1\n")
    (rig.folder / "in/2.csv").write_text("id,a\n2,7\n")
    shape = Shape(drop=("b",), compute={"sum": "coalesce(b, 10) + a"})
    rig.load("in/*.csv", None, shape=shape)
    assert rig.rows() == [{"id": 1, "a": 5, "sum": 6}, {"id": 2, "a": 7, "sum": 17}]


# What the table has, and what comes.


def test_a_frozen_table_rejects_rows_with_more_than_it_has(rig):
    rig.load("a.csv", "id,n\n1,5\n")
    receipt = rig.load(
        "b.csv", "id,n,more\n2,6,\n3,7,x\n", "append", shape=Shape(policy=Policy.FREEZE),
        failure_threshold=50,
    )  # fmt: skip
    assert rig.rows() == [{"id": 1, "n": 5}, {"id": 2, "n": 6}]
    assert receipt.books.rejected == 1
    assert rejected(rig) == [("unknown_column", 2, None)]


def test_a_frozen_table_keeps_its_types(rig):
    rig.load("a.csv", "id,n\n1,5\n")
    with pytest.raises(Stopped) as stopped:
        rig.load("b.csv", "id,n\n2,1.5\n3,x\n", "append", shape=Shape(policy=Policy.FREEZE))
    assert isinstance(stopped.value.error, TooManyRejected)
    rig.load(
        "b.csv", "id,n\n2,1.5\n3,x\n4,7\n", "append", shape=Shape(policy=Policy.FREEZE),
        failure_threshold=90,
    )  # fmt: skip
    assert rig.rows() == [{"id": 1, "n": 5}, {"id": 4, "n": 7}]


def test_a_frozen_table_is_frozen_for_a_replace_too(rig):
    rig.load("a.csv", "id,n\n1,5\n")
    rig.load(
        "b.csv", "id,n,more\n2,6,\n3,x,\n", shape=Shape(policy=Policy.FREEZE), failure_threshold=50
    )
    assert rig.rows() == [{"id": 2, "n": 6}]


@pytest.mark.parametrize("policy", [Policy.FREEZE, Policy.DISCARD])
def test_a_replace_keeps_the_columns_of_a_frozen_table(rig, policy):
    rig.load("a.csv", "id,n,day\n1,5,2024-01-01\n")
    receipt = rig.load("b.csv", "id,n\n2,6\n3,7\n", shape=Shape(policy=policy))
    assert receipt.books.replaced_out == 1
    assert [list(row) for row in rig.rows()] == [["id", "n", "day"]] * 2
    assert [row["day"] for row in rig.rows()] == [None, None]
    rig.load("c.csv", "id,day\n4,2024-02-29\n", "append", shape=Shape(policy=policy))
    assert str(rig.rows()[-1]["day"])[:10] == "2024-02-29"


def test_a_replace_keeps_the_types_of_a_frozen_table(tmp_path, fresh_database):
    rig = Rig("postgresql", tmp_path, fresh_database)
    with psycopg.connect(fresh_database, autocommit=True) as con:
        con.execute("create table t (id smallint, who varchar(9))")
        con.execute("insert into t values (1, 'a')")
        rig.load("b.csv", "id,who\n2,b\n", shape=Shape(policy=Policy.FREEZE))
        found = con.execute("select id, who, pg_typeof(id)::text, pg_typeof(who)::text from t")
        assert found.fetchall() == [(2, "b", "smallint", "character varying")]


def test_a_frozen_table_takes_no_computed_column(rig):
    rig.load("a.csv", "id,n\n1,5\n")
    with pytest.raises(Stopped, match="is frozen"):
        rig.load("a.csv", "id,n\n1,5\n", "append", shape=Shape(
            policy=Policy.FREEZE, compute={"m": "n + 1"}))  # fmt: skip


def test_the_first_load_of_a_frozen_table_makes_it(rig):
    rig.load("a.csv", "id,n\n1,5\n", shape=Shape(policy=Policy.FREEZE))
    assert rig.rows() == [{"id": 1, "n": 5}]


def test_what_the_table_lacks_is_discarded(rig):
    rig.load("a.csv", "id,n\n1,5\n")
    rig.load("b.csv", "id,n,more\n2,6,x\n", "append", shape=Shape(policy=Policy.DISCARD))
    assert rig.rows() == [{"id": 1, "n": 5}, {"id": 2, "n": 6}]


def test_unknown_members_of_json_follow_the_policy(rig):
    rig.load("a.json", '{"id":1}\n')
    more = '{"id":2,"x":null}\n{"id":3,"x":{"y":1}}\n'
    rig.load("b.json", more, "append", shape=Shape(policy=Policy.FREEZE), failure_threshold=50)
    assert rig.rows() == [{"id": 1}, {"id": 2}]
    rig.load("b.json", more, "append", shape=Shape(policy=Policy.DISCARD))
    assert [row["id"] for row in rig.rows()] == [1, 2, 2, 3]


def test_a_table_evolves_and_keeps_its_old_rows(rig):
    rig.load("a.csv", "id,n,d\n1,5,2024-01-01\n")
    rig.load("b.csv", "id,n,d,more\n2,1.5,2024-01-01 10:30:00,x\n", "append")
    first, second = rig.rows()
    assert (first["n"], first["more"], str(first["d"])[:10]) == (5, None, "2024-01-01")
    assert (second["n"], second["more"]) == (1.5, "x")


def test_one_odd_value_does_not_make_text_of_a_column(rig):
    rig.load("a.csv", "id,n\n1,5\n")
    receipt = rig.load("b.csv", "id,n\n2,6\n3,x\n4,8\n", "append", failure_threshold=50)
    assert receipt.books.rejected == 1
    assert [row["n"] for row in rig.rows()] == [5, 6, 8]


def test_a_column_that_has_become_text_is_widened(rig):
    rig.load("a.csv", "id,n\n1,5\n")
    rig.load("b.csv", "id,n\n2,a\n3,b\n4,8\n", "append")
    assert [str(row["n"]) for row in rig.rows()] == ["5", "a", "b", "8"]


def test_leading_zeros_are_never_lost(rig):
    rig.load("a.csv", "id,code\n1,12345\n")
    rig.load("b.csv", "id,code\n2,00789\n", "append")
    assert [str(row["code"]) for row in rig.rows()] == ["12345", "00789"]


def test_an_empty_column_fits_any_type(rig):
    rig.load("a.csv", "id,n\n1,5\n")
    rig.load("b.csv", "id,n\n2,\n", "append")
    assert [row["n"] for row in rig.rows()] == [5, None]


def test_a_decimal_column_takes_what_looks_like_a_float(rig):
    rig.load("a.csv", "id,n\n1,5.25\n", more={"mapping": {"n": "decimal(10,2)"}})
    rig.load("b.csv", "id,n\n2,1.5\n3,7\n", "append")
    assert [str(row["n"]) for row in rig.rows()] == ["5.25", "1.50", "7.00"]


# Nested JSON.

NESTED = (
    '{"id":1,"user":{"name":"a","geo":{"lat":1.5,"n":2}},"tags":["x"],"odd":{"a":1}}\n'
    '{"id":2,"user":{"name":"b","more":null},"odd":5}\n{"id":3,"user":null}\n'
)


def test_objects_become_a_column_a_member(rig):
    rig.load("a.json", NESTED, more={"nested": "columns"})
    rows = rig.rows()
    assert list(rows[0]) == ["id", "user__name", "user__geo__lat", "user__geo__n", "user__more",
                             "tags", "odd"]  # fmt: skip
    assert [(row["user__name"], row["user__geo__lat"], row["user__geo__n"]) for row in rows] == [
        ("a", 1.5, 2), ("b", None, None), (None, None, None),
    ]  # fmt: skip


def test_partial_updates_of_nested_members(keyed):
    keyed.load("a.json", NESTED, "save", ("id",), {"nested": "columns"})
    keyed.load("b.json", '{"id":1,"user":{"name":"z"}}\n', "partial", ("id",),
               {"nested": "columns"})  # fmt: skip
    first = keyed.rows()[0]
    assert (first["user__name"], first["user__geo__lat"]) == ("z", 1.5)


def test_members_that_would_be_the_same_column_are_refused(tmp_path):
    text = '{"a":{"b":1},"a__b":2}\n'
    with pytest.raises(Stopped, match=r"a\.b and a__b|a__b and a\.b"):
        Rig("duckdb", tmp_path, "").load("a.json", text, more={"nested": "columns"})


@pytest.mark.parametrize(
    "shape", [Shape(drop=("email",)), Shape(names=Names.SNAKE), Shape(policy=Policy.FREEZE)]
)
def test_an_index_takes_whole_records(tmp_path, shape):
    with pytest.raises(Stopped, match="transformation"):
        Rig("search", tmp_path, "").load("a.csv", PEOPLE, shape=shape)
