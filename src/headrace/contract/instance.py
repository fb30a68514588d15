"""Instances of DuckDB: each run has one of its own.

To make one and to look at its catalogue for the first time takes 40 ms. A process that waits for
work makes the next one meanwhile, and a file is attached to it.
"""

import contextlib
import tempfile
from pathlib import Path
from typing import Final

import duckdb

from headrace.contract.columns import literal, quoted

_EMPTY: Final = "memory"  # the database that each instance begins with
_ready: list[duckdb.DuckDBPyConnection] = []
_spent: list[duckdb.DuckDBPyConnection] = []
_prepares = False


def instance(path: Path | None = None, *, read_only: bool = False) -> duckdb.DuckDBPyConnection:
    """Return a connection to an instance that nobody else has: in memory, or of a file.

    Raises duckdb.Error if the file cannot be opened.
    """
    _end_spent()
    try:
        con = _ready.pop()
    except IndexError:
        con = duckdb.connect()
    if path is None:
        return con
    try:
        mode = ", read_only" if read_only else ""
        con.execute(f"attach {literal(str(path))} (type duckdb{mode})")
        _use(con, _attached(con))
    except duckdb.BinderException as error:
        con.close()
        if "already exists" not in str(error):
            raise
        return duckdb.connect(str(path), read_only=read_only)  # its name is that of the empty one
    except BaseException:
        con.close()
        raise
    return con


def let_go(con: duckdb.DuckDBPyConnection) -> None:
    """End an instance: its file is closed now, the rest of it where the process has time.

    Nobody may use another connection to it any more.
    """
    if _prepares and (name := _used(con)) != _EMPTY:
        with contextlib.suppress(duckdb.Error):  # what is committed is in the log beside the file
            _use(con, _EMPTY)
            con.execute(f"detach {quoted(name)}")
            _spent.append(con)
            return
    con.close()


def _end_spent() -> None:
    with contextlib.suppress(IndexError):
        while True:
            _spent.pop().close()


def instance_in(folder: Path) -> duckdb.DuckDBPyConnection:
    """Return a connection to an instance of a new file in a folder, which goes with the folder."""
    return instance(Path(tempfile.mkdtemp(prefix="duckdb-", dir=folder), "scratch.duckdb"))


def another(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Return one more connection to an instance, which uses the file that the first one uses."""
    other = con.cursor()
    _use(other, _used(con))
    return other


def _use(con: duckdb.DuckDBPyConnection, name: str) -> None:
    con.execute(f"use {quoted(name)}")


def _used(con: duckdb.DuckDBPyConnection) -> str:
    # All of it: what is half read keeps its transaction, and so the file from being checkpointed.
    [(name,)] = con.execute("select current_database()").fetchall()
    return str(name)


def _attached(con: duckdb.DuckDBPyConnection) -> str:
    """Return what the only file that is attached is called."""
    [(name,)] = con.execute(
        "select database_name from duckdb_databases() where not internal"
        f" and database_name <> '{_EMPTY}'"
    ).fetchall()
    return str(name)


def prepare() -> None:
    """Make an instance for the next who asks, if there is none; end what is left of others."""
    global _prepares
    _prepares = True
    _end_spent()
    if _ready:
        return
    con = duckdb.connect()
    con.execute("select 1 from duckdb_columns()").fetchall()  # its own views are bound at first
    with contextlib.suppress(duckdb.Error):  # and so is its reader, of whatever file there is
        con.execute(
            f"select 1 from read_csv({literal(__file__)}, auto_detect = false, header = false,"
            " quote = '', escape = '', delim = '\x01', columns = {'line': 'varchar'}) limit 1"
        ).fetchall()
    _ready.append(con)
