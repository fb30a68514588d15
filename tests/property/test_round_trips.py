"""Every type through every source into every destination: what is read back is what was there."""

import contextlib
import csv
import datetime as dt
import itertools
import json
import os
import sqlite3
import tempfile
from decimal import Decimal
from pathlib import Path
from urllib.parse import unquote, urlsplit

import duckdb
import fastavro
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pymysql
import pytest
import xlsxwriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.assembly import read_table, work
from headrace.domain.verification import Verify
from headrace.engine.plan import Stopped
from tests.engine import Memory, order
from tests.mariadb import mariadb
from tests.postgres import postgres

pytestmark = pytest.mark.xdist_group("databases")
EXAMPLES = int(os.environ.get("HEADRACE_EXAMPLES", "4"))  # of each pair
WHOLE = st.integers(-(2**63), 2**63 - 1)
DECIMALS = st.integers(-(10**28) + 1, 10**28 - 1).map(lambda n: Decimal(n).scaleb(-10))
TEXTS = st.one_of(
    st.sampled_from(["", " ", "NULL", "null", "\\N", "\\", "'", '"', 'a"b,c', "l1\nl2", "l1\r\nl2", "\r", "\t", "ü😀", "0", "007", "true", "{}", "é́", "﷽"]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
)  # fmt: skip
FLOATS = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)
DAYS = st.dates(dt.date(1000, 1, 1), dt.date(9999, 12, 31))
MOMENTS = st.datetimes(dt.datetime(1000, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999_999))
NESTED = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**53), 2**53), TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text("abc", max_size=2), inner, max_size=3)
    ),
    max_leaves=4,
).filter(lambda value: isinstance(value, dict | list))
VALUES = {
    "i": WHOLE, "d": DECIMALS, "f": FLOATS, "b": st.booleans(), "s": TEXTS, "day": DAYS,
    "t": MOMENTS, "j": NESTED,
}  # fmt: skip
TYPES = {
    "i": "integer", "d": "decimal(38,10)", "f": "float", "b": "boolean", "s": "string",
    "day": "date", "t": "timestamp", "j": "json",
}  # fmt: skip
SQL = {
    "postgresql": ("bigint", "numeric(38,10)", "double precision", "boolean", "text", "date", "timestamp", "jsonb"),
    "mysql": ("bigint", "decimal(38,10)", "double", None, "text character set utf8mb4", "date", "datetime(6)", "json"),
    "duckdb": ("bigint", "decimal(38,10)", "double", "boolean", "varchar", "date", "timestamp", "json"),
    # Its decimals are doubles, so they are no decimals.
    "sqlite": ("integer", None, "double", "boolean", "text", "date", "datetime", "json"),
}  # fmt: skip
SQL["sqlalchemy"] = SQL["postgresql"]
SOURCES = (
    "csv",
    "json",
    "parquet",
    "avro",
    "excel",
    "postgresql",
    "mysql",
    "sqlite",
    "duckdb",
    "sqlalchemy",
)
ENDS = ("duckdb", "postgresql", "parquet", "sqlite", "mysql", "sqlalchemy", "search")
VERIFIES = ("duckdb", "postgresql", "parquet", "mysql")
RARE = ("excel", "sqlalchemy", "search")  # fewer examples of these: most of their way is others'


DEFAULT = {
    "i": 0, "d": Decimal(0), "f": 0.0, "b": False, "s": "", "day": dt.date(2000, 1, 1),
    "t": dt.datetime(2000, 1, 1), "j": {},
}  # fmt: skip
URLS = {}  # of the servers


def rows_of(names):
    """Rows of these columns, each perhaps empty."""
    return st.lists(
        st.tuples(*(st.one_of(st.none(), VALUES[name]) for name in names)), min_size=1, max_size=8
    )


def dumped(value):
    return json.dumps(value, ensure_ascii=False)


def json_value(value):
    if isinstance(value, Decimal):
        return f"{value:f}"  # 1E-10 is no decimal
    return str(value) if isinstance(value, dt.date) else value


