"""Reading the embedded indexes: list, browse, get, search. Never a write."""

import contextlib
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from headrace.connectors.destinations.search import path_of
from headrace.domain.errors import NotFound
from headrace.domain.ids import TenantId
from headrace.service.filters import Sql

_WORD: Final = re.compile(r"\w+", re.UNICODE)
BUSY_S: Final = 10.0
WORDS_MAX: Final = 32

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """One index. `bytes` on disk; `changed` in seconds since 1970."""

    name: str
    entries: int
    bytes: int
    made: float
    changed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A page of documents, and how many fit in all."""

    documents: Sequence[Document]
    total: int
    took_ms: int
    next: int | None = None


class Indexes:
    """The embedded indexes of every tenant, below one data folder."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def listed(self, tenant: TenantId) -> list[Index]:
        """Return the tenant's indexes by name."""
        found = []
        for path in (self._data_dir / "indexes").glob("*.db"):
            with contextlib.suppress(sqlite3.Error, NotFound), _reading(path) as con:
                named = con.execute("select tenant, name from named").fetchone()
                if named is None or named[0] != tenant:
                    continue
                (entries,) = con.execute("select count(*) from records").fetchone()
                stat = path.stat()
                found.append(
                    Index(
                        name=named[1], entries=entries, bytes=stat.st_size, made=stat.st_ctime,
                        changed=stat.st_mtime,
                    )
                )  # fmt: skip
        return sorted(found, key=lambda one: one.name)

    def get(self, tenant: TenantId, name: str, ids: Sequence[str]) -> list[Document | None]:
        """Return documents by objectID, None for those that are not there."""
        with self._open(tenant, name) as con:
            marks = ", ".join("?" * len(ids))
            rows = con.execute(
                f"select object_id, body from records where object_id in ({marks})", list(ids)
            ).fetchall()
        known = {row[0]: _document(*row) for row in rows}
        return [known.get(id_) for id_ in ids]

    def browse(
        self, tenant: TenantId, name: str, after: int, limit: int, where: Sql = ("true", [])
    ) -> Found:
        """Return documents in the order that they came in; `next` is where to go on."""
        begun = time.monotonic()
        sql, values = where
        with self._open(tenant, name) as con:
            rows = con.execute(
                f"select id, object_id, body from records where id > ? and {sql}"
                " order by id limit ?",
                [after, *values, limit + 1],
            ).fetchall()
            (total,) = con.execute(f"select count(*) from records where {sql}", values).fetchone()
        return Found(
            documents=[_document(*row[1:]) for row in rows[:limit]], total=total,
            took_ms=_since(begun), next=rows[limit - 1][0] if len(rows) > limit else None,
        )  # fmt: skip

    def search(
        self, tenant: TenantId, name: str, text: str, where: Sql, offset: int, limit: int
    ) -> Found:
        """Return documents that hold every word of `text`, the last as a prefix, best first.

        Without words: all documents, as they came in.
        """
        begun = time.monotonic()
        sql, values = where
        words = _WORD.findall(text)[:WORDS_MAX]
        if words:
            match = " ".join(f'"{word}"' for word in words) + "*"
            source = (
                "records join (select rowid as place, rank from records_text"
                f" where records_text match ?) on place = records.id where {sql}"
            )
            values, order = [match, *values], "rank, id"
        else:
            source, order = f"records where {sql}", "id"
        with self._open(tenant, name) as con:
            rows = con.execute(
                f"select object_id, body from {source} order by {order} limit ? offset ?",
                [*values, limit, offset],
            ).fetchall()
            (total,) = con.execute(f"select count(*) from {source}", values).fetchone()
        return Found(
            documents=[_document(*row) for row in rows], total=total, took_ms=_since(begun)
        )

    @contextlib.contextmanager
    def _open(self, tenant: TenantId, name: str) -> Iterator[sqlite3.Connection]:
        path = path_of(self._data_dir, tenant, name)
        if not path.exists():
            raise NotFound(f"Index {name[:200]} does not exist")
        with _reading(path) as con:
            if con.execute("select 1 from named").fetchone() is None:  # it was deleted
                raise NotFound(f"Index {name[:200]} does not exist")
            yield con


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    con = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=BUSY_S)
    try:
        con.execute("begin")
        yield con
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):  # it is being made just now
            raise NotFound("The index does not exist yet") from error
        raise
    finally:
        con.close()


def _document(object_id: str, body: str) -> Document:
    found: Document = {"objectID": object_id} | msgspec.json.decode(body)
    return found | {"objectID": object_id}


def _since(begun: float) -> int:
    return max(round((time.monotonic() - begun) * 1000), 1)
