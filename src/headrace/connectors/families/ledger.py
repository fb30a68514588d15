"""What a destination that keeps no notes of ours has been sent: fences, commits, parts.

A service has no transaction that our receipt could be part of. The ledger, a SQLite file of the
data folder, stands in for it: what was sent is written down before the next step, so that an
attempt after a kill knows what the one before it did.
"""

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from headrace.connectors.families.sqlite import told
from headrace.contract.destination import Target
from headrace.domain.errors import LostClaim

BUSY_S: Final = 30.0


class Ledger:
    """The ledger of one place (an index, a stream of events) of a service."""

    def __init__(self, data_dir: Path, place: str, target: Target) -> None:
        folder = data_dir / "ledgers"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{hashlib.sha256(place.encode()).hexdigest()[:40]}.db"
        self._target = target
        self._db = sqlite3.connect(
            path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        with told("ledger"):
            self._db.execute("pragma journal_mode = WAL")
            self._db.execute("pragma synchronous = FULL")
            self._db.executescript(
                "create table if not exists fences (scope text primary key, fence integer);"
                "create table if not exists commits (token text primary key, note text);"
                "create table if not exists parts (token text, name text, said text,"
                " primary key (token, name)) without rowid;"
                "create table if not exists leftovers (name text primary key, fence integer);"
            )

    def begin(self) -> str | None:
        """Raise the fence; return the note of an earlier commit with the target's token, or None.

        Raises LostClaim if a higher fence is there.
        """
        target = self._target
        with self._changing() as db:
            found = db.execute("select note from commits where token = ?", [target.token])
            if row := found.fetchone():
                return str(row[0])
            db.execute("insert or replace into fences values (?, ?)", [target.scope, target.fence])
        return None

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """Open a transaction of the one that holds the fence."""
        with told("ledger"):
            self._db.execute("begin immediate")
            try:
                found = self._db.execute(
                    "select fence from fences where scope = ?", [self._target.scope]
                ).fetchone()
                if found and found[0] > self._target.fence:
                    raise LostClaim("A newer attempt writes there.", fence=found[0])
                yield self._db
            except BaseException:
                self._db.execute("rollback")
                raise
            self._db.execute("commit")

    def said(self, names: Sequence[str]) -> dict[str, str]:
        """Return what was noted of parts by an attempt with the same token."""
        marks = ", ".join("?" * len(names))
        with told("ledger"):
            found = self._db.execute(
                f"select name, said from parts where token = ? and name in ({marks})",
                [self._target.token, *names],
            ).fetchall()
        return dict(found)

    def say(self, parts: Iterable[tuple[str, str]]) -> None:
        """Note something of parts, for an attempt after this one."""
        with self._changing() as db:
            db.executemany(
                "insert or replace into parts values (?, ?, ?)",
                [(self._target.token, name, said) for name, said in parts],
            )

    def leave(self, name: str) -> None:
        """Note something that must be cleared away if this attempt does not come to it."""
        with self._changing() as db:
            db.execute("insert or replace into leftovers values (?, ?)", [name, self._target.fence])

    def leftovers(self) -> list[str]:
        """Return what earlier attempts have left."""
        with told("ledger"):
            found = self._db.execute(
                "select name from leftovers where fence <= ?", [self._target.fence]
            )
            return [row[0] for row in found.fetchall()]

    def cleared(self, name: str) -> None:
        """Forget a leftover."""
        with told("ledger"):
            self._db.execute("delete from leftovers where name = ?", [name])

    def check(self) -> None:
        """Raise LostClaim unless this attempt is the newest."""
        with self._changing():
            pass

    def commit(self, note: str) -> None:
        """Keep the note of what is done, and forget its parts."""
        with self._changing() as db:
            token = self._target.token
            db.execute("insert into commits values (?, ?)", [token, note])
            db.execute("delete from parts where token = ?", [token])

    def close(self) -> None:
        """Let go of the file; may be called twice."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