def csv_cell(value):
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value) if isinstance(value, float) else json_value(value)
    text = text if isinstance(text, str) else str(text)
    if isinstance(value, dict | list):
        text = dumped(value)
    return '"' + text.replace('"', '""') + '"'


def write_csv(folder, names, rows, urls):
    path = folder / "x.csv"
    with path.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out, lineterminator="\n").writerow(["n", *names])
        for number, row in enumerate(rows):
            out.write(",".join([str(number), *map(csv_cell, row)]) + "\n")
    return "csv", {"url": str(path), "mapping": {name: TYPES[name] for name in names}}


def write_json(folder, names, rows, urls):
    path = folder / "x.json"
    told = [{"n": number} | dict(zip(names, map(json_value, row), strict=True))
            for number, row in enumerate(rows)]  # fmt: skip
    path.write_text("".join(dumped(one) + "\n" for one in told), encoding="utf-8")
    return "json", {"url": str(path), "mapping": {name: TYPES[name] for name in names}}


ARROW = {
    "i": pa.int64(), "d": pa.decimal128(38, 10), "f": pa.float64(), "b": pa.bool_(),
    "s": pa.string(), "day": pa.date32(), "t": pa.timestamp("us"), "j": pa.string(),
}  # fmt: skip


def write_parquet(folder, names, rows, urls):
    columns = {"n": pa.array(range(len(rows)), pa.int64())}
    for place, name in enumerate(names):
        values = [dumped(row[place]) if name == "j" and row[place] is not None else row[place] for row in rows]  # fmt: skip
        columns[name] = pa.array(values, ARROW[name])
    pq.write_table(pa.table(columns), folder / "x.parquet")
    return "parquet", {"url": str(folder / "x.parquet"), "mapping": {"j": "json"}}


AVRO = {
    "i": "long", "f": "double", "b": "boolean", "s": "string", "j": "string",
    "d": {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 10},
    "day": {"type": "int", "logicalType": "date"},
    "t": {"type": "long", "logicalType": "local-timestamp-micros"},
}  # fmt: skip


def write_avro(folder, names, rows, urls):
    fields = [{"name": "n", "type": "long"}]
    fields += [{"name": name, "type": ["null", AVRO[name]]} for name in names]
    told = [
        {"n": number} | {name: dumped(value) if name == "j" and value is not None else value
                         for name, value in zip(names, row, strict=True)}
        for number, row in enumerate(rows)
    ]  # fmt: skip
    with (folder / "x.avro").open("wb") as out:
        fastavro.writer(out, {"type": "record", "name": "r", "fields": fields}, told)
    return "avro", {"url": str(folder / "x.avro"), "mapping": {"j": "json"}}


def write_excel(folder, names, rows, urls):
    """Numbers and moments as texts: a workbook's own are doubles and milliseconds."""
    book = xlsxwriter.Workbook(folder / "x.xlsx", {"strings_to_numbers": False})
    day = book.add_format({"num_format": "yyyy-mm-dd"})
    sheet = book.add_worksheet()
    sheet.write_row(0, 0, ["n", *names])
    for y, row in enumerate(rows, 1):
        sheet.write_number(y, 0, y - 1)
        for x, value in enumerate(row, 1):
            if isinstance(value, bool):
                sheet.write_boolean(y, x, value)
            elif type(value) is dt.date and value.year > 1900:
                sheet.write_datetime(y, x, dt.datetime.combine(value, dt.time()), day)
            elif value is not None:
                text = dumped(value) if isinstance(value, dict | list) else json_value(value)
                sheet.write_string(y, x, repr(text) if isinstance(text, float) else str(text))
    book.close()
    return "excel", {
        "url": str(folder / "x.xlsx"),
        "mapping": {name: TYPES[name] for name in names},
    }


def sql_value(value, kind):
    if isinstance(value, dict | list):
        return dumped(value)
    if kind == "sqlite" and isinstance(value, dt.date):
        return str(value)
    return value


