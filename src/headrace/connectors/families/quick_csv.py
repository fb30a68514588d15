"""The quick way through plain CSV files.

A file is cut into a piece a core. Where a piece begins is guessed at a newline, and proved later:
the piece before must have stopped there.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from headrace.connectors.families import files as local
from headrace.connectors.families.quick_streams import (
    LEFT_MAX,
    QuickStreams,
    cuts,
    left_over,
    name,
)
from headrace.contract.columns import FILE, decimal_of, literal
from headrace.contract.source import Cell, File, LeftOver
from headrace.contract.tools import Tools
from headrace.native import text


class QuickCsv(QuickStreams):
    """One header's files."""

    def __init__(
        self, con: duckdb.DuckDBPyConnection, files: Sequence[File], cells: Sequence[Cell],
        types: Mapping[str, str], tools: Tools, *, delimiter: str, quote: str, header: bool,
        in_order: bool, threads: int,
    ) -> None:  # fmt: skip
        kinds = [_kind(types[cell.column.name]) for cell in cells]
        columns = [kind or ("text", 0, 0) for kind in kinds]
        streams: dict[str, list[text.CsvStream]] = {}
        for file in files:
            pieces = 1 if in_order else threads
            marks = cuts(file.path, Path(file.path).stat().st_size, pieces)
            streams[file.path] = [
                text.CsvStream(
                    file.path, columns, delimiter=delimiter, quote=quote, header=header,
                    begin=begin, end=end, left_max=0 if in_order else LEFT_MAX,
                )
                for begin, end in itertools.pairwise([0, *marks, text.WHOLE])
            ]  # fmt: skip
        line = delimiter.join("x" * len(cells)).encode() + b"\n" if header else b""
        super().__init__(con, streams, {path: path for path in streams}, tools, line)
        self.cells = [
            cell if kind is None else Cell(column=cell.column, sql=cell.sql, typed=True)
            for cell, kind in zip(cells, kinds, strict=True)
        ]


class QuickFiles(QuickCsv):
    """Many files of one header: a stream a core, each over a part of them."""

    def __init__(
        self, con: duckdb.DuckDBPyConnection, files: Sequence[File], cells: Sequence[Cell],
        types: Mapping[str, str], tools: Tools, *, delimiter: str, quote: str, header: bool,
        in_order: bool, threads: int,
    ) -> None:  # fmt: skip
        super().__init__(
            con, (), cells, types, tools, delimiter=delimiter, quote=quote, header=header,
            in_order=in_order, threads=threads,
        )  # fmt: skip
        columns = [_kind(types[cell.column.name]) or ("text", 0, 0) for cell in cells]
        self._parts = [
            (
                name(),
                text.ManyCsvStream(
                    [file.path for file in part], columns, delimiter=delimiter, quote=quote,
                    header=header, left_max=0 if in_order else LEFT_MAX,
                ),
                part,
            )
            for part in _parts(files, 1 if in_order else threads)
        ]  # fmt: skip
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

    def streams(self, files: Sequence[File]) -> Sequence[Any]:
        return ()  # they have a column more

    def share(self) -> float:
        return min(sum(one.place for _, one, _ in self._parts) / max(self._total, 1), 1.0)

    def stop(self) -> None:
        for _, stream, _ in self._parts:
            stream.stop()

    def complete(self) -> bool:
        return all(
            stream.stopped_at == Path(part[-1].path).stat().st_size
            for _, stream, part in self._parts
        )

    def left_over(self, file: File) -> LeftOver | None:
        number, place = self._at[file.path]
        left = [one for one in self._parts[number][1].left if one.file == place]
        if not left:
            return None
        target = local.new_spool_file(self._tools)
        return left_over(file, file.path, left, target, self._header)

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


def _kind(type_: str) -> tuple[text.Kind, int, int] | None:
    """Return what the native reader makes of a type, or None where it only copies the text."""
    if size := decimal_of(type_):
        return ("decimal", *size) if size[0] <= text.DIGITS_MAX else None
    kinds: dict[str, text.Kind] = {
        "string": "text", "integer": "integer", "date": "date", "float": "float",
        "timestamp": "timestamp", "boolean": "boolean",
    }  # fmt: skip
    return (kinds[type_], 0, 0) if type_ in kinds else None
