"""The quick way through plain CSV files.

A file is cut into a piece a core. Where a piece begins is guessed at a newline, and proved later:
the piece before must have stopped there.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb

from headrace.connectors.families.quick_streams import LEFT_MAX, QuickParts, QuickStreams, cuts
from headrace.contract.columns import decimal_of
from headrace.contract.source import Cell, File
from headrace.contract.tools import Tools
from headrace.native import text

_Kind = tuple[text.Kind, int, int]


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
        line = _header(len(cells), delimiter) if header else b""
        super().__init__(
            con, _cells(cells, kinds), streams, {path: path for path in streams}, tools, line
        )


class QuickCsvFiles(QuickParts):
    """Many files of one header."""

    def __init__(
        self, con: duckdb.DuckDBPyConnection, files: Sequence[File], cells: Sequence[Cell],
        types: Mapping[str, str], tools: Tools, *, delimiter: str, quote: str, header: bool,
        in_order: bool, threads: int,
    ) -> None:  # fmt: skip
        kinds = [_kind(types[cell.column.name]) for cell in cells]
        columns = [kind or ("text", 0, 0) for kind in kinds]

        def opened(paths: Sequence[str]) -> text.ManyCsvStream:
            return text.ManyCsvStream(
                paths, columns, delimiter=delimiter, quote=quote, header=header,
                left_max=0 if in_order else LEFT_MAX,
            )  # fmt: skip

        parts = 1 if in_order else threads
        super().__init__(
            con, _cells(cells, kinds), files, {}, opened, parts, tools,
            header=_header(len(cells), delimiter) if header else b"",
        )  # fmt: skip


def _cells(cells: Sequence[Cell], kinds: Sequence[_Kind | None]) -> list[Cell]:
    """Return the cells as the native reader gives them."""
    return [
        cell if kind is None else Cell(column=cell.column, sql=cell.sql, typed=True)
        for cell, kind in zip(cells, kinds, strict=True)
    ]


def _header(cells: int, delimiter: str) -> bytes:
    return delimiter.join("x" * cells).encode() + b"\n"


def _kind(type_: str) -> _Kind | None:
    """Return what the native reader makes of a type, or None where it only copies the text."""
    if size := decimal_of(type_):
        return ("decimal", *size) if size[0] <= text.DIGITS_MAX else None
    kinds: dict[str, text.Kind] = {
        "string": "text", "integer": "integer", "date": "date", "float": "float",
        "timestamp": "timestamp", "boolean": "boolean",
    }  # fmt: skip
    return (kinds[type_], 0, 0) if type_ in kinds else None
