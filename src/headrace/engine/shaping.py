"""Shaping: what the table's columns are made of, by what the task asks for and the table has."""

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import duckdb

from headrace.contract.columns import (
    SIMPLE_TYPES,
    WIDER,
    Column,
    decimal_of,
    duckdb_type,
    quoted,
)
from headrace.contract.source import Cell
from headrace.domain.errors import Misconfigured
from headrace.domain.shape import Names, Policy, Shape
from headrace.engine import expressions
from headrace.engine.plan import Plan

BLOCK_BYTES: Final = 64  # of SHA-256, which an HMAC's key is filled up to


@dataclass(frozen=True, slots=True, kw_only=True)
class Out:
    """One column of the table: of a column of the source, or of an expression."""

    column: Column
    of: str | None = None
    hashed: bool = False
    masked: int | None = None  # but so many last characters
    macro: str = ""
    given: Sequence[str] = ()  # the source's columns that the macro takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The table's columns, and the types of those of the source that they are made of.

    `unknown` are columns of the source that must not have a value: the table lacks them.
    """

    outs: Sequence[Out]
    types: Mapping[str, str] = field(default_factory=dict)
    unknown: Sequence[str] = ()


def _changed(out: Out) -> bool:
    return out.hashed or out.masked is not None


def names_of(shape: Shape, names: Mapping[str, None]) -> dict[str, str]:
    """Return what each column of the source is called in the table. Raises Misconfigured."""
    lists: dict[str, Sequence[str]] = {
        "select": shape.select, "drop": shape.drop, "rename": list(shape.rename),
        "cast": list(shape.cast), "hash": shape.hash, "mask": list(shape.mask),
    }  # fmt: skip
    for member, wanted in lists.items():
        for name in wanted:
            if name not in names:
                raise Misconfigured(
                    f"columns.{member} names the column {name!r}, which is not in the source.",
                    hint=f"Its columns: {', '.join(list(names)[:20])}.",
                    field=f"columns.{member}",
                )
    chosen = [name for name in (shape.select or names) if name not in shape.drop]
    normal = snake if shape.names is Names.SNAKE else str
    called = {name: shape.rename.get(name) or normal(name) for name in chosen}
    folded: dict[str, str] = {}
    for name, out in called.items():
        if (twin := folded.setdefault(out.casefold(), name)) != name:
            raise Misconfigured(
                f"The columns {twin!r} and {name!r} would both be called {out!r}.",
                hint=f'Give one another name: "rename": {{"{name}": …}}.', field="columns.rename",
            )  # fmt: skip
    return called


def key_columns(shape: Shape, key: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return those of a source's columns that the table's key is made of."""
    called = names_of(shape, dict.fromkeys(names))
    wanted = {name for name, out in called.items() if out in key}
    for name, text in shape.compute.items():
        if name in key:
            wanted |= set(expressions.used(name, text, names))
    return [name for name in names if name in wanted]


def needed(shape: Shape, names: Sequence[str]) -> list[str]:
    """Return those of a source's columns that a shape which selects some speaks of."""
    wanted = {*shape.select, *shape.rename, *shape.cast, *shape.hash, *shape.mask}
    for name, text in shape.compute.items():
        wanted |= set(expressions.used(name, text, names))
    return [name for name in names if name in wanted]


def snake(name: str) -> str:
    """Return a name in small letters, digits and underscores, whatever it was."""
    text = unicodedata.normalize("NFKD", name)
    text = "".join(char for char in text if not unicodedata.combining(char))
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", text)
    text = re.sub(r"[\W_]+", "_", text).strip("_").lower()
    return f"_{text}" if not text or text[0].isdigit() else text


def cast(cell: Cell, type_: str | None) -> Cell:
    """Return a cell whose text is to be a value of a type."""
    if type_ is None or (cell.typed and cell.column.type == type_):
        return cell
    return Cell(column=Column(cell.column.name, type_), sql=f"({cell.sql})::varchar")


def pinned(cell: Cell, type_: str) -> Cell:
    """Return a cell that is held to the type which the table has."""
    if not is_ours(type_) or cell.column.type == type_:
        return cell
    if cell.typed:
        base = (cell.column.type.partition("(")[0], type_.partition("(")[0])
        return cell if base in WIDER else cast(cell, type_)
    return replace(cell, column=Column(cell.column.name, type_))


def is_ours(type_: str) -> bool:
    return type_ in SIMPLE_TYPES or decimal_of(type_) is not None


