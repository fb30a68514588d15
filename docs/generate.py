"""Remake the generated reference: docs/cli.md from --help, docs/settings.md from settings.py."""

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMMANDS = (
    "", "serve", "ingest", "preview", "run", "runs", "logs", "cancel", "retry", "tasks", "pools", "jobs", "jobs add",
    "jobs start", "executions", "executions show", "triggers", "triggers add", "limits", "limits set", "keys", "keys add", "servers", "backup", "restore", "migrate",
)  # fmt: skip


def cli() -> str:
    parts = ["# The command line", "", "Made from `--help` by `make docs`.", ""]
    for command in COMMANDS:
        words = [sys.executable, "-m", "headrace", *command.split(), "--help"]
        env = os.environ | {"COLUMNS": "100", "TERM": "dumb"}
        done = subprocess.run(words, capture_output=True, text=True, check=True, env=env)
        shown = done.stdout.replace("__main__.py", "headrace").replace(
            "python -m headrace", "headrace"
        )
        text = "\n".join(line.rstrip() for line in shown.strip().splitlines())
        parts += [f"## headrace {command}".rstrip(), "", "```", text, "```", ""]
    return "\n".join(parts)


def settings() -> str:
    source = (HERE.parent / "src" / "headrace" / "settings.py").read_text()
    rows = re.findall(
        r"    (\w+): [^=\n]+ = (.+?)  # (HEADRACE_\w+)(?:[:,]? ?(.*))?$", source, re.MULTILINE
    )
    lines = [
        "# Settings",
        "",
        "Made from `settings.py` by `make docs`.",
        "",
        "| variable | what | default |",
    ]
    lines.append("|---|---|---|")
    for _, given, name, told in rows:
        default = {
            "1 << 30": "1GB",
            "8 << 20": "8MB",
            "Rate()": "",
            "Rate(10, 1)": "10/1",
            "Rate(200, 1)": "200/1",
        }.get(given, given)
        shown = "" if default.startswith("field") or default in ('""', "()") else f"`{default}`"
        lines.append(f"| `{name}` | {told} | {shown} |")
    lines += [
        "", "`HEADRACE_URL` and `HEADRACE_ADMIN_KEY` (or `HEADRACE_KEY`) tell the commands that ask a",
        "server which one. `HEADRACE_DEBUG=1` shows tracebacks.", "",
    ]  # fmt: skip
    return "\n".join(lines)


SIZED = ("decimal(12,2)",)
DUCKDB = (
    "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
    "HUGEINT", "UHUGEINT", "DECIMAL(12,2)", "FLOAT", "DOUBLE", "BOOLEAN", "VARCHAR", "DATE", "TIME",
    "TIMESTAMP", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE", "INTERVAL", "UUID", "BLOB", "BIT", "JSON",
    "INTEGER[]", "STRUCT(a INTEGER)", "MAP(VARCHAR, INTEGER)", "ENUM('a')",
)  # fmt: skip
SQLITE = (
    "INTEGER", "BIGINT", "BOOLEAN", "REAL", "DOUBLE", "DECIMAL(12,2)", "NUMERIC", "TEXT", "VARCHAR(9)",
    "UUID", "JSON", "DATE", "DATETIME", "TIMESTAMP", "BLOB", "",
)  # fmt: skip
POSTGRESQL = (
    "smallint", "integer", "bigint", "oid", "numeric(12,2)", "numeric", "real", "double precision",
    "boolean", "text", "character varying", "uuid", "date", "time without time zone",
    "timestamp without time zone", "timestamp with time zone", "interval", "bytea", "json", "jsonb",
    "integer[]", "inet", "int4range",
)  # fmt: skip


def types() -> str:
    """Ask the code itself what becomes of each type."""
    from headrace.connectors.destinations import postgresql as to_postgresql
    from headrace.connectors.destinations.mysql import mysql_type
    from headrace.connectors.families import mysql_table, postgres_table, sqlite
    from headrace.contract.columns import SIMPLE_TYPES, duckdb_type, ours_of

    lines = [
        "# Types", "", "Made from the code by `make docs`.", "",
        "What a column is in the destination:", "", "| here | DuckDB, Parquet | PostgreSQL | MySQL | SQLite |", "|---|---|---|---|---|",
    ]  # fmt: skip
    lines += [
        f"| `{one}` | {duckdb_type(one)} | {to_postgresql.pg_type(one)} | {mysql_type(one)}"
        f" | {sqlite.declared(one)} |"
        for one in (*SIMPLE_TYPES, *SIZED)
    ]
    for title, pairs in {
        "DuckDB, Parquet, Avro": [(one, ours_of(one, "x")[0]) for one in DUCKDB],
        "PostgreSQL": [
            (one, postgres_table.PgType(one, "", not one.endswith("[]")).ours) for one in POSTGRESQL
        ],
        "MySQL, MariaDB": [
            (mysql_table.NAMES[code], found[0]) for code, found in sorted(mysql_table.PLAIN.items())
        ],
        "SQLite (as declared)": [(one, sqlite.ours(one)[0]) for one in SQLITE],
    }.items():
        lines += ["", f"What a column of {title} is here:", "", "| there | here |", "|---|---|"]
        lines += [f"| {there or 'nothing'} | `{here}` |" for there, here in pairs]
    lines += [
        "", ("`infer`: its values tell. MySQL's decimal(p,s) is `decimal(p,s)` to 38 digits, bigint unsigned"
        " `decimal(20,0)`, binary and blob base64 in `string`, all others `string`."), "",
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    stale = []
    for name, text in (("cli.md", cli()), ("settings.md", settings()), ("types.md", types())):
        path = HERE / name
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(text)
    if stale and "--check" in sys.argv:
        sys.exit(f"stale: {', '.join(stale)}; run `make docs`")


if __name__ == "__main__":
    main()