def write_sql(kind):
    def write(folder, names, rows, urls):
        types = dict(zip(VALUES, SQL[kind], strict=True))
        defined = ", ".join(f"{name} {types[name]}" for name in names)
        mark = "?" if kind in ("sqlite", "duckdb") else "%s"
        marks = ", ".join([mark] * (len(names) + 1))
        values = [[number, *(sql_value(value, kind) for value in row)] for number, row in enumerate(rows)]  # fmt: skip
        with contextlib.closing(connected(kind, folder, urls)) as con:
            cursor = con.cursor()
            cursor.execute("drop table if exists x")
            cursor.execute(f"create table x (n int, {defined})")
            cursor.executemany(f"insert into x values ({marks})", values)
            con.commit()
        where = {"url": urls[kind]} if kind in urls else {"path": str(folder / f"x.{kind}")}
        if kind == "sqlalchemy":
            where["url"] = driven(urls)
        return kind, where | {"table": "x"}

    return write


def connected(kind, folder, urls):
    if kind == "mysql":
        parts = urlsplit(urls[kind])
        return pymysql.connect(
            host="127.0.0.1", port=parts.port, user=parts.username, charset="utf8mb4",
            password=unquote(parts.password).encode(), database=parts.path[1:],
        )  # fmt: skip
    if kind in ("postgresql", "sqlalchemy"):
        return psycopg.connect(urls[kind])
    return {"sqlite": sqlite3, "duckdb": duckdb}[kind].connect(str(folder / f"x.{kind}"))


def driven(urls):
    return urls["sqlalchemy"].replace("://", "+psycopg://", 1)


WRITERS = {
    "csv": write_csv, "json": write_json, "parquet": write_parquet, "avro": write_avro,
    "excel": write_excel,
} | {kind: write_sql(kind) for kind in SQL}  # fmt: skip


def read_back(kind, folder, names, urls):
    query = f"select {', '.join(names)} from {{}} order by n"
    if kind == "mysql":
        with contextlib.closing(connected("mysql", folder, urls)) as con:
            cursor = con.cursor()
            cursor.execute(query.format("y"))
            return [
                tuple(
                    bool(cell) if name == "b" and cell is not None else cell
                    for name, cell in zip(names, row, strict=True)
                )
                for row in cursor.fetchall()
            ]
    if kind == "sqlite":
        with contextlib.closing(sqlite3.connect(folder / "y.sqlite")) as con:
            return [
                tuple(
                    FROM_SQLITE.get(name, lambda cell: cell)(cell) if cell is not None else None
                    for name, cell in zip(names, row, strict=True)
                )
                for row in con.execute(query.format("y"))
            ]
    if kind in ("postgresql", "sqlalchemy"):
        with psycopg.connect(urls[kind]) as con:
            schema = "landed" if kind == "postgresql" else "public"
            return con.execute(query.format(f"{schema}.y")).fetchall()
    if kind == "search":
        told = order(folder, ("csv", {}), ("search", {"indexName": "y"}))
        kept = sorted(read_table(told, "y", 1000, None).rows, key=lambda row: row["n"])
        return [
            tuple(
                None if row.get(name) is None else FROM_INDEX.get(name, same_as_it_is)(row[name])
                for name in names
            )
            for row in kept
        ]
    if kind == "duckdb":
        with duckdb.connect(str(folder / "y.duckdb"), read_only=True) as con:
            return con.execute(query.format("y")).fetchall()
    with duckdb.connect() as con:
        return con.execute(query.format(f"'{folder}/lake/y/*/*.parquet'")).fetchall()


FROM_SQLITE = {
    "b": bool, "d": Decimal, "day": dt.date.fromisoformat, "t": dt.datetime.fromisoformat,
}  # fmt: skip


def same_as_it_is(value):
    return value


FROM_INDEX = {
    "d": lambda value: Decimal(str(value)), "f": float, "day": dt.date.fromisoformat,
    "t": dt.datetime.fromisoformat,
}  # fmt: skip


