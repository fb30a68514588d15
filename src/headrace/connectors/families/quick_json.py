"""The quick way through plain JSON files."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import duckdb

from headrace.connectors.families.quick_streams import (
    LEFT_MAX,
    TEXT,
    QuickParts,
    QuickStreams,
    cuts,
    kind_of,
)
from headrace.contract.columns import Column
from headrace.contract.source import Cell, File
from headrace.contract.tools import Tools
from headrace.native import text


class QuickJson(QuickStreams):
    """Files whose records were all looked at."""

    def __init__(
        self, con: duckdb.DuckDBPyConnection, surveys: Mapping[str, text.JsonSurvey],
        files: Sequence[File], columns: Sequence[Column], tools: Tools, *, arrays: set[str],
        closed: bool, in_order: bool, threads: int,
    ) -> None:  # fmt: skip
        """`surveys` by path; `arrays`: paths of files whose records are an array's elements.

        `closed`: other members than the columns' end it.
        """
        kinds = [kind_of(column.type) or TEXT for column in columns]
        names = [column.name.encode() for column in columns]
        streams, read = {}, {}
        for file in files:
            read[file.path] = path = file.text_path or file.path
            pieces = 1 if in_order else threads
            lines = file.path not in arrays
            marks = (
                cuts(path, Path(path).stat().st_size, pieces)
                if lines
                else _chosen(surveys[file.path].marks, pieces)
            )
            streams[file.path] = [
                text.JsonStream(
                    path, kinds, names,
                    lines=lines, begin=begin, end=end, closed=closed,
                    left_max=0 if in_order else LEFT_MAX,
                )
                for begin, end in itertools.pairwise([0, *marks, text.WHOLE])
            ]  # fmt: skip
        super().__init__(con, _cells(columns), streams, read, tools)


class QuickJsonFiles(QuickParts):
    """Many files, all of lines or all arrays."""

    def __init__(
        self, con: duckdb.DuckDBPyConnection, files: Sequence[File], columns: Sequence[Column],
        tools: Tools, *, lines: bool, closed: bool, in_order: bool, threads: int,
    ) -> None:  # fmt: skip
        """`closed`: other members than the columns' end it."""
        kinds = [kind_of(column.type) or TEXT for column in columns]
        names = [column.name.encode() for column in columns]

        def opened(paths: Sequence[str]) -> text.ManyJsonStream:
            return text.ManyJsonStream(
                paths, kinds, names, lines=lines, closed=closed,
                left_max=0 if in_order else LEFT_MAX,
            )  # fmt: skip

        read = {file.path: file.text_path for file in files if file.text_path}
        parts = 1 if in_order else threads
        super().__init__(con, _cells(columns), files, read, opened, parts, tools)


def _cells(columns: Sequence[Column]) -> list[Cell]:
    # Nested values come as they stand; DuckDB writes them as it does everywhere.
    return [
        Cell(
            column=column, typed=True,
            sql=f"json_extract(c{number}, '$')" if column.type == "json" else f"c{number}",
        )
        for number, column in enumerate(columns)
    ]  # fmt: skip


def _chosen(marks: Sequence[int], pieces: int) -> Iterator[int]:
    """Yield those of the marks that cut a file into so many pieces."""
    pieces = min(pieces, len(marks) + 1)
    for number in range(1, pieces):
        yield marks[len(marks) * number // pieces]
