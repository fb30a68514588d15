"""Opening the store: one engine, short transactions, the database's own clock.

SQLite: WAL, every commit on disk (`synchronous=FULL`), BEGIN IMMEDIATE for writes. A transaction
is never open while work is done.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from headrace.domain.clock import Millis
from headrace.domain.errors import Misconfigured, Unavailable

IDLE_TIMEOUT: Final = "25P03"
IDLE_MS: Final = 10_000  # of a transaction in which nobody says anything
BUSY_MS: Final = 30_000
CLAIM_LOCK: Final = 0x68656164  # the number of PostgreSQL's advisory lock for claims
_CLOCK: Final = {
    "sqlite": sa.text("select cast((julianday('now') - 2440587.5) * 86400000 as integer)"),
    # statement_timestamp, not clock_timestamp: the latter cannot use an index.
    "postgresql": sa.text("select (extract(epoch from statement_timestamp()) * 1000)::bigint"),
}
_LOCK: Final = sa.text("select pg_advisory_xact_lock(:number)")
# What statements that are made once are told as `now` and `most`.
NOW: Final = sa.bindparam("now", type_=sa.BigInteger)
MOST: Final = sa.bindparam("most", type_=sa.BigInteger)


@dataclass
class Tx:
    """An open transaction. `now` is the database's clock, read once.

    To build a statement takes SQLAlchemy four times as long as to run it: what runs often is made
    once, with `bindparam`s for what it is told each time, or by `get`, `add`, `change`, `remove`.
    """

    con: sa.Connection
    clock: Callable[[], Millis] | None = None

    @cached_property
    def now(self) -> Millis:
        if self.clock is not None:
            return self.clock()
        return Millis(self.con.execute(_CLOCK[self.con.dialect.name]).scalar_one())

    def all(self, query: sa.Executable, /, **bound: Any) -> list[Any]:  # Any: SQLAlchemy's rows
        return list(self.con.execute(query, bound).all())

    def first(self, query: sa.Executable, /, **bound: Any) -> Any | None:
        return self.con.execute(query, bound).first()

    def run(self, statement: sa.Executable, /, **bound: Any) -> int:
        """Execute a change; return how many rows it changed."""
        return self.con.execute(statement, bound).rowcount

    def get(self, what: sa.Table | sa.Column[Any], /, **same: Any) -> Any | None:
        """Return the row, or a column of it, whose columns have these values (none is NULL)."""
        return self.con.execute(_get(what, tuple(same)), _bound(same)).first()

    def add(self, table: sa.Table, /, **values: Any) -> None:
        """Insert a row."""
        self.con.execute(_add(table), values)

    def change(self, table: sa.Table, same: Mapping[str, Any], /, **values: Any) -> int:
        """Set columns of the rows whose columns have the values `same`; return how many."""
        return self.con.execute(_change(table, tuple(same)), _bound(same) | values).rowcount

    def remove(self, table: sa.Table, /, **same: Any) -> int:
        """Delete the rows whose columns have these values; return how many."""
        return self.con.execute(_remove(table, tuple(same)), _bound(same)).rowcount

    def insert(self, statement: sa.Executable, rows: Sequence[Mapping[str, Any]]) -> int:
        """Execute an INSERT for every row; return how many there are now."""
        # One row is not sent as if there were many: that costs round trips of its own.
        return self.con.execute(statement, rows[0] if len(rows) == 1 else rows).rowcount

    def lock(self, number: int) -> None:
        """Hold a lock of this name until the transaction ends: SQLite's holds everything."""
        if self.con.dialect.name == "postgresql":
            self.con.execute(_LOCK, {"number": number})

    def lock_claims(self) -> None:
        """Serialise claims."""
        self.lock(CLAIM_LOCK)


def among(column: sa.Column[Any], name: str) -> sa.ColumnElement[bool]:
    """Return SQL that is true where a column has one of the values that are bound by this name."""
    return column.in_(sa.bindparam(name, expanding=True, type_=column.type))


