"""JSON record by record: lines, and the elements of an array cut out as lines.

An array of any size is cut in bounded memory: only brackets and strings are looked at, and an
element goes out exactly as it stood, on one line (newlines between its tokens become spaces).
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from headrace.domain.errors import Refused
from headrace.domain.rejected import Rule

LINE_BYTES_MAX: Final = 8_000_000  # of one record
CHUNK_BYTES: Final = 1 << 20
BOM: Final = b"\xef\xbb\xbf"
_TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}"]', re.DOTALL)
_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")

Element = tuple[int, int, bytes]  # line, byte, text


def is_array(path: str, head: bytes = b"") -> bool:
    """Tell whether a file's first character that is not a space opens an array.

    `head`: its first bytes, where they are at hand.
    """
    if known := head.removeprefix(BOM).lstrip():
        return known.startswith(b"[")
    with Path(path).open("rb") as file:
        head = file.read(3)
        head = b"" if head == BOM else head
        while not head.strip():
            if not (more := file.read(4096)):
                return False
            head = more
    return head.lstrip().startswith(b"[")


def lines(path: str) -> Iterator[tuple[int, int, bytes]]:
    """Yield line number, byte offset and text of every line that is not blank."""
    offset = 0
    with Path(path).open("rb") as file:
        if file.read(3) == BOM:
            offset = 3
        else:
            file.seek(0)
        for number, line in enumerate(file, 1):
            text = line.rstrip(b"\r\n")
            if text.strip():
                yield number, offset, text
            offset += len(line)


def fault_of_line(text: bytes) -> tuple[Rule, str] | None:
    """Return why a line cannot even be looked at as JSON, or None."""
    if len(text) > LINE_BYTES_MAX:
        return Rule.TOO_LONG, f"The record is longer than {LINE_BYTES_MAX:,} bytes."
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError as error:
            return Rule.BAD_ENCODING, f"Byte {error.start} of the record is not UTF-8."
    return None


def elements(path: str, name: str) -> Iterator[Element]:
    """Yield the elements of an array. Raises Refused, with the offset, where it is no array."""
    with Path(path).open("rb") as file:
        yield from _Cutter(file, name).elements()


class _Cutter:
    """Cuts one array. `buffer` begins at byte `base` of the file, with line `line`."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.file = file
        self.name = name
        self.buffer = b""
        self.base = 0
        self.line = 1
        self.line_to = 0  # `line` is the line of this place in the buffer

    def refuse(self, at: int, why: str) -> Refused:
        return Refused(
            f"{self.name} is not a JSON array: {why} at byte {self.base + at:,}.",
            hint="Mend the file; nothing of it was loaded.",
        )

    def more(self, keep_from: int) -> bool:
        """Forget what lies before `keep_from`, read on; False at the end."""
        self.line_at(keep_from)
        self.line_to -= keep_from
        chunk = self.file.read(CHUNK_BYTES)
        self.buffer = self.buffer[keep_from:] + chunk
        self.base += keep_from
        return bool(chunk)

    def line_at(self, place: int) -> int:
        """Return the line of a place in the buffer that is not before the last one asked for."""
        self.line += self.buffer.count(b"\n", self.line_to, place)
        self.line_to = place
        return self.line

    def elements(self) -> Iterator[Element]:  # noqa: C901  # one state machine, read in one sitting
        self.more(0)
        start = self.buffer.find(b"[") + 1
        depth, last, at, first = 1, start, start, True
        opened = -1
        while True:
            waiting = -1
            for token in _TOKEN.finditer(self.buffer, at):
                kind = token[0]
                if kind in b"{[":
                    if depth == 1:
                        opened = token.start()
                        yield from self._gap(last, opened, first=first)
                        first = False
                    depth += 1
                elif kind in b"}]":
                    depth -= 1
                    if depth == 1:
                        yield self._element(opened, token.end())
                        last, opened = token.end(), -1
                    elif depth == 0:
                        yield from self._gap(last, token.start(), first=first, closing=True)
                        self._nothing_after(token.end())
                        return
                elif kind == b'"':
                    waiting = token.start()  # a string that goes on in the next chunk
                    break
                at = token.end()
            at = waiting if waiting >= 0 else len(self.buffer)
            keep = opened if opened >= 0 else last
            if at - keep > LINE_BYTES_MAX * 2 and opened < 0:
                raise self.refuse(keep, "no element for a long while")
            if len(self.buffer) - keep > 16 * LINE_BYTES_MAX:
                raise self.refuse(keep, f"an element longer than {16 * LINE_BYTES_MAX:,} bytes")
            if not self.more(keep):
                raise self.refuse(len(self.buffer), "it ends before the array does")
            at, last = at - keep, last - keep
            opened = opened - keep if opened >= 0 else -1

    def _element(self, start: int, end: int) -> Element:
        return self.line_at(start), self.base + start, self.buffer[start:end]

    def _gap(
        self, start: int, end: int, *, first: bool, closing: bool = False
    ) -> Iterator[Element]:
        """Yield what stands between two elements that are objects or arrays: scalars."""
        gap = self.buffer[start:end]
        bare = gap.strip()
        if bare == (b"" if first or closing else b","):
            return
        try:
            inner = bare if first else bare.removeprefix(b",")
            if not first and not bare.startswith(b","):
                raise ValueError
            if not closing:
                if not inner.endswith(b","):
                    raise ValueError
                inner = inner[:-1]
            values = json.loads(b"[" + inner + b"]", parse_constant=_no_constant)
            if not values:
                raise ValueError
        except ValueError:
            raise self.refuse(start, "an unexpected character") from None
        line = self.line_at(start)
        for value in values:
            yield line, self.base + start, json.dumps(value).encode()

    def _nothing_after(self, at: int) -> None:
        while True:
            if rest := self.buffer[at:].strip():
                raise self.refuse(len(self.buffer) - len(rest), "something after its end")
            if not self.more(len(self.buffer)):
                return
            at = 0


def _no_constant(name: str) -> None:
    raise ValueError(name)


def as_line(text: bytes) -> bytes:
    """Write an element on one line."""
    return text.translate(_BREAKS) + b"\n"
