"""CSV files by URL, path or glob.

Cells are read as text and judged by the engine; a file's header names its columns. Files with the
same header are read in one scan. Positions count from the unpacked text.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, ClassVar, Final, Literal

import duckdb
import msgspec

from headrace.connectors.families import files, text_scan
from headrace.connectors.families.csv_text import LINE_BYTES_MAX, CsvText
from headrace.connectors.families.files import FilesConfig
from headrace.connectors.families.quick_csv import QuickCsv
from headrace.contract.columns import Column, literal
from headrace.contract.source import Cell, File, RowCheck, Scan, SourceMaker, Survey
from headrace.contract.spec import Spec
from headrace.contract.tools import Tools
from headrace.domain.errors import Misconfigured, Refused
from headrace.domain.rejected import Rule
from headrace.native import text as native

SMALL_BYTES: Final = 1 << 20  # below, the quick way is not quicker
QUICK_FILES_MAX: Final = 64
HEAD_BYTES: Final = 1 << 20  # a header that is longer is no header


class CsvConfig(FilesConfig, frozen=True, kw_only=True):
    """What a user fills in for CSV files."""

    delimiter: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = ","
    quote: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = '"'
    header: Annotated[bool, msgspec.Meta(description="False: columns are column1, column2 …")] = (
        True
    )
    mapping: dict[str, str] = msgspec.field(default_factory=dict)
    unmapped: Annotated[
        Literal["infer", "string"],
        msgspec.Meta(description="The type of columns that the mapping leaves out."),
    ] = "infer"
    unique_id_column: str | None = msgspec.field(default=None, name="uniqueIDColumn")

    def __post_init__(self) -> None:
        for name in ("delimiter", "quote"):
            if getattr(self, name) in "\r\n\ufffd " or not getattr(self, name).isascii():
                raise ValueError(f"`{name}` must be one ASCII character, no space or line end")
        if self.delimiter == self.quote:
            raise ValueError("`delimiter` and `quote` must differ")
        files.check_mapping(self.mapping)


class CsvScan:
    """Files with one header."""

    checks: Sequence[RowCheck] = ()
    document: str | None = None

    def __init__(
        self, scanned: list[File], names: Sequence[str], config: CsvConfig, tools: Tools
    ) -> None:
        self.files: Sequence[File] = scanned
        self._config = config
        self._tools = tools
        self._text = CsvText(config.delimiter, config.quote)
        self._columns = len(names)
        other = "infer" if config.unmapped == "infer" else "string"
        self.cells: Sequence[Cell] = [
            Cell(column=Column(name, config.mapping.get(name, other)), sql=f"c{number}")
            for number, name in enumerate(names)
        ]

    def needed_cells(self, names: Sequence[str]) -> Sequence[Cell]:
        return self.cells

    def relation(self, files: Sequence[File], *, with_file: bool) -> str:
        columns = ", ".join(f"'c{number}': 'VARCHAR'" for number in range(self._columns))
        options = (
            f"header={str(self._config.header).lower()}, delim={literal(self._config.delimiter)},"
            f" quote={literal(self._config.quote)}, escape={literal(self._config.quote)},"
            f" allow_quoted_nulls=false, columns={{{columns}}}"
        )
        return text_scan.reader(files, options, with_file=with_file)

    def reader_rejects(self, con: duckdb.DuckDBPyConnection) -> dict[str, list[int]]:
        return text_scan.left_out(con)

    def count(self, file: File) -> int:
        """Count a file's records in its bytes; the header is none."""
        found = native.count_records(
            file.path,
            delimiter=self._config.delimiter,
            quote=self._config.quote,
            blanks=self._columns == 1,
        )
        if found is None:
            found = sum(1 for _ in self._text.records(file.path, self._columns))
        return max(found - self._config.header, 0)

    def survey(self, file: File, wanted: Sequence[int], keep: int) -> Survey:
        surveyor = text_scan.Surveyor(wanted, keep)
        records = self._text.records(file.text_path or file.path, self._columns)
        if self._config.header:
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
            if self._config.header and (header := next(records, None)):
                out.write(header.text + b"\n")
            for record in records:
                text, rule = self._text.fitted(record, self._columns)
                if not rule:
                    out.write(self._text.simplest(text) + b"\n")
        return File(
            name=file.name,
            path=str(target),
            bytes=file.bytes,
            known=file.records,
            text_path=file.path,
            version=file.version,
            cleaned=True,
        )

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
    ) -> QuickCsv | None:
        config = self._config
        small = min(file.bytes for file in self.files) < SMALL_BYTES
        if (
            small
            or len(self.files) > QUICK_FILES_MAX
            or not native.readable(config.delimiter, config.quote)
        ):
            return None
        threads = con.execute("select current_setting('threads')").fetchone() or (1,)
        return QuickCsv(
            con, self.files, self.cells, types, delimiter=config.delimiter, quote=config.quote,
            header=config.header, pieces=1 if in_order else int(threads[0]),
        )  # fmt: skip


