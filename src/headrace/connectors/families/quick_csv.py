"""The quick way through plain CSV files.

A file is cut into a piece a core. Where a piece begins is guessed at a newline, and proved later:
the piece before must have stopped there.
"""

import itertools
from collections.abc import Mapping, Sequence
from ctypes import c_int64
from pathlib import Path

import duckdb

from headrace.connectors.families.quick_streams import (
    LEFT_MAX,
    TEXT,
    Kind,
    QuickParts,
    QuickStreams,
    cuts,
    kind_of,
)
from headrace.contract.source import Cell, File
from headrace.contract.tools import Tools
from headrace.native import text


class QuickCsv(QuickStreams):
    """One header's files."""

    def __init__(
        self, con: duckdb.DuckDBPyConnection, files: Sequence[File], cells: Sequence[Cell],
        types: Mapping[str, str], tools: Tools, *, delimiter: str, quote: str, header: bool,
        in_order: bool, threads: int, growth: c_int64 | None = None,
    ) -> None:  # fmt: skip
        """`growth`: of files that are still written, as CsvStream knows it; each is one piece."""
        kinds = [_kind(types[cell.column.name]) for cell in cells]
        columns = [kind or TEXT for kind in kinds]
        streams: dict[str, list[text.CsvStream]] = {}
        for file in files:
            pieces = 1 if in_order or growth is not None else threads
            marks = cuts(file.path, Path(file.path).stat().st_size, pieces)
            streams[file.path] = [
                text.CsvStream(
                    file.path, columns, delimiter=delimiter, quote=quote, header=header,
                    begin=begin, end=end, left_max=0 if in_order else LEFT_MAX, growth=growth,
                )
                for begin, end in itertools.pairwise([0, *marks, text.WHOLE])
            ]  # fmt: skip
        super().__init__(
            con, _cells(cells, kinds), streams, {path: path for path in streams}, tools,
            _line(len(cells), delimiter, header=header),
        )  # fmt: skip


class QuickCsvFiles(QuickParts):
    """Many files of one header."""

    def __init__(
        self, con: duckdb.DuckDBPyConnection, files: Sequence[File], cells: Sequence[Cell],
        types: Mapping[str, str], tools: Tools, *, delimiter: str, quote: str, header: bool,
        in_order: bool, threads: int,
    ) -> None:  # fmt: skip
        kinds = [_kind(types[cell.column.name]) for cell in cells]
        columns = [kind or TEXT for kind in kinds]

        def opened(paths: Sequence[str]) -> text.ManyCsvStream:
            return text.ManyCsvStream(
                paths, columns, delimiter=delimiter, quote=quote, header=header,
                left_max=0 if in_order else LEFT_MAX,
            )  # fmt: skip

        parts = 1 if in_order else threads
        super().__init__(
            con, _cells(cells, kinds), files, {}, opened, parts, tools,
            _line(len(cells), delimiter, header=header),
        )  # fmt: skip


def _cells(cells: Sequence[Cell], kinds: Sequence[Kind | None]) -> list[Cell]:
    """Return the cells as the native reader gives them."""
    return [
        cell if kind is None else Cell(column=cell.column, sql=cell.sql, typed=True)
        for cell, kind in zip(cells, kinds, strict=True)
    ]


def _line(cells: int, delimiter: str, *, header: bool) -> bytes:
    """Return what stands before records of such a file, whatever the columns are called."""
    return delimiter.join("x" * cells).encode() + b"\n" if header else b""


def _kind(type_: str) -> Kind | None:
    """Return what the native reader makes of a type, or None where it only copies the text."""
    return None if type_ == "json" else kind_of(type_)
