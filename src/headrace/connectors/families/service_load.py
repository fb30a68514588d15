"""A load into a service: rows lie in the engine's stage until the commit sends them in batches."""

from collections.abc import Iterator
from typing import Final

import duckdb

from headrace.connectors.families.ledger import Ledger
from headrace.contract.chunks import chunks
from headrace.contract.columns import DOCUMENT, FILE
from headrace.contract.destination import Rows
from headrace.contract.tools import Tools

ESCAPED_BYTES: Final = 12  # at most, of a character that is not ASCII: two `\uXXXX`

Sent = tuple[str, str, str]  # key, document, file path


def sent_bytes(text: str) -> int:
    """Return how long a document may be where all but ASCII is escaped, as the clients send it."""
    if text.isascii():
        return len(text)
    plain = len(text.encode("ascii", "ignore"))
    return plain + ESCAPED_BYTES * (len(text) - plain)


class ServiceLoad:
    """What such loads have in common. The rows are read again when they are sent."""

    stages = False
    stage = ""
    temporary = False
    con: duckdb.DuckDBPyConnection | None = None

    def __init__(self, ledger: Ledger, tools: Tools) -> None:
        self._ledger = ledger
        self._tools = tools
        self._rows: list[Rows] = []
        self._total = 0
        self._sent = 0

    def columns(self) -> None:
        return None  # records have no columns of a table

    def keep(self, rows: Rows) -> None:
        raise NotImplementedError  # its spec says so

    def write(self, rows: Rows) -> dict[str, int]:
        """Take note of the rows, and count them by file."""
        self._rows.append(rows)
        file = FILE if rows.with_file else "''"
        found = rows.con.execute(f"select {file}, count(*) from ({rows.sql}) group by 1").fetchall()
        self._total += sum(row[1] for row in found)
        return dict(found)

    def batches(self, key: str, most: int, bytes_max: int) -> Iterator[list[Sent]]:
        """Yield the documents in order, at most so many at a time; `key` is SQL."""
        for rows in self._rows:
            file = FILE if rows.with_file else "''"
            found = rows.con.execute(f"select {key}, {DOCUMENT}, {file} from ({rows.sql})")
            batch: list[Sent] = []
            size = 0
            for chunk in chunks(found, most):
                for one in chunk:
                    more = sent_bytes(one[1])
                    if batch and (len(batch) == most or size + more > bytes_max):
                        yield batch
                        batch, size = [], 0
                    batch.append(one)
                    size += more
            if batch:
                yield batch

    def told(self, what: str, records: int) -> None:
        """Say how much has been sent, and notice a cancel."""
        self._sent += records
        self._tools.told(what, done=self._sent, total=self._total, phase="committing")

    def abort(self) -> None:
        self._rows = []
        self._total = 0

    def close(self) -> None:
        """Let go of the ledger."""
        self._ledger.close()
