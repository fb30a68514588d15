"""Columns and their types, in the words that a mapping uses."""

import re
from dataclasses import dataclass
from typing import Final

from headrace.domain.errors import Invalid

SIMPLE_TYPES: Final = (
    "string", "integer", "float", "boolean", "json", "date", "time", "timestamp",
)  # fmt: skip
_DECIMAL: Final = re.compile(r"decimal\((\d{1,2}),\s*(\d{1,2})\)")
FILE: Final = "__headrace_file"  # names of our own columns in a relation
DOCUMENT: Final = "__headrace_document"
KEY: Final = "__headrace_key"
ATTRIBUTES: Final = "__headrace_attributes"
WIDER: Final = {  # the second holds every value of the first
    ("integer", "float"), ("integer", "string"), ("float", "string"), ("boolean", "string"),
    ("date", "timestamp"), ("date", "string"), ("timestamp", "string"), ("decimal", "string"),
    ("integer", "decimal"),
}  # fmt: skip
_WHOLE: Final = frozenset(
    {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}
)
NANOSECONDS: Final = "TIMESTAMP_NS"  # DuckDB's type of moments finer than ours
MISFIT: Final = "headrace: a row does not fit"  # what a scan says that ends at one (text.c too)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. `type` is one of SIMPLE_TYPES, `decimal(p,s)`, or `native:X`.

    `native:X` is DuckDB's type X of a source that has types of its own (Parquet).
    """

    name: str
    type: str


def decimal_of(type_: str) -> tuple[int, int] | None:
    """Return precision and scale of a decimal type, or None."""
    if not (found := _DECIMAL.fullmatch(type_)):
        return None
    precision, scale = int(found[1]), int(found[2])
    return (precision, scale) if 0 < precision <= 38 and scale <= precision else None


def check_type(type_: str, field: str) -> None:
    """Raise Invalid, naming `field`, unless `type_` is a type that a person may write."""
    if type_ not in SIMPLE_TYPES and not decimal_of(type_):
        raise Invalid(
            f"{type_!r} is not a column type.",
            hint=f"Use one of {', '.join(SIMPLE_TYPES)} or decimal(precision,scale).",
            field=field,
        )


def duckdb_type(type_: str) -> str:
    """Return DuckDB's name of a column type."""
    if type_.startswith("native:"):
        return type_.removeprefix("native:")
    if found := decimal_of(type_):
        return f"DECIMAL({found[0]},{found[1]})"
    return {
        "string": "VARCHAR", "integer": "BIGINT", "float": "DOUBLE", "boolean": "BOOLEAN",
        "json": "JSON", "date": "DATE", "time": "TIME", "timestamp": "TIMESTAMP",
    }[type_]  # fmt: skip


def quoted(name: str) -> str:
    """Write a name as an SQL identifier: safe for any text (DuckDB, PostgreSQL, SQLite)."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Write a text as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def ours_of(type_: str, column: str) -> tuple[str, str]:
    """Return our type for one of DuckDB's, and the SQL that makes it."""
    if type_ in _WHOLE:
        return "integer", f"{column}::bigint"
    if type_.endswith(("[]", ")")) and re.match(r"STRUCT|MAP|UNION|.*\[", type_):
        return "json", f"to_json({column})"
    if type_.startswith("DECIMAL("):
        return type_.lower(), column
    if type_ in ("UBIGINT", "HUGEINT", "UHUGEINT"):
        return "decimal(38,0)", f"{column}::decimal(38,0)"
    if type_ == "TIMESTAMP WITH TIME ZONE":
        return "timestamp", f"timezone('UTC', {column})"
    if type_.startswith("TIMESTAMP"):
        return "timestamp", f"{column}::timestamp"
    if type_ == "BLOB":
        return "string", f"base64({column})"
    same = {
        "VARCHAR": "string", "DOUBLE": "float", "BOOLEAN": "boolean", "DATE": "date",
        "TIME": "time", "JSON": "json",
    }  # fmt: skip
    if type_ in same:
        return same[type_], column
    return ("float", f"{column}::double") if type_ == "FLOAT" else ("string", f"{column}::varchar")


def text_of(type_: str, column: str) -> str:
    """Return SQL of a value's text, in which whatever our type cannot hold is still to be seen."""
    if type_ in ("HUGEINT", "UHUGEINT", NANOSECONDS):
        return f"{column}::varchar"
    return f"({ours_of(type_, column)[1]})::varchar"
