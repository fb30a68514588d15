"""SQL expressions over a record's columns, as people write them: looked at before they run.

An expression is one value made of the record's own columns. It is taken only if DuckDB's own parser
finds nothing else in it, and only functions that go by their arguments alone; its type is found on
a connection that reaches no file and no network.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, Final

import duckdb

from headrace.contract.columns import duckdb_type, ours_of, quoted
from headrace.domain.errors import Misconfigured

LENGTH_MAX: Final = 10_000
PARSED_MAX: Final = 256  # expressions whose trees are kept: a run asks for each several times
_NODES: Final = frozenset(
    {
        "BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT",
        "FUNCTION", "LAMBDA", "OPERATOR",
    }
)  # fmt: skip
_OTHERS: Final = {
    "SUBQUERY": "a query", "WINDOW": "a window", "STAR": "a star", "PARAMETER": "a parameter",
}  # fmt: skip
# They tell of the program, the session or the catalogue, not of their arguments.
_TELLING: Final = frozenset(
    {
        "current_database", "current_schema", "current_schemas", "current_setting", "getvariable",
        "getenv", "in_search_path", "json_serialize_plan", "txid_current", "current_catalog",
        "current_role", "current_user", "session_user", "user", "get_block_size", "ago", "version",
        "parse_duckdb_log_message", "create_sort_key",
    }
)  # fmt: skip


def type_of(name: str, text: str, types: Mapping[str, str]) -> tuple[str, str]:
    """Look at an expression over columns of these types.

    Returns our type of what it makes, and its SQL made to give that. Raises Misconfigured.
    """
    field = f"columns.compute.{name}"
    check(name, text)
    given = ", ".join(f"null::{duckdb_type(one)} as {quoted(each)}" for each, one in types.items())
    with duckdb.connect() as con:
        con.execute("set enable_external_access = false")
        con.execute("set lock_configuration = true")
        try:
            # Bound as it will run, beside other columns: so an aggregate in disguise is found out.
            relation = f"(select {given or '1'})"
            con.execute(f"describe select *, try(struct_pack(v := ({text}\n))) from {relation}")
            rows = con.execute(f"describe select ({text}\n) as v from {relation}")
            found = str(rows.fetchall()[0][1])
        except duckdb.Error as error:
            raise Misconfigured(
                f"columns.compute.{name}: {str(error).splitlines()[0][:300]}",
                hint=f"The columns: {', '.join(list(types)[:20])}.", field=field,
            ) from None  # fmt: skip
    value = f"({text}\n)"
    return ("string", f"{value}::varchar") if found == '"NULL"' else ours_of(found, value)


def used(name: str, text: str, names: Sequence[str]) -> list[str]:
    """Return which of the columns an expression names."""
    found = {
        str(node["column_names"][0]).casefold()
        for node in _nodes(_parsed(text, f"columns.compute.{name}"))
        if node["class"] == "COLUMN_REF"
    }
    return [one for one in names if one.casefold() in found]


def check(name: str, text: str) -> None:
    """Raise Misconfigured for what is not an expression that may be used."""
    field = f"columns.compute.{name}"
    for node in _nodes(_parsed(text, field)):
        _judge(node, field)


@lru_cache(PARSED_MAX)
def _parsed(text: str, field: str) -> Any:  # Any: DuckDB's tree, as JSON
    if len(text) > LENGTH_MAX:
        raise Misconfigured(f"{field} is longer than {LENGTH_MAX:,} characters.", field=field)
    with duckdb.connect() as con:
        try:
            found = con.execute("select json_serialize_sql(?)", [f"select ({text}\n)"]).fetchone()
        except duckdb.Error as error:
            raise Misconfigured(f"{field} cannot be read.", field=field) from error
    tree: Any = json.loads(found[0]) if found else {"error": True}
    if tree["error"]:
        said = tree.get("error_message", "it cannot be read")
        raise Misconfigured(f"{field} is no SQL expression: {said}.", field=field)
    nodes = [one["node"] for one in tree["statements"]]
    alone = len(nodes) == 1 and nodes[0]["type"] == "SELECT_NODE"
    alone = alone and nodes[0]["from_table"]["type"] == "EMPTY" and not nodes[0]["modifiers"]
    bare = alone and not any(nodes[0][part] for part in ("where_clause", "having", "qualify"))
    bare = bare and not nodes[0]["group_expressions"] and len(nodes[0]["select_list"]) == 1
    if not bare:
        raise Misconfigured(f"{field} is more than one SQL expression.", field=field)
    return nodes[0]["select_list"][0]


def _nodes(tree: Any) -> list[dict[str, Any]]:
    """Return every expression in a tree."""
    if isinstance(tree, list):
        return [node for one in tree for node in _nodes(one)]
    if not isinstance(tree, dict):
        return []
    own = [tree] if "class" in tree else []
    return own + [node for one in tree.values() for node in _nodes(one)]


def _judge(node: Mapping[str, Any], field: str) -> None:
    kind = str(node["class"])
    if kind not in _NODES:
        what = _OTHERS.get(kind, kind.lower())
        raise Misconfigured(
            f"{field} holds {what}; it may be made of columns, values, operators and functions"
            " only.",
            field=field,
        )
    if kind == "FUNCTION":
        name = str(node["function_name"]).lower()
        foreign = node["catalog"] or node["schema"] not in ("", "main")
        if foreign or (name.isidentifier() and name not in _functions()):
            raise Misconfigured(
                f"{field}: the function {name} cannot be used here.",
                hint="It may be one of DuckDB's that go by their arguments alone.", field=field,
            )  # fmt: skip


@cache
def _functions() -> frozenset[str]:
    """Return the names of functions of one row that go by their arguments, or by the time."""
    with duckdb.connect() as con:
        found = con.execute(
            "select function_name from duckdb_functions() where schema_name = 'main' and internal"
            " and (function_type = 'macro' or (function_type = 'scalar' and stability in"
            " ('CONSISTENT', 'CONSISTENT_WITHIN_QUERY')))"
        ).fetchall()
    return frozenset(str(row[0]).lower() for row in found) - _TELLING
