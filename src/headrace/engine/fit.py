"""Fitting: what a cell's text must look like to be a value of its column, in SQL.

A cast is not a check: DuckDB makes 2 of `1.7` and 1000 of `1_000`. So a value is taken only if the
text is what the value would be written as, or matches the type's own grammar. In JSON only the
JSON type counts, and nothing is coerced.
"""

from collections.abc import Mapping, Sequence
from enum import IntFlag, auto
from typing import Final

from headrace.contract.columns import Column, decimal_of, duckdb_type
from headrace.contract.source import Cell

_BOOLEANS: Final = "('true','false','t','f','yes','no','y','n','1','0')"
_ZONE: Final = "(Z|[+-][0-9]{2}(:?[0-9]{2})?)"
_FLOAT: Final = "[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?"
_NON_FINITE: Final = "[+-]?(nan|inf|infinity)"
_WHOLE_JSON: Final = "('BIGINT','UBIGINT')"


class Look(IntFlag):
    """What a text looks like. A long is an integer that a column of floats would not hold."""

    BOOLEAN = auto()
    INTEGER = auto()
    LONG = auto()
    FLOAT = auto()
    DATE = auto()
    TIMESTAMP = auto()
    STRING = auto()


_LOOKS_OF: Final[Mapping[str, Look]] = {  # a type, and the looks that its values may have
    "boolean": Look.BOOLEAN, "integer": Look.INTEGER | Look.LONG,
    "float": Look.INTEGER | Look.FLOAT, "date": Look.DATE, "timestamp": Look.TIMESTAMP,
}  # fmt: skip

NOUNS: Final[Mapping[str, str]] = {
    "integer": "an integer", "float": "a number", "boolean": "a boolean", "json": "JSON",
    "date": "a date (YYYY-MM-DD)", "time": "a time (HH:MM:SS)", "string": "a text",
    "timestamp": "a timestamp (ISO 8601)", "key": "a text or an integer",
}  # fmt: skip


def noun(type_: str) -> str:
    """Return how people call a value of a type."""
    if found := decimal_of(type_):
        return f"a decimal of at most {found[0]} digits, {found[1]} of them after the point"
    return NOUNS.get(type_, type_)


def value(cell: Cell, type_: str) -> str:
    """Return SQL of the cell's value. Only right where `fits` holds."""
    x = cell.sql
    if cell.typed:
        return x
    match type_:
        case "string" | "key":
            return x
        case "json" if cell.json_type:
            return x.replace("json_extract_string(", "json_extract(", 1)
        case "json":
            return f"try_cast({x} as json)"
        case "timestamp":
            # DuckDB's TIMESTAMP cast ignores the zone that it reads.
            return (
                f"case when regexp_matches({x}, '{_ZONE}$') and strlen({x}) > 16 then"
                f" timezone('UTC', try_cast({x} as timestamptz))"
                f" else try_cast({x} as timestamp) end"
            )
        case _:
            return f"try_cast({x} as {duckdb_type(type_)})"


def fits(cell: Cell, type_: str, cast: str | None = None) -> str:
    """Return SQL that is true where the cell is empty or a value of the type; never NULL.

    `cast` is SQL of the value where it is at hand already.
    """
    if cell.typed:
        return "true"
    if cell.json_type:
        return _fits_json(cell, type_)
    x = cell.sql
    test = _text_test(x, type_, cast)
    return "true" if test is None else f"({x} is null or {test} or {x} = '')"


def _text_test(x: str, type_: str, at_hand: str | None = None) -> str | None:
    """Return SQL that is true where text is a value, or None where every text is one."""
    if found := decimal_of(type_):
        cast = at_hand or f"try_cast({x} as {duckdb_type(type_)})"
        fraction = f"([.][0-9]{{0,{found[1]}}}0*)?" if found[1] else "([.]0*)?"
        grammar = f"regexp_full_match({x}, '[+-]?[0-9]+{fraction}')"
        return f"coalesce({cast}::varchar = {x}, false) or ({grammar} and {cast} is not null)"
    match type_:
        case "integer":
            cast = at_hand or f"try_cast({x} as bigint)"
            grammar = f"regexp_full_match({x}, '[+-]?[0-9]+')"
            return f"coalesce({cast}::varchar = {x}, false) or ({grammar} and {cast} is not null)"
        case "float":
            cast = at_hand or f"try_cast({x} as double)"
            return (
                f"(regexp_full_match({x}, '{_FLOAT}') and coalesce(isfinite({cast}), false))"
                f" or regexp_full_match({x}, '{_NON_FINITE}', 'i')"
            )
        case "boolean":
            return f"lower({x}) in {_BOOLEANS}"
        case "json":
            return f"json_valid({x})"
        case "date":
            cast = at_hand or f"try_cast({x} as date)"
            return f"(strlen({x}) >= 10 and coalesce({cast}::varchar = {x}, false))"  # not infinity
        case "time":
            return (
                f"(regexp_full_match({x}, '[0-9]{{2}}:[0-9]{{2}}(:[0-9]{{2}}([.][0-9]{{1,6}})?)?')"
                f" and try_cast({x} as time) is not null)"
            )
        case "timestamp":
            grammar = (
                "[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]{1,6})?)?"
                f"{_ZONE}?)?"
            )
            return (
                f"(strlen({x}) >= 10 and"
                f" coalesce(try_cast({x} as timestamp)::varchar = {x}, false)) or"
                f" (regexp_full_match({x}, '{grammar}')"
                f" and ({value(Cell(column=Column('', type_), sql=x), type_)}) is not null)"
            )
        case _:
            return None


