"""Child tables: the elements of arrays in staged JSON, each a row that knows its parent.

They are taken from the stage, so a record that was rejected has none, and of two records with one
key only the one that stays. They land before their parents do: killed in between, the next attempt
lands them again, by the same keys.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb

from headrace.contract.chunks import chunks
from headrace.contract.columns import Column, literal, quoted
from headrace.domain.books import Receipt
from headrace.domain.errors import Misconfigured, Refused
from headrace.domain.shape import Policy
from headrace.domain.task import Action
from headrace.engine.plan import Plan, Segment
from headrace.engine.stage import Staged

PARENT: Final = "_parent_"
INDEX: Final = "_index"
VALUE: Final = "value"  # of an element that is no object
ROWS_AT_ONCE: Final = 10_000
DEPTH_MAX: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Parents:
    """The keys of a run's records, in a file: what is gone from them goes from their children."""

    path: str
    columns: Sequence[Column]


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """Rows of one child table, as JSON lines in a file, and their key."""

    table: str
    path: Path
    key: Sequence[Column]
    keys: str  # path of their keys, and of the parents' with nothing for the rest
    parents: Parents


@dataclass(frozen=True, slots=True)
class Children:
    """What becomes of the arrays of one load.

    `land` loads a child and returns its receipt and its quarantine. `kept`: columns that stay JSON.
    """

    land: Callable[[Child], tuple[Receipt, tuple[Segment, ...]]]
    kept: frozenset[str] = frozenset()
    parents: Parents | None = None  # of the first of all
    depth: int = 1


def judge(plan: Plan) -> None:
    """Raise Misconfigured where children could not find their parents."""
    if not plan.key:
        raise Misconfigured(
            "Child tables need a key: whose rows are they?",
            hint="Name the task's key (--key COLUMN), or the source's uniqueIDColumn.", field="key",
        )  # fmt: skip
    if plan.shape.policy is not Policy.EVOLVE:
        raise Misconfigured(
            "Child tables are for tables that evolve.",
            hint='Let the schema evolve, or leave arrays as they are: "nested": "columns".',
            field="schema",
        )


def taken(
    plan: Plan, children: Children, con: duckdb.DuckDBPyConnection, table: str, staged: Staged
) -> list[Child]:
    """Take the arrays out of a stage, each column for a child table of its own."""
    key = [column for column in staged.columns if column.name in plan.key]
    judged = [
        column.name
        for column in staged.columns
        if column.type == "json" and column.name not in (*children.kept, *plan.key)
    ]
    arrays = [name for name in judged if _has_array(con, table, name)]
    if not arrays:
        return []
    if children.depth > DEPTH_MAX:
        raise Refused(f"Arrays lie in arrays, more than {DEPTH_MAX} deep.", field="input.nested")
    parents = children.parents or _parents(plan, con, table, key)
    found = [_child(plan, children, con, table, name, key, parents) for name in arrays]
    for name in arrays:
        con.execute(f"alter table {table} drop column {quoted(name)}")
    staged.columns = [column for column in staged.columns if column.name not in arrays]
    return found


def _json_of(column: Column) -> str:
    """Return SQL of a key's value that JSON can say without loss."""
    exact = column.type in ("integer", "float", "boolean")
    return quoted(column.name) if exact else f"{quoted(column.name)}::varchar"


def _has_array(con: duckdb.DuckDBPyConnection, table: str, name: str) -> bool:
    found = con.execute(
        f"select count(*) from {table} where json_type({quoted(name)}) = 'ARRAY'"
    ).fetchone()
    return bool(found and found[0])


def _named(depth: int) -> str:
    return INDEX if depth == 1 else f"{INDEX}_{depth}"


def _parents(
    plan: Plan, con: duckdb.DuckDBPyConnection, table: str, key: Sequence[Column]
) -> Parents:
    columns = [Column(f"{PARENT}{column.name}", column.type) for column in key]
    path = str(plan.spool / "parents.parquet")
    items = ", ".join(
        f"{quoted(one.name)} as {quoted(new.name)}" for one, new in zip(key, columns, strict=True)
    )
    con.execute(f"copy (select {items} from {table}) to {literal(path)} (format parquet)")
    return Parents(path=path, columns=columns)


