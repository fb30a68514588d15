"""Scanning CSV files of one header, wherever they came from.

Cells are read as text and judged by the engine. Positions count from the unpacked text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import duckdb

from headrace.connectors.families import files, text_scan
from headrace.connectors.families.csv_text import LINE_BYTES_MAX, CsvText
from headrace.connectors.families.quick_csv import QuickCsv, QuickCsvFiles
from headrace.connectors.families.quick_streams import are_many, threads_of
from headrace.contract.columns import Column, literal
from headrace.contract.source import Cell, File, RowCheck, Survey
from headrace.contract.tools import Tools
from headrace.domain.errors import Refused
from headrace.domain.rejected import Rule
from headrace.native import text as native

SMALL_BYTES: Final = 1 << 20  # below, the quick way is not quicker


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvForm:
    """How files are written, and the types of their columns; those left out are as `unmapped`."""

    delimiter: str = ","
    quote: str = '"'
    header: bool = True
    mapping: Mapping[str, str] = field(default_factory=dict)
    unmapped: str = "infer"


class CsvScan:
    """Files with one header."""

    checks: Sequence[RowCheck] = ()
    document: str | None = None

    def __init__(
        self, scanned: list[File], names: Sequence[str], form: CsvForm, tools: Tools
    ) -> None:
        self.files: Sequence[File] = scanned
        self._form = form
        self._tools = tools
        self._text = CsvText(form.delimiter, form.quote)
        self._columns = len(names)
        other = "infer" if form.unmapped == "infer" else "string"
        self.cells: Sequence[Cell] = [
            Cell(column=Column(name, form.mapping.get(name, other)), sql=f"c{number}")
            for number, name in enumerate(names)
        ]

    def needed_cells(self, names: Sequence[str]) -> Sequence[Cell]:
        return self.cells

    def relation(self, files: Sequence[File], *, with_file: bool) -> str:
        columns = ", ".join(f"'c{number}': 'VARCHAR'" for number in range(self._columns))
        options = (
            f"header={str(self._form.header).lower()}, delim={literal(self._form.delimiter)},"
            f" quote={literal(self._form.quote)}, escape={literal(self._form.quote)},"
            f" allow_quoted_nulls=false, columns={{{columns}}}"
        )
        if max(file.bytes for file in files) <= LINE_BYTES_MAX:  # each lies in one buffer
            options += f", buffer_size={4 * LINE_BYTES_MAX}"  # a quarter of what it would take
        return text_scan.reader(files, options, with_file=with_file)

    def reader_rejects(self, con: duckdb.DuckDBPyConnection) -> dict[str, list[int]]:
        return text_scan.left_out(con)

    def count(self, file: File) -> int:
        """Count a file's records in its bytes; the header is none."""
        found = native.count_records(
            file.path,
            delimiter=self._form.delimiter,
            quote=self._form.quote,
            blanks=self._columns == 1,
        )
        if found is None:
            found = 0
            for record in self._text.records(file.path, self._columns):
                found += 1
                file.ambiguous |= not record.fault and self._text.is_ambiguous(record.text)
        return max(found - self._form.header, 0)

    def survey(self, file: File, wanted: Sequence[int], keep: int) -> Survey:
        surveyor = text_scan.Surveyor(wanted, keep)
        records = self._text.records(file.text_path or file.path, self._columns)
        if self._form.header:
            next(records, None)
        for record in records:
            _, rule = self._text.fitted(record, self._columns)
            fault = (rule, self._message(rule, record.cells)) if rule else None
            surveyor.record(record.line, record.byte, record.text, fault)
        return surveyor.found

    def _message(self, rule: Rule, cells: int) -> str:
        match rule:
            case Rule.TOO_FEW_CELLS | Rule.TOO_MANY_CELLS:
                return f"The row has {cells} cells; the header has {self._columns}."
            case Rule.UNTERMINATED_QUOTE:
                return "A quote opens here and is never closed."
            case Rule.BAD_QUOTING:
                return "There is text after a closing quote, or a bare carriage return."
            case Rule.TOO_LONG:
                return f"The row is longer than {LINE_BYTES_MAX:,} bytes."
            case _:
                return "The row is not written in UTF-8."

    def cleaned(self, file: File) -> File:
        target = files.new_spool_file(self._tools)
        records = self._text.records(file.path, self._columns)
        with target.open("wb") as out:
            if self._form.header and (header := next(records, None)):
                out.write(header.text + b"\n")
            for record in records:
                text, rule = self._text.fitted(record, self._columns)
                if not rule:
                    out.write(self._text.simplest(text) + b"\n")
        return replace(
            file, path=str(target), known=file.records, counting=None, text_path=file.path,
            cleaned=True, ambiguous=False,
        )  # fmt: skip

    def record_bytes(self) -> int:
        return text_scan.record_bytes(self.files)

    def head(self, file: File, bytes_max: int) -> File | None:
        head = text_scan.cut_head(file, bytes_max)
        if head is None:
            return None
        # The cut may fall into a quoted cell; the broken end of the sample does not matter.
        target = files.new_spool_file(self._tools)
        target.write_bytes(head)
        return File(name=file.name, path=str(target), bytes=len(head), known=None)

    def quick(
        self, con: duckdb.DuckDBPyConnection, types: Mapping[str, str], *, in_order: bool
    ) -> QuickCsv | QuickCsvFiles | None:
        form = self._form
        small = sum(file.bytes for file in self.files) < SMALL_BYTES
        if small or not native.readable(form.delimiter, form.quote):
            return None
        return (QuickCsvFiles if are_many(self.files) else QuickCsv)(
            con, self.files, self.cells, types, self._tools, delimiter=form.delimiter,
            quote=form.quote, header=form.header, in_order=in_order, threads=threads_of(con),
        )  # fmt: skip


def judge_names(names: Sequence[str], where: str, field: str) -> None:
    """Raise Refused for names that a table's columns cannot have."""
    folded: dict[str, str] = {}
    for name in names:
        twin = folded.get(name.casefold())
        folded[name.casefold()] = name
        if twin is not None:
            what = f"{name!r} twice" if twin == name else f"both {twin!r} and {name!r}"
            raise Refused(
                f"{where}: the header names the column {what}.",
                hint="Give every column a name of its own (case does not count).",
                field=field,
            )
        if "\0" in name or name.casefold().startswith("__headrace_"):
            raise Refused(f"{where}: {name!r} cannot be a column's name.", field=field)