def _fits_json(cell: Cell, type_: str) -> str:
    kind, x = cell.json_type, cell.sql
    absent = f"{kind} is null or {kind} = 'NULL'"
    match type_:
        case "json":
            return "true"
        case "string":
            test = f"{kind} = 'VARCHAR'"
        case "key":
            test = f"{kind} in ('VARCHAR','BIGINT','UBIGINT')"
        case "integer":
            test = f"({kind} in {_WHOLE_JSON} and try_cast({x} as bigint) is not null)"
        case "float":
            test = f"{kind} in ('BIGINT','UBIGINT','DOUBLE')"
        case "boolean":
            test = f"{kind} = 'BOOLEAN'"
        case _:
            numeric = "('VARCHAR','BIGINT','UBIGINT','DOUBLE')" if decimal_of(type_) else None
            kinds = f"{kind} in {numeric}" if numeric else f"{kind} = 'VARCHAR'"
            test = f"({kinds} and ({_text_test(x, type_)}))"
    return f"({absent} or coalesce({test}, false))"


def inference(cells: Sequence[Cell], held: Mapping[int, str], source: str) -> str:
    """Return a query that tells of each text cell what its values look like.

    A row for each cell of a source that has rows: its place; the looks of its values, NULL where
    all are empty; how many are not of the type in `held`, where its place has one; how many are
    not empty. The values of all cells are stacked, so that a grammar is compiled once and not for
    each column.
    """
    texts = ", ".join(cell.sql for cell in cells)
    odd = " ".join(
        f"when place in ({', '.join(str(n) for n, one in held.items() if one == type_)})"
        f" then not {fits(Cell(column=Column('x', type_), sql='x'), type_)}"
        for type_ in sorted(set(held.values()))
    )
    counted = f"count(*) filter (case {odd} end)" if odd else "0"
    stacked = f"select unnest(range({len(cells)})) as place, unnest([{texts}]) as x from {source}"
    return (
        f"select place, bit_or(look), {counted}, count(look)"
        f" from (select place, x, {_LOOK} as look from ({stacked})) group by place"
    )


def type_of(looks: int | None) -> str:
    """Return the type of a column whose values have these looks.

    Strict on purpose: what would lose something as a number (`00123`, `+49…`, more digits than a
    double holds) stays text.
    """
    for type_, may_be in _LOOKS_OF.items():
        if looks and not looks & ~may_be:
            return type_
    return "string"


def _look() -> str:
    """Return SQL of what the text `x` looks like; NULL if it is empty."""
    number = "not regexp_matches(x, '^([+]|-?0[0-9])')"
    return (
        f"case when x is null or x = '' then null"
        f" when lower(x) in ('true','false') then {Look.BOOLEAN:d}"
        f" when not (x >= '+' and x < ':') then {Look.STRING:d}"  # begins with no sign, no digit
        f" when ({_text_test('x', 'integer')}) and {number} then"
        f" case when strlen(x) <= 15 then {Look.INTEGER:d} else {Look.LONG:d} end"
        f" when ({_text_test('x', 'float')}) and {number} and regexp_matches(x, '[.eE]')"
        f" and strlen(x) <= 17 then {Look.FLOAT:d}"
        f" when {_text_test('x', 'date')} then {Look.DATE:d}"
        f" when ({_text_test('x', 'timestamp')}) and strlen(x) >= 16 then {Look.TIMESTAMP:d}"
        f" else {Look.STRING:d} end"
    )


_LOOK: Final = _look()


def wider(one: str, other: str) -> str:
    """Return the type that holds the values of both."""
    if one == other:
        return one
    if {one, other} == {"integer", "float"}:
        return "float"
    if {one, other} == {"date", "timestamp"}:
        return "timestamp"
    return "json" if "json" in (one, other) else "string"
