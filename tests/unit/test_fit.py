"""What is a value and what is not, in text and in JSON."""

import json

import duckdb
import pytest

from headrace.contract.columns import Column
from headrace.contract.source import Cell
from headrace.engine import fit
from tests.engine import Rig

GOOD = {
    "integer": ["0", "-5", "+5", "007", "9223372036854775807", ""],
    "float": ["1", "1.5", "-.5", "1.", "1e3", "1E-7", "nan", "-inf", ""],
    "decimal(5,2)": ["1", "1.5", "-123.45", "0.10", "1.500", ""],
    "boolean": ["true", "FALSE", "t", "0", "1", "yes", "n", ""],
    "date": ["2020-02-29", "1969-12-31", ""],
    "time": ["10:20", "10:20:30", "10:20:30.5", ""],
    "timestamp": ["2020-01-01", "2020-01-01 10:20:30", "2020-01-01T10:20:30.123456Z", "2020-01-01T10:20:30+02:00", ""],
    "json": ["{}", "[1]", "5", '"x"', "null"],
    "string": ["", "x", " "],
}  # fmt: skip
BAD = {
    "integer": ["1.7", "1_000", "0x1F", "1e3", " 1", "1 ", "9223372036854775808", "x", "+", "١"],
    "float": ["1_0", "0x1p3", "1,5", "x", "1e400", " 1", "e5", "."],
    "decimal(5,2)": ["1.234", "1000", "1e1", "1_0", "x", " 1"],
    "boolean": ["2", "on", "tru", " true", "null"],
    "date": ["2020-2-1", "2020-02-30", "2020-01-01 10:00:00", "01.02.2020", "infinity", "epoch", " 2020-01-01"],
    "time": ["25:00", "10", "10:20:30 PM"],
    "timestamp": ["2020-01-01 25:00:00", "now", "2020-1-1", "infinity", "10:20:30"],
    "json": ["{", "x", "{'a':1}"],
}  # fmt: skip
CASES = [(t, v, True) for t, vs in GOOD.items() for v in vs] + [
    (t, v, False) for t, vs in BAD.items() for v in vs
]


@pytest.mark.parametrize(("type_", "text", "good"), CASES)
def test_text(type_, text, good):
    cell = Cell(column=Column("x", type_), sql="x")
    with duckdb.connect() as con:
        found = con.execute(f"select {fit.fits(cell, type_)} from (select ?::varchar as x)", [text])
        assert found.fetchone()[0] is good


@pytest.mark.parametrize(("type_", "text", "good"), CASES)
def test_a_cast_at_hand_gives_the_same_verdict(type_, text, good):
    cell = Cell(column=Column("x", type_), sql="x")
    with duckdb.connect() as con:
        found = con.execute(
            f"select {fit.fits(cell, type_, 'v')} from (select x, {fit.value(cell, type_)} as v"
            " from (select ?::varchar as x))",
            [text],
        )
        assert found.fetchone()[0] is good


@pytest.mark.parametrize(
    ("text", "said"),
    [("2020-01-01T10:00:00+02:00", "2020-01-01 08:00:00"), ("2020-01-01T10:00:00Z", "2020-01-01 10:00:00"),
     ("2020-01-01 10:00", "2020-01-01 10:00:00"), ("2020-01-01", "2020-01-01 00:00:00")],
)  # fmt: skip
def test_a_zone_is_heeded(text, said):
    cell = Cell(column=Column("x", "timestamp"), sql="x")
    with duckdb.connect() as con:
        found = con.execute(
            f"select ({fit.value(cell, 'timestamp')})::varchar from (select ?::varchar as x)",
            [text],
        )
        assert found.fetchone()[0] == said


@pytest.mark.parametrize(
    ("type_", "value", "good"),
    [
        ("integer", 5, True), ("integer", 1.7, False), ("integer", "5", False),
        ("integer", True, False), ("integer", None, True), ("integer", 2**63, False),
        ("float", 5, True), ("float", "5", False), ("string", "x", True), ("string", 5, False),
        ("boolean", True, True), ("boolean", 1, False), ("json", [1], True), ("json", "x", True),
        ("date", "2020-01-01", True), ("date", "2020-13-01", False), ("date", 5, False),
        ("decimal(5,2)", 1.5, True), ("decimal(5,2)", "1.50", True), ("decimal(5,2)", "x", False),
    ],
)  # fmt: skip
def test_json(type_, value, good):
    cell = Cell(
        column=Column("x", type_),
        sql="json_extract_string(doc, '/x')",
        json_type="json_type(doc, '/x')",
    )
    with duckdb.connect() as con:
        found = con.execute(
            f"select {fit.fits(cell, type_)} from (select ?::json as doc)",
            [json.dumps({"x": value})],
        )
        assert found.fetchone()[0] is good


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        (["1", "22"], "integer"), (["1", "2.5"], "float"), (["00123", "5"], "string"),
        (["+4912", "5"], "string"), (["true", "FALSE"], "boolean"), (["0", "1"], "integer"),
        (["2020-01-01"], "date"), (["2020-01-01 10:00:00"], "timestamp"), (["", None], "string"),
        (["12345678901234567890"], "string"), (["1.5", "x"], "string"), (["1", ""], "integer"),
        (["-0.5", "7"], "float"), (["1e5"], "float"), (["0.1"], "float"),
    ],
)  # fmt: skip
def test_types_are_inferred_so_that_nothing_is_lost(values, type_):
    cell = Cell(column=Column("x", "infer"), sql="x")
    with duckdb.connect() as con:
        con.execute("create table t (x varchar)")
        con.executemany("insert into t values (?)", [[value] for value in values])
        found = con.execute(fit.inference([cell, cell], {}, "t")).fetchall()
    assert sorted(place for place, *_ in found) == [0, 1]
    for _, looks, odd, filled in found:
        assert fit.type_of(looks) == type_
        assert (odd, filled) == (0, sum(value not in ("", None) for value in values))


def test_what_a_column_holds_is_counted_at_its_own_place():
    cells = [Cell(column=Column(name, "infer"), sql=name) for name in "abcd"]
    with duckdb.connect() as con:
        con.execute("create table t (a varchar, b varchar, c varchar, d varchar)")
        con.execute("insert into t values ('1', 'x', '2.5', null), ('y', '', '7', '')")
        held = {0: "integer", 2: "integer", 3: "float"}
        found = sorted(con.execute(fit.inference(cells, held, "t")).fetchall())
        con.execute("delete from t")
        assert con.execute(fit.inference(cells, held, "t")).fetchall() == []
    assert [fit.type_of(looks) for _, looks, *_ in found] == ["string", "string", "float", "string"]
    assert [(odd, filled) for *_, odd, filled in found] == [(1, 2), (0, 1), (1, 2), (0, 0)]


def test_columns_of_no_rows_are_texts_or_what_they_are_in_the_table(tmp_path):
    rig = Rig("duckdb", tmp_path, "")

    def types():
        with duckdb.connect(str(tmp_path / "o.duckdb")) as con:
            return [row[1] for row in con.execute("describe t").fetchall()]

    rig.load("a.csv", "id,n\n")
    assert types() == ["VARCHAR", "VARCHAR"]
    rig.load("a.csv", "id,n\n1,2.5\n")
    rig.load("a.csv", "id,n\n", "append")
    assert types() == ["BIGINT", "DOUBLE"]