@cache
def _get(what: sa.Table | sa.Column[Any], names: tuple[str, ...]) -> sa.Select[Any]:
    table = what if isinstance(what, sa.Table) else what.table
    return sa.select(what).where(*_same(table, names)).limit(1)


@cache
def _add(table: sa.Table) -> sa.Insert:
    return sa.insert(table)


@cache
def _change(table: sa.Table, names: tuple[str, ...]) -> sa.Update:
    return sa.update(table).where(*_same(table, names))


@cache
def _remove(table: sa.Table, names: tuple[str, ...]) -> sa.Delete:
    return sa.delete(table).where(*_same(table, names))


def _same(table: sa.FromClause, names: tuple[str, ...]) -> list[sa.ColumnElement[bool]]:
    return [table.c[name] == sa.bindparam(f"same_{name}") for name in names]


def _bound(same: Mapping[str, Any]) -> dict[str, Any]:
    return {f"same_{name}": value for name, value in same.items()}


class Database:
    """The store's engine."""

    def __init__(self, url: str, clock: Callable[[], Millis] | None = None) -> None:
        """Open the store at a URL. `clock` stands in for the database's own, in simulations."""
        self._clock = clock
        try:
            parsed = sa.make_url(url)
        except sa.exc.ArgumentError as error:
            raise Misconfigured(
                "The database URL cannot be read.",
                hint="Use sqlite:///file or postgresql+psycopg://user@host/name.",
                field="--database",
            ) from error
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.drivername not in ("sqlite", "postgresql+psycopg"):
            raise Misconfigured(
                f"{parsed.drivername} cannot be the control store.",
                hint="Use sqlite:///file or postgresql+psycopg://user@host/name.",
                field="--database",
            )
        self.url = parsed
        self.is_sqlite = parsed.drivername == "sqlite"
        if self.is_sqlite:
            self.engine = sa.create_engine(
                parsed, poolclass=sa.QueuePool, pool_size=8, max_overflow=16,
                connect_args={"timeout": BUSY_MS / 1000, "check_same_thread": False},
            )  # fmt: skip
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
            sa.event.listen(self.engine, "begin", _begin_sqlite)
        else:
            self.engine = sa.create_engine(parsed, pool_size=8, max_overflow=16, pool_pre_ping=True)
            sa.event.listen(self.engine, "connect", _prepare_postgresql)

    @contextlib.contextmanager
    def begin(self) -> Iterator[Tx]:
        """Open a transaction for writing; commit at the end, roll back on an error."""
        with self._open(write=True) as con:
            yield Tx(con, self._clock)

    @contextlib.contextmanager
    def read(self) -> Iterator[Tx]:
        """Open a transaction for reading."""
        with self._open(write=False) as con:
            yield Tx(con, self._clock)

    @contextlib.contextmanager
    def _open(self, *, write: bool) -> Iterator[sa.Connection]:
        try:
            with self.engine.connect().execution_options(headrace_write=write) as con, con.begin():
                yield con
        except DBAPIError as error:
            if isinstance(error, sa.exc.IntegrityError):
                raise
            if "disk is full" in str(error.orig) or "No space left" in str(error.orig):
                raise Unavailable("The control store's disk is full.", hint="Make room.") from error
            frozen = getattr(error.orig, "sqlstate", "") == IDLE_TIMEOUT
            if isinstance(error, sa.exc.OperationalError) or frozen:
                raise Unavailable(
                    "The control store does not answer.", hint="Try again in a moment."
                ) from error
            raise

    def close(self) -> None:
        self.engine.dispose()


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # SQLAlchemy's BEGIN is ours, below
    for pragma in (
        "journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON",
        f"busy_timeout = {BUSY_MS}", "cache_size = -8000",
    ):  # fmt: skip
        connection.execute(f"pragma {pragma}")


def _prepare_postgresql(connection: Any, _record: object) -> None:  # Any: psycopg's
    """Have the locks of a server that is frozen in a transaction let go before long."""
    connection.execute(f"set idle_in_transaction_session_timeout = {IDLE_MS}")
    connection.commit()


def _begin_sqlite(con: sa.Connection) -> None:
    write = con.get_execution_options().get("headrace_write", True)
    con.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