def decided(
    plan: Plan, shape: Shape, called: Mapping[str, str], types: dict[str, str],
    known: Mapping[str, str], con: duckdb.DuckDBPyConnection,
) -> Layout:  # fmt: skip
    """Decide what the table's columns are made of. Raises Misconfigured."""
    if plan.documents:
        return Layout(outs=(), types=types)
    outs = _outs(shape, called, types, con)
    unknown: list[str] = []
    if known and shape.policy is not Policy.EVOLVE:
        lacking = [out for out in outs if out.column.name.casefold() not in known]
        outs = [out for out in outs if out not in lacking]
        if shape.policy is Policy.FREEZE:
            unknown = [_may_be_empty(out) for out in lacking]
    if shape.hash:
        _set_pads(con, plan.hash_key)
    there = [out.column.name for out in outs]
    for name in plan.key:
        if name not in there:
            raise Misconfigured(
                f"The key column {name!r} is not in the source.",
                hint=f"Its columns: {', '.join(there[:20])}.", field="key",
            )  # fmt: skip
    used = {name for out in outs for name in (*out.given, out.of or "")}
    return Layout(
        outs=outs, unknown=unknown,
        types={name: type_ for name, type_ in types.items() if name in used},
    )  # fmt: skip


def _outs(
    shape: Shape, called: Mapping[str, str], types: dict[str, str], con: duckdb.DuckDBPyConnection
) -> list[Out]:
    """Return the columns that a shape makes; a computed one stands in the place of its twin."""
    outs: dict[str, Out] = {}
    for name, called_so in called.items():
        out = Out(
            column=Column(called_so, types[name]), of=name, hashed=name in shape.hash,
            masked=shape.mask.get(name),
        )  # fmt: skip
        if _changed(out):
            out = replace(out, column=Column(called_so, "string"))
        outs[called_so.casefold()] = out
    for number, (name, text) in enumerate(shape.compute.items()):
        macro = f"__headrace_compute_{number}"
        outs[name.casefold()] = _expression(name, text, types, macro, con)
    return list(outs.values())


def _may_be_empty(out: Out) -> str:
    """Return the source's column that a frozen table lacks. Raises Misconfigured for a made one."""
    if out.of is None or _changed(out):
        raise Misconfigured(
            f"The table has no column {out.column.name!r}, and is frozen.",
            hint="Leave it out, or let the table evolve.", field="columns",
        )  # fmt: skip
    return out.of


def _expression(
    name: str, text: str, types: Mapping[str, str], macro: str, con: duckdb.DuckDBPyConnection
) -> Out:
    """Make a macro of an expression. Raises Misconfigured."""
    given = expressions.used(name, text, list(types))
    type_, sql = expressions.type_of(name, text, types)
    con.execute(f"create or replace temp macro {macro}({', '.join(map(quoted, given))}) as ({sql})")
    return Out(column=Column(name, type_), macro=macro, given=given)


def _set_pads(con: duckdb.DuckDBPyConnection, key: bytes) -> None:
    """Hand the connection what an HMAC is made with; never as part of a statement.

    Raises Misconfigured without a key.
    """
    if not key:
        raise Misconfigured(
            "Columns are hashed with a key, and there is none.",
            hint="Set HEADRACE_HASH_KEY.", field="columns.hash",
        )  # fmt: skip
    block = (hashlib.sha256(key).digest() if len(key) > BLOCK_BYTES else key).ljust(
        BLOCK_BYTES, b"\0"
    )
    for name, mark in (("inner", 0x36), ("outer", 0x5C)):
        con.execute(f"set variable headrace_{name} = ?", [bytes(byte ^ mark for byte in block)])


def made_of(out: Out, value: str | None) -> str:
    """Return SQL of a column's value, of that of the source's column."""
    if value is None:
        return f"null::{duckdb_type(out.column.type)}"
    text = f"{value}::varchar"
    if out.masked is not None:
        kept = f"right({text}, {out.masked})" if out.masked else "''"
        text = (
            f"case when length({text}) > {out.masked}"
            f" then repeat('*', length({text}) - {out.masked}) || {kept}"
            f" else repeat('*', length({text})) end"
        )
    if out.hashed:
        inner = f"unhex(sha256(getvariable('headrace_inner') || encode({text})))"
        text = f"sha256(getvariable('headrace_outer') || {inner})"
    return text if _changed(out) else value
