"""DuckDB files: opening one, and what its types are here."""

import re
import time
from pathlib import Path
from typing import Final

import duckdb

from headrace.contract.columns import literal
from headrace.contract.tools import Tools
from headrace.domain.errors import Refused, Unavailable

LOCK_WAIT_S: Final = 600.0
LOCK_RETRY_S: Final = 0.2
_HELD_BY: Final = re.compile(r"\(PID (\d+)\)")


def connect(path: Path, tools: Tools, *, read_only: bool = False) -> duckdb.DuckDBPyConnection:
    """Open the file; wait, and tell for whom, while another process holds it."""
    until = time.monotonic() + LOCK_WAIT_S
    waited = False
    while True:
        try:
            con = duckdb.connect(str(path), read_only=read_only)
        except duckdb.IOException as error:
            text = str(error)
            if "Could not set lock" not in text:
                if "not a valid DuckDB" in text or "serialization" in text.lower():
                    raise Refused(
                        f"{path.name} is not a DuckDB file that this version can read.",
                        field="input.path",
                    ) from error
                raise Refused(
                    f"{path.name} cannot be opened: {text.splitlines()[0]}", field="input.path"
                ) from error
            found = _HELD_BY.search(text)
            holder = f"PID {found[1]}" if found else "another process"
            if time.monotonic() > until:
                raise Unavailable(
                    f"{path.name} has been held by {holder} for {LOCK_WAIT_S:.0f} s.",
                    hint="End that process, or let it close the file.",
                ) from error
            tools.waiting(f"{path.name} is held by {holder}")
            waited = True
            time.sleep(LOCK_RETRY_S)
        else:
            if waited:
                tools.waiting(None)
            confine(con, tools)
            return con


def confine(con: duckdb.DuckDBPyConnection, tools: Tools) -> None:
    """Hold a connection to half of a run's memory; what has no room goes into the spool."""
    limit(con, tools.memory_bytes // 2)
    con.execute(f"set temp_directory = {literal(str(tools.spool / 'duckdb'))}")


def limit(con: duckdb.DuckDBPyConnection, memory_bytes: int) -> None:
    """Hold a connection to so much memory."""
    con.execute(f"set memory_limit = '{memory_bytes // 1_000_000}MB'")


def our_type(type_: str) -> str:
    """Return our type of a column of a table; `native:` and DuckDB's where we have none."""
    ours = {
        "VARCHAR": "string", "BIGINT": "integer", "DOUBLE": "float", "BOOLEAN": "boolean",
        "JSON": "json", "DATE": "date", "TIME": "time", "TIMESTAMP": "timestamp",
    }  # fmt: skip
    if type_.startswith("DECIMAL("):
        return type_.lower()
    if type_ in ("INTEGER", "SMALLINT", "TINYINT"):
        return "integer"
    return ours.get(type_, f"native:{type_}")