class Csv:
    """CSV files."""

    spec: ClassVar[Spec] = Spec(name="csv", title="CSV files", config=CsvConfig)

    def __init__(self, config: CsvConfig, tools: Tools) -> None:
        self._config = config
        self._tools = tools
        # Beside the scan: counting needs one core for a tenth of its time.
        self._counter = ThreadPoolExecutor(1, "headrace-count")

    def check(self) -> None:
        for file in files.gather(self._config, self._tools):
            self._header(file)
            return

    def scans(self, con: duckdb.DuckDBPyConnection) -> Iterator[Scan]:
        groups: dict[tuple[str, ...], list[File]] = {}
        for file in files.gather(self._config, self._tools):
            groups.setdefault(self._header(file), []).append(file)
        if not any(groups):
            raise Refused(
                "There is nothing in the file: not even a header.",
                hint="Check the URL; an empty CSV file has at least a header.",
                field="input.url",
            )
        for names, members in groups.items():
            if not names:
                continue  # an empty file among others
            self._judge_names(names, members[0].name)
            scan = CsvScan(members, names, self._config, self._tools)
            for file in members:
                file.counting = self._counter.submit(scan.count, file)
            yield scan

    def _header(self, file: File) -> tuple[str, ...]:
        files.refuse_html(file)
        text = CsvText(self._config.delimiter, self._config.quote)
        first = next(text.records(file.path), None)
        if first is None:
            return ()
        if first.fault or len(first.text) > HEAD_BYTES:
            raise Refused(
                f"{file.name}: its first line cannot be read as CSV"
                f" ({(first.fault or Rule.TOO_LONG).replace('_', ' ')}).",
                hint="Check delimiter, quote and encoding.",
                field="input.url",
            )
        names = text.cells_of(first.text)
        if not self._config.header:
            return tuple(f"column{number}" for number in range(1, len(names) + 1))
        return tuple(name.strip() or f"column{number}" for number, name in enumerate(names, 1))

    def _judge_names(self, names: Sequence[str], where: str) -> None:
        folded: dict[str, str] = {}
        for name in names:
            twin = folded.get(name.casefold())
            folded[name.casefold()] = name
            if twin is not None:
                what = f"{name!r} twice" if twin == name else f"both {twin!r} and {name!r}"
                raise Refused(
                    f"{where}: the header names the column {what}.",
                    hint="Give every column a name of its own (case does not count).",
                    field="input.url",
                )
            if "\0" in name or name.casefold().startswith("__headrace_"):
                raise Refused(f"{where}: {name!r} cannot be a column's name.", field="input.url")
        wanted = dict.fromkeys(self._config.mapping, "input.mapping")
        if self._config.unique_id_column:
            wanted[self._config.unique_id_column] = "input.uniqueIDColumn"
        for name, field in wanted.items():
            if name not in names:
                raise Misconfigured(
                    f"{where} has no column {name!r}, which {field} names.",
                    hint=f"Its columns: {', '.join(names[:20])}.",
                    field=field,
                )

    def close(self) -> None:
        self._counter.shutdown(cancel_futures=True)


CONNECTOR: Final[SourceMaker] = Csv  # type: ignore[assignment]  # its config is narrower
