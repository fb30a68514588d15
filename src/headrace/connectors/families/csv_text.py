"""CSV record by record: exact, in Python, for files in which the fast reader met something odd.

A record ends with a newline outside quotes. A cell is quoted when it begins with the quote
(spaces before and after are allowed); the quote is doubled inside. Empty cells after the last
column are no cells. This module is the reference for what a record is; the fast reader is checked
against it wherever the two could differ.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from headrace.domain.rejected import Rule

LINE_BYTES_MAX: Final = 2_000_000  # of one record; DuckDB's own limit is 2 MiB
BOM: Final = b"\xef\xbb\xbf"


class Record(NamedTuple):
    """One record as it stands: `text` without its line end; `fault` if it has no cells."""

    line: int
    byte: int
    text: bytes
    cells: int
    fault: Rule | None


class CsvText:
    """How one file is written: delimiter and quote, one byte each."""

    def __init__(self, delimiter: str, quote: str) -> None:
        self.delimiter = delimiter.encode()
        self.quote = quote.encode()
        d, q = re.escape(self.delimiter), re.escape(self.quote)
        body = rb"[^%b]*+(?:%b%b[^%b]*+)*+" % (q, q, q, q)
        plain = rb"(?! *%b)[^%b\n]*+" % (q, d)
        cell = rb"(?: *+%b%b%b *+|%b)" % (q, body, q, plain)
        more = rb"(?:%b%b)*+" % (d, cell)
        end = rb"\r?\n?"
        self._whole = re.compile(cell + more + end)
        self._opens = re.compile(rb"(?:%b%b)* *%b%b" % (cell, d, q, body))
        self._closes = re.compile(body + q + rb" *" + more + end)
        self._closes_and_opens = re.compile(
            body + q + rb" *" + rb"(?:%b%b)*%b *%b%b" % (d, cell, d, q, body)
        )
        self._quoted_value = re.compile(rb" *%b(%b)%b *(?=%b|$)" % (q, body, q, d))
        self._quoted_cell = re.compile(rb"(^|%b) *%b%b%b" % (d, q, body, q))

    def records(self, path: str, columns: int = 0) -> Iterator[Record]:  # noqa: C901, PLR0912  # hot
        """Yield every record, the header too. Blank lines are none, unless `columns` is 1."""
        quote, offset, line_no = self.quote, 0, 0
        held: list[bytes] = []
        held_bytes = start = start_line = 0
        with Path(path).open("rb") as file:
            if file.read(3) == BOM:
                offset = 3
            else:
                file.seek(0)
            for line in file:
                line_no += 1
                if held:
                    held_bytes += len(line)
                    if held_bytes <= LINE_BYTES_MAX:
                        held.append(line)
                    if quote not in line:
                        offset += len(line)
                        continue
                    # `[^q]|qq` from inside the quotes: is the cell closed on this line?
                    if self._closes.fullmatch(line):
                        yield self._record(start_line, start, held, held_bytes)
                        held = []
                    elif not self._still_open(line):
                        yield Record(start_line, start, b"".join(held), 0, Rule.BAD_QUOTING)
                        held = []
                elif quote not in line:
                    if columns == 1 or line.strip(b"\r\n"):
                        yield self._record(line_no, offset, [line], len(line))
                elif (cells := self._plainly_quoted(line)) or self._whole.fullmatch(line):
                    yield self._record(line_no, offset, [line], len(line), cells)
                elif self._opens.fullmatch(line):
                    held, held_bytes, start, start_line = [line], len(line), offset, line_no
                else:
                    yield Record(line_no, offset, line.rstrip(b"\r\n"), 0, Rule.BAD_QUOTING)
                offset += len(line)
        if held:
            yield Record(start_line, start, b"".join(held), 0, Rule.UNTERMINATED_QUOTE)

    def _plainly_quoted(self, line: bytes) -> int:
        """Return the number of cells of a line with the plainest quoting; 0 asks to look closer."""
        outside = line.split(self.quote)[::2]
        d = self.delimiter
        if line.count(self.quote) & 1 or (outside[0] and not outside[0].endswith(d)):
            return 0
        if outside[-1] and not outside[-1].startswith((d, b"\n", b"\r\n")):
            return 0
        for piece in outside[1:-1]:
            if piece and not (piece.startswith(d) and piece.endswith(d)):
                return 0
        return sum(piece.count(d) for piece in outside) + 1

    def _still_open(self, line: bytes) -> bool:
        inside = line.replace(self.quote * 2, b"")
        return self.quote not in inside or bool(self._closes_and_opens.fullmatch(line))

    def _record(
        self, line: int, byte: int, parts: list[bytes], size: int, cells: int = 0
    ) -> Record:
        text = parts[0] if len(parts) == 1 else b"".join(parts)
        if size > LINE_BYTES_MAX:
            return Record(line, byte, text, 0, Rule.TOO_LONG)
        text = text[:-1] if text.endswith(b"\n") else text
        text = text[:-1] if text.endswith(b"\r") else text
        if not text.isascii():
            try:
                text.decode()
            except UnicodeDecodeError:
                return Record(line, byte, text, 0, Rule.BAD_ENCODING)
        if cells:
            return Record(line, byte, text, cells, None)
        bare = self._quoted_cell.sub(rb"\1", text) if self.quote in text else text
        return Record(line, byte, text, bare.count(self.delimiter) + 1, None)

    def fitted(self, record: Record, columns: int) -> tuple[bytes, Rule | None]:
        """Return the record's text cut to `columns` cells, or the rule that it breaks."""
        if record.fault:
            return record.text, record.fault
        text, cells = record.text, record.cells
        while cells > columns and text.endswith(self.delimiter):
            text, cells = text[: -len(self.delimiter)], cells - 1
        if cells > columns:
            return text, Rule.TOO_MANY_CELLS
        return text, Rule.TOO_FEW_CELLS if cells < columns else None

    def simplest(self, text: bytes) -> bytes:
        """Write a record so that every reader agrees on it: no carriage return outside quotes."""
        if not self.is_ambiguous(text):
            return text
        q = self.quote
        return self.delimiter.join(
            q + raw.replace(q, q + q) + q if value is None and b"\r" in raw else raw
            for raw, value in self._split(text)
        )

    def is_ambiguous(self, text: bytes) -> bool:
        """Tell whether a carriage return stands outside of quotes, which ends records elsewhere."""
        return b"\r" in text and any(
            value is None and b"\r" in raw for raw, value in self._split(text)
        )

    def cells_of(self, text: bytes) -> list[str]:
        """Split one unbroken record into its cells."""
        return [
            (raw if value is None else value).decode(errors="replace")
            for raw, value in self._split(text)
        ]

    def _split(self, text: bytes) -> Iterator[tuple[bytes, bytes | None]]:
        """Yield each cell as it stands, and its value if it is quoted."""
        at, q = 0, self.quote
        while True:
            if found := self._quoted_value.match(text, at):
                yield found[0], found[1].replace(q + q, q)
                end = found.end()
            else:
                end = text.find(self.delimiter, at)
                end = len(text) if end < 0 else end
                yield text[at:end], None
            if end >= len(text):
                return
            at = end + len(self.delimiter)
