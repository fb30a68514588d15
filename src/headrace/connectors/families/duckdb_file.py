"""DuckDB files: opening one, and what its types are here."""

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb

from headrace.contract import room
from headrace.contract.columns import literal
from headrace.contract.instance import another, instance, let_go
from headrace.contract.tools import Tools
from headrace.domain.errors import Refused, Unavailable

LOCK_WAIT_S: Final = 600.0
LOCK_RETRY_S: Final = 0.2
_HELD_BY: Final = re.compile(r"\(PID (\d+)\)")


@dataclass(slots=True)
class _Open:
    """A file that this process has open: DuckDB lets a process open a file once."""

    con: duckdb.DuckDBPyConnection  # nobody's: those made of it are closed with it
    read_only: bool
    users: int = 0


_lock = threading.Lock()
_open: dict[str, _Open] = {}


@contextlib.contextmanager
def opened(
    path: Path, tools: Tools, *, read_only: bool = False
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Lend a connection to the file; wait, and tell for whom, while another process holds it.

    Raises Refused if it cannot be opened, or this process has it open the other way.
    """
    key = os.path.realpath(path)  # once: a link may change
    con = _waited_for(path, key, tools, read_only=read_only)
    try:
        yield con
    finally:
        _let_go(key, con)


def _waited_for(
    path: Path, key: str, tools: Tools, *, read_only: bool
) -> duckdb.DuckDBPyConnection:
    until = time.monotonic() + LOCK_WAIT_S
    waited = False
    while True:
        try:
            con = _shared(path, key, tools, read_only=read_only)
        except duckdb.Error as error:
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
            return con


def _shared(path: Path, key: str, tools: Tools, *, read_only: bool) -> duckdb.DuckDBPyConnection:
    """Open the file, or share what is open."""
    with _lock:
        if found := _open.get(key):
            if found.read_only is not read_only:
                raise Refused(
                    f"{path.name} is being {'read' if found.read_only else 'written'} by this very"
                    " run.",
                    hint="Load into another file than the one that is read.", field="input.path",
                )  # fmt: skip
        else:
            con = instance(path, read_only=read_only)
            confine(con, tools)
            room.confine(con, duckdb_bytes(tools))
            found = _open[key] = _Open(con, read_only)
        con = another(found.con)
        found.users += 1
        return con


def _let_go(key: str, con: duckdb.DuckDBPyConnection) -> None:
    with _lock:  # who comes next finds the file closed
        con.close()
        found = _open[key]
        found.users -= 1
        if not found.users:
            del _open[key]
            let_go(found.con)


def confine(con: duckdb.DuckDBPyConnection, tools: Tools) -> None:
    """Hold a connection to half of a run's memory; what has no room goes into the spool."""
    con.execute(f"set memory_limit = '{duckdb_bytes(tools) // 1_000_000}MB'")
    con.execute(f"set temp_directory = {literal(str(tools.spool / 'duckdb'))}")


def duckdb_bytes(tools: Tools) -> int:
    """Return how many bytes of memory a file's instance may take."""
    return tools.memory_bytes // 2


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
