"""The quick way through plain CSV files: native streams that DuckDB reads like tables.

A file is cut into a piece a core. Where a piece begins is guessed at a newline, and proved later:
the piece before must have stopped there.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import duckdb

from headrace.contract.columns import FILE, decimal_of, literal
from headrace.contract.source import Cell, File
from headrace.native import text

PIECE_BYTES_MIN: Final = 32 << 20  # a smaller piece is not worth a stream
_names = itertools.count()


class QuickCsv:
    """One header's files, each as one or more streams registered with a connection."""

    def __init__(
        self, con: duckdb.DuckDBPyConnection, files: Sequence[File], cells: Sequence[Cell],
        types: Mapping[str, str], *, delimiter: str, quote: str, header: bool, pieces: int,
    ) -> None:  # fmt: skip
        self._con = con
        kinds = [_kind(types[cell.column.name]) for cell in cells]
        self.cells = [
            cell if kind is None else Cell(column=cell.column, sql=cell.sql, typed=True)
            for cell, kind in zip(cells, kinds, strict=True)
        ]
        columns = [kind or ("text", 0, 0) for kind in kinds]
        self._bytes = 0
        self._streams: dict[str, list[tuple[str, text.CsvStream]]] = {}
        for file in files:
            size = Path(file.path).stat().st_size
            self._bytes += size
            marks = list(_cuts(file.path, size, pieces))
            streams = [
                text.CsvStream(
                    file.path, columns, delimiter=delimiter, quote=quote, header=header,
                    begin=begin, end=end,
                )
                for begin, end in itertools.pairwise([0, *marks, text.WHOLE])
            ]  # fmt: skip
            named = [(f"__headrace_quick_{next(_names)}", stream) for stream in streams]
            self._streams[file.path] = named
            for name, stream in named:
                con.register(name, stream)

    def relation(self, files: Sequence[File], *, with_file: bool) -> str:
        rows = []
        for file in files:
            also = f", {literal(file.path)} as {FILE}" if with_file else ""
            rows += [f"select *{also} from {name}" for name, _ in self._streams[file.path]]
        return f"({' union all '.join(rows)})"

    def streams(self, files: Sequence[File]) -> Sequence[text.CsvStream]:
        return [stream for file in files for _, stream in self._streams[file.path]]

    def share(self) -> float:
        done = sum(
            stream.place - stream.begin for named in self._streams.values() for _, stream in named
        )
        return min(done / max(self._bytes, 1), 1.0)

    def stop(self) -> None:
        for named in self._streams.values():
            for _, stream in named:
                stream.stop()

    def complete(self) -> bool:
        for path, named in self._streams.items():
            begins = [stream.begin for _, stream in named[1:]]
            if [stream.stopped_at for _, stream in named] != [*begins, Path(path).stat().st_size]:
                return False
        return True

    def close(self) -> None:
        for named in self._streams.values():
            for name, _ in named:
                self._con.unregister(name)


def _kind(type_: str) -> tuple[text.Kind, int, int] | None:
    """Return what the native reader makes of a type, or None where it only copies the text."""
    if size := decimal_of(type_):
        return ("decimal", *size) if size[0] <= text.DIGITS_MAX else None
    kinds: dict[str, text.Kind] = {
        "string": "text", "integer": "integer", "date": "date", "float": "float",
        "timestamp": "timestamp", "boolean": "boolean",
    }  # fmt: skip
    return (kinds[type_], 0, 0) if type_ in kinds else None


def _cuts(path: str, size: int, pieces: int) -> Iterator[int]:
    """Yield where the second piece and those after it begin: behind newlines."""
    pieces = min(pieces, size // PIECE_BYTES_MIN)
    last = 0
    with Path(path).open("rb") as file:
        for number in range(1, pieces):
            file.seek(size * number // pieces)
            file.readline(text.CHUNK_BYTES)
            if last < file.tell() < size:
                yield (last := file.tell())
