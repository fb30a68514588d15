"""What CSV and JSON scans share: DuckDB's reader over text files, and what it left out.

The reader runs with `store_rejects`, so that a broken record costs itself and not the scan. How
many it left out is all that is asked of it: positions and reasons come from the exact pass.
"""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import duckdb

from headrace.contract.columns import FILE, literal
from headrace.contract.source import Broken, File, Place, Survey
from headrace.domain.rejected import RAW_BYTES_MAX, Rule

REJECTS_KEPT_BY_READER: Final = 1_000_000
HEAD_BYTES: Final = 1 << 20


def reader(files: Sequence[File], options: str, *, with_file: bool) -> str:
    """Return SQL of a `read_csv` call over `files`, named scan tables of its own."""
    paths = ", ".join(literal(file.path) for file in files)
    named = f", filename={literal(FILE)}" if with_file else ""
    return (
        f"read_csv([{paths}], auto_detect=false, store_rejects=true,"
        f" rejects_limit={REJECTS_KEPT_BY_READER}, {options}{named})"
    )


def left_out(con: duckdb.DuckDBPyConnection) -> dict[str, list[int]]:
    """Return where the records begin that the reader left out, by path, and forget them."""
    found: list[tuple[str, list[int]]] = []
    try:
        if con.execute("from reject_errors limit 1").fetchone():  # to plan the rest takes 2 ms
            found = con.execute(
                "select s.file_path, list_sort(list(distinct e.line_byte_position))"
                " from reject_errors e join reject_scans s using (scan_id, file_id) group by 1"
            ).fetchall()
    except duckdb.CatalogException:
        return {}  # no scan has run on this connection
    for table in ("reject_errors", "reject_scans"):
        with contextlib.suppress(duckdb.Error):
            con.execute(f"drop table {table}")
    return dict(found)


def place(record: int, line: int, byte: int, raw: bytes) -> Place:
    """Make a Place; bytes that are not UTF-8 show as backslash escapes."""
    cut = raw[:RAW_BYTES_MAX]
    return Place(
        record=record,
        line=line,
        byte=byte,
        raw=cut.decode(errors="backslashreplace"),
        raw_cut=len(raw) > RAW_BYTES_MAX,
    )


class Surveyor:
    """Collects a Survey while somebody goes over the records in order."""

    def __init__(self, wanted: Iterable[int], keep: int) -> None:
        self.found = Survey()
        self._wanted = iter(wanted)
        self._next = next(self._wanted, -1)
        self._keep = keep
        self._good = 0

    def record(
        self,
        line: int,
        byte: int,
        raw: bytes,
        fault: tuple[Rule, str] | None,
        read_at: int | None = None,
    ) -> None:
        """Take the next record; `read_at` is where it begins in what was read, if elsewhere."""
        self.found.records += 1
        if fault:
            self.found.broken += 1
            self.found.broken_at.append(byte if read_at is None else read_at)
            if len(self.found.kept) < self._keep:
                where = place(self.found.records, line, byte, raw)
                self.found.kept.append(Broken(place=where, rule=fault[0], message=fault[1]))
            return
        while self._good == self._next:
            self.found.wanted[self._good] = place(self.found.records, line, byte, raw)
            self._next = next(self._wanted, -1)
        self._good += 1


def record_bytes(files: Sequence[File]) -> int:
    """Return how long a line is where the largest of the files begins."""
    with Path(max(files, key=lambda file: file.bytes).path).open("rb") as body:
        head = body.read(HEAD_BYTES)
    return len(head) // max(head.count(b"\n"), 1)


def cut_head(file: File, bytes_max: int) -> bytes | None:
    """Return the first bytes of a larger file, cut after a line; None for a smaller one."""
    if file.bytes <= bytes_max:
        return None
    with Path(file.path).open("rb") as body:
        head = body.read(bytes_max)
    end = head.rfind(b"\n")
    return head[: end + 1] if end > 0 else None