def _child(
    plan: Plan, children: Children, con: duckdb.DuckDBPyConnection, table: str, name: str,
    key: Sequence[Column], parents: Parents,
) -> Child:  # fmt: skip
    """Write the elements of one column as lines of JSON, and their keys beside."""
    first = children.parents is None
    index = _named(children.depth)
    inherited = [Column(f"{PARENT}{one.name}" if first else one.name, one.type) for one in key]
    columns = [*inherited, Column(index, "integer")]
    kept = ", ".join(
        f"{quoted(old.name)} as {quoted(new.name)}" for old, new in zip(key, inherited, strict=True)
    )
    column = quoted(name)
    # What is an array only at times is one element elsewhere: nothing is lost.
    elements = (
        f"case json_type({column}) when 'ARRAY' then json_extract({column}, '$[*]')"
        f" when 'NULL' then [] else [{column}] end"
    )
    rows = (
        f"select {kept}, unnest(range(len(elements))) as {quoted(index)},"
        f" unnest(elements) as element from (select *, {elements} as elements from {table}"
        f" where {column} is not null)"
    )
    stem = plan.spool / f"child-{children.depth}-{abs(hash((plan.table, name)))}"
    con.execute(f"create or replace temp table __headrace_child as {rows}")
    _judge_names(con, name, [one.name for one in columns])
    given = ", ".join(f"{literal(one.name)}, {_json_of(one)}" for one in columns)
    _write_lines(
        con,
        f"select json_merge_patch(case json_type(element) when 'OBJECT' then element"
        f" else json_object('{VALUE}', element) end, json_object({given}))::varchar"
        " from __headrace_child",
        stem.with_suffix(".jsonl"),
    )
    names = ", ".join(quoted(one.name) for one in columns)
    whole = [one.name for one in parents.columns]
    rest = ", ".join(
        quoted(one.name) if one.name in whole else f"null as {quoted(one.name)}" for one in columns
    )
    carried = "" if plan.action is not Action.PARTIAL else _carried(con, plan, table, name, parents)
    keys = str(stem.with_suffix(".parquet"))
    con.execute(
        f"copy (select {names} from __headrace_child union all select {rest}"
        f" from read_parquet({literal(parents.path)}){carried}) to {literal(keys)} (format parquet)"
    )
    con.execute("drop table __headrace_child")
    return Child(
        table=f"{plan.table}__{name}", path=stem.with_suffix(".jsonl"), key=columns, keys=keys,
        parents=parents,
    )  # fmt: skip


def _carried(
    con: duckdb.DuckDBPyConnection, plan: Plan, table: str, name: str, parents: Parents
) -> str:
    """Return SQL that leaves out the parents which do not carry a column: theirs stay as it is."""
    if len(parents.columns) != len(plan.key):
        return ""
    pairs = ", ".join(quoted(one.name) for one in parents.columns)
    key = ", ".join(quoted(one.name.removeprefix(PARENT)) for one in parents.columns)
    return f" where ({pairs}) in (select ({key}) from {table} where {quoted(name)} is not null)"


def _judge_names(con: duckdb.DuckDBPyConnection, name: str, own: Sequence[str]) -> None:
    """Raise Refused where an element has a member of our own columns' names."""
    for one in own:
        pointer = literal("/" + one.replace("~", "~0").replace("/", "~1"))
        found = con.execute(
            f"select 1 from __headrace_child where json_exists(element, {pointer}) limit 1"
        ).fetchone()
        if found:
            raise Refused(
                f"Elements of {name!r} have a member {one!r}: a child table needs that name"
                " for itself.",
                hint='Leave arrays as they are: "nested": "columns".', field="input.nested",
            )  # fmt: skip


def _write_lines(con: duckdb.DuckDBPyConnection, query: str, path: Path) -> None:
    """Write one column of texts as lines; an empty array of JSON where there are none."""
    found, empty = con.execute(query), True
    with path.open("wb") as out:
        for some in chunks(found, ROWS_AT_ONCE):
            empty = False
            out.write("".join(f"{line}\n" for (line,) in some).encode())
        if empty:
            out.write(b"[]")


def mapping_of(child: Child) -> Mapping[str, Any]:
    """Return the types that a child's key has."""
    return {column.name: column.type for column in child.key}
