"""The quick way through plain files: native streams that DuckDB reads like tables."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

import duckdb

from headrace.connectors.families import files as local
from headrace.connectors.families import text_scan
from headrace.contract.columns import FILE, MISFIT, decimal_of, literal
from headrace.contract.source import Cell, File, LeftOver
from headrace.contract.tools import Tools
from headrace.native import text
from headrace.native.text import CHUNK_BYTES

Kind = tuple[text.Kind, int, int]  # with precision and scale of a decimal

PIECE_BYTES_MIN: Final = 32 << 20  # a smaller piece of a file is not worth a stream
LEFT_MAX: Final = 10_000  # records of a stream that are passed over; of more the exact way knows
FILES_MAX: Final = 64  # more are many, however large
TEXT: Final[Kind] = ("text", 0, 0)
_KINDS: Final[Mapping[str, text.Kind]] = {
    "string": "text", "integer": "integer", "date": "date", "float": "float", "json": "json",
    "timestamp": "timestamp", "boolean": "boolean",
}  # fmt: skip
_numbers = itertools.count()


def are_many(files: Sequence[File]) -> bool:
    """Tell whether files are read one after the other by a stream a core, and none is cut."""
    largest = max(file.bytes for file in files)
    return len(files) > 1 and (largest < PIECE_BYTES_MIN or len(files) > FILES_MAX)


def threads_of(con: duckdb.DuckDBPyConnection) -> int:
    """Return how many threads a connection works with."""
    found = con.execute("select current_setting('threads')").fetchone() or (1,)
    return int(found[0])


def kind_of(type_: str) -> Kind | None:
    """Return what a native reader makes of a type; None where it makes nothing."""
    if size := decimal_of(type_):
        return ("decimal", *size) if size[0] <= text.DIGITS_MAX else None
    return (_KINDS[type_], 0, 0) if type_ in _KINDS else None


def name() -> str:
    """Return a name that no other stream of this process has."""
    return f"__headrace_quick_{next(_numbers)}"


class QuickStreams:
    """Files, each as one or more streams registered with a connection."""

    def __init__(
        self, con: duckdb.DuckDBPyConnection, cells: Sequence[Cell],
        streams: Mapping[str, Sequence[text.CsvStream | text.JsonStream]], read: Mapping[str, str],
        tools: Tools, header: bytes = b"",
    ) -> None:  # fmt: skip
        """`streams` by the path that a file is known by; `read`: the path that they read.

        `header` is a line that stands before the records of such a file.
        """
        self.cells = cells
        self._con = con
        self._read = read
        self._tools = tools
        self._header = header
        self._sizes = {path: Path(other).stat().st_size for path, other in read.items()}
        self._streams = {
            path: [(name(), stream) for stream in some] for path, some in streams.items()
        }

    def relation(self, files: Sequence[File], *, with_file: bool) -> str:
        rows = []
        for file in files:
            for name, stream in self._streams[file.path]:
                # The bare capsule: a stream itself would go through a scanner that reads on and on
                # while nobody takes what it has read.
                try:
                    self._con.register(name, stream.__arrow_c_stream__())
                except BrokenPipeError as error:  # who gave up tells why to who reads the exact way
                    raise duckdb.InvalidInputException(MISFIT) from error
            also = f", {literal(file.path)} as {FILE}" if with_file else ""
            rows += [f"select *{also} from {name}" for name, _ in self._streams[file.path]]
        return f"({' union all '.join(rows)})"

    def streams(self, files: Sequence[File]) -> Sequence[text.CsvStream | text.JsonStream]:
        return [stream for file in files for _, stream in self._streams[file.path]]

    def share(self) -> float:
        done = sum(
            stream.place - stream.begin for named in self._streams.values() for _, stream in named
        )
        return min(done / max(sum(self._sizes.values()), 1), 1.0)

    def stop(self) -> None:
        for named in self._streams.values():
            for _, stream in named:
                stream.stop()

    def complete(self) -> bool:
        for path, named in self._streams.items():
            ends = [stream.begin for _, stream in named[1:]]
            ends.append(Path(self._read[path]).stat().st_size)
            if [stream.stopped_at for _, stream in named] != ends:
                return False
        return True

    def left_over(self, file: File) -> LeftOver | None:
        left: list[text.Left] = []
        before = 0
        for _, stream in self._streams[file.path]:
            left += [text.Left(one.offset, one.size, before + one.record) for one in stream.left]
            before += stream.records + len(stream.left)
        if not left:
            return None
        target = local.new_spool_file(self._tools)
        return left_over(file, self._read[file.path], left, target, self._header)

    def close(self) -> None:
        for named in self._streams.values():
            for name, _ in named:
                self._con.unregister(name)


class QuickParts:
    """Many files of one form: a stream a core, each over a part of them."""

    def __init__(
        self, con: duckdb.DuckDBPyConnection, cells: Sequence[Cell], files: Sequence[File],
        read: Mapping[str, str],
        opened: Callable[[Sequence[str]], text.ManyCsvStream | text.ManyJsonStream], parts: int,
        tools: Tools, header: bytes = b"",
    ) -> None:  # fmt: skip
        """`read`: the path that is read of a file, where it is another than it is known by.

        `opened` makes a stream over paths; of such there are at most `parts`.
        """
        self.cells = cells
        self._con = con
        self._tools = tools
        self._header = header
        self._parts = [
            (name(), opened([read.get(file.path, file.path) for file in part]), part)
            for part in _parts(files, parts)
        ]
        self._at = {
            file.path: (number, place)
            for number, (_, _, part) in enumerate(self._parts)
            for place, file in enumerate(part)
        }
        self._total = sum(file.bytes for file in files)

    def relation(self, files: Sequence[File], *, with_file: bool) -> str:
        rows = []
        for one, stream, part in self._parts:
            self._con.register(one, stream.__arrow_c_stream__())
            paths = ", ".join(literal(file.path) for file in part)
            number = f"c{len(self.cells)}"
            also = f", list_extract([{paths}], {number} + 1) as {FILE}" if with_file else ""
            rows.append(f"select * exclude ({number}){also} from {one}")
        return f"({' union all '.join(rows)})"

    def streams(self, files: Sequence[File]) -> Sequence[text.CsvStream | text.JsonStream]:
        return ()  # they have a column more

    def share(self) -> float:
        return min(sum(one.place for _, one, _ in self._parts) / max(self._total, 1), 1.0)

    def stop(self) -> None:
        for _, stream, _ in self._parts:
            stream.stop()

    def complete(self) -> bool:
        return all(
            stream.stopped_at == Path(stream.paths[-1]).stat().st_size
            for _, stream, _ in self._parts
        )

    @cached_property
    def _left(self) -> Mapping[tuple[int, int], Sequence[text.Left]]:
        """The records that were passed over, by stream and file; not known before the end."""
        found: dict[tuple[int, int], list[text.Left]] = {}
        for number, (_, stream, _) in enumerate(self._parts):
            for one in stream.left:
                found.setdefault((number, one.file), []).append(one)
        return found

    def left_over(self, file: File) -> LeftOver | None:
        number, place = self._at[file.path]
        left = self._left.get((number, place))
        if not left:
            return None
        path = self._parts[number][1].paths[place]
        target = local.new_spool_file(self._tools)
        return left_over(file, path, left, target, self._header)

    def close(self) -> None:
        for one, _, _ in self._parts:
            self._con.unregister(one)


def _parts(files: Sequence[File], parts: int) -> Iterator[Sequence[File]]:
    """Yield so many runs of files, in order, of about the same size."""
    each = sum(file.bytes for file in files) / parts
    some: list[File] = []
    size = 0
    for file in files:
        some.append(file)
        size += file.bytes
        if size >= each:
            yield some
            some, size = [], 0
    if some:
        yield some


def left_over(
    file: File, path: str, left: Sequence[text.Left], target: Path, header: bytes = b""
) -> LeftOver:
    """Write records that were passed over in `path` to a file of their own, a line each."""
    places = []
    with Path(path).open("rb") as source, target.open("wb") as out:
        out.write(header)
        for one, line in zip(left, _lines(path, [one.offset for one in left]), strict=True):
            source.seek(one.offset)
            raw = source.read(one.size).removesuffix(b"\r")
            out.write(raw + b"\n")
            places.append(text_scan.place(one.record + 1, line, one.offset, raw))
    own = File(name=file.name, path=str(target), bytes=target.stat().st_size, known=len(left))
    return LeftOver(file=own, places=places)


def _lines(path: str, offsets: Sequence[int]) -> Iterator[int]:
    """Yield the line of each of the offsets, which are sorted."""
    line, at = 1, 0
    with Path(path).open("rb") as file:
        for offset in offsets:
            while at < offset:
                chunk = file.read(min(CHUNK_BYTES, offset - at))
                line += chunk.count(b"\n")
                at += len(chunk)
            yield line


def cuts(path: str, size: int, pieces: int) -> Iterator[int]:
    """Yield where the second piece and those after it begin: behind newlines."""
    pieces = min(pieces, size // PIECE_BYTES_MIN)
    last = 0
    with Path(path).open("rb") as file:
        for number in range(1, pieces):
            file.seek(size * number // pieces)
            file.readline(CHUNK_BYTES)
            if last < file.tell() < size:
                yield (last := file.tell())