def same(name, value):
    """Return a value so that equal ones are equal."""
    if value is None:
        return None
    if name == "j":
        read = json.loads(value) if isinstance(value, str) else value
        # In a column of JSON a record's null is the JSON null.
        return None if read is None else json.dumps(read, sort_keys=True)
    return repr(value) if name == "f" and value else value


def WORKBOOKS(rows):  # noqa: N802  # of rows what a workbook can hold
    """An empty text is an empty cell there, and what XML cannot say is nowhere."""

    def kept(value):
        if not isinstance(value, str):
            return value
        return "".join(sign for sign in value if sign == "\n" or sign >= " ") or None

    return [tuple(map(kept, row)) for row in rows]


@pytest.fixture(scope="module")
def urls():
    with postgres() as url, mariadb() as other:
        with psycopg.connect(url, autocommit=True) as con:
            con.execute("create schema landed")
        URLS.update(postgresql=url, mysql=other, sqlalchemy=url)
        yield URLS


@pytest.mark.parametrize(("source", "end"), list(itertools.product(SOURCES, ENDS)))
def test_what_is_read_back_is_what_was_there(urls, source, end):
    types = dict(zip(VALUES, SQL.get(source, SQL["duckdb"]), strict=True))
    names = [name for name in VALUES if types[name] is not None]

    @settings(
        max_examples=max(EXAMPLES // 2, 1) if {source, end} & set(RARE) else EXAMPLES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(rows_of(names).map(WORKBOOKS if source == "excel" else same_as_it_is))
    def round_trip(rows):
        with tempfile.TemporaryDirectory() as at:
            folder = Path(at)
            given_ = WRITERS[source](folder, names, rows, urls)
            to = {
                "duckdb": ("duckdb", {"path": str(folder / "y.duckdb")}),
                "postgresql": ("postgresql", {"url": urls["postgresql"], "schema": "landed"}),
                "parquet": ("parquet", {"path": str(folder / "lake")}),
                "sqlite": ("sqlite", {"path": str(folder / "y.sqlite")}),
                "mysql": ("mysql", {"url": urls["mysql"]}),
                "sqlalchemy": ("sqlalchemy", {"url": driven(urls)}),
                "search": ("search", {"indexName": "y"}),
            }[end]
            receipt = work(order(folder, given_, to, table="y"), Memory())
            assert receipt.books.inserted == len(rows)
            found = read_back(end, folder, names, urls)
            assert [
                [same(name, value) for name, value in zip(names, row, strict=True)] for row in found
            ] == [
                [same(name, value) for name, value in zip(names, row, strict=True)] for row in rows
            ]
            if end in VERIFIES:
                judge_verified(source, folder, given_, to, found, rows, names)

    round_trip()


def judge_verified(source, folder, given_, to, found, rows, names):
    """What was loaded is verified as the same; of other rows it is said that they differ."""
    for key in ((), ("n",)):
        asked = order(folder, given_, to, table="y", key=key, action="append", verify=Verify())
        told = work(asked, Memory()).verification
        assert told["same"]
        assert told["sourceRows"] == told["tableRows"] == len(rows)
        assert told["columns"] + len(told["leftOut"]) == len(names) + 1
        assert set(told["leftOut"]) <= ({"j", "f"} if to[0] == "mysql" else {"j"})
        # Only what is no table, or has types that no SQL tells alike, is read.
        asked_there = source in ("postgresql", "duckdb") and not told["leftOut"]
        if asked_there and (source == to[0] or (to[0] != "postgresql" and source == "duckdb")):
            assert told["pushed"]
    others = [*rows[:-1], tuple(None if value is not None else DEFAULT[name] for name, value in zip(names, rows[-1], strict=True))]  # fmt: skip
    WRITERS[source](folder, names, others, URLS)
    asked = order(folder, given_, to, table="y", key=("n",), action="append", verify=Verify())
    with pytest.raises(Stopped) as stopped:
        work(asked, Memory())
    told = stopped.value.receipt.verification
    assert (told["missing"], told["extra"], told["different"]) == (0, 0, 1)
    assert told["examples"] == [{"what": "different", "key": {"n": str(len(rows) - 1)}}]
