"""CSV files by URL, path or glob.

Cells are read as text and judged by the engine; a file's header names its columns. Files with the
same header are read in one scan. Positions count from the unpacked text.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, ClassVar, Final, Literal

import duckdb
import msgspec

from headrace.connectors.families import files
from headrace.connectors.families.csv_scan import CsvForm, CsvScan, judge_names
from headrace.connectors.families.csv_text import CsvText
from headrace.connectors.families.files import FilesConfig
from headrace.contract.source import File, Scan, SourceMaker
from headrace.contract.spec import Spec
from headrace.contract.tools import Tools
from headrace.domain.errors import Misconfigured, Refused
from headrace.domain.rejected import Rule

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


class Csv:
    """CSV files."""

    spec: ClassVar[Spec] = Spec(name="csv", title="CSV files", config=CsvConfig, ranges=True)

    def __init__(self, config: CsvConfig, tools: Tools) -> None:
        self._config = config
        self._form = CsvForm(
            delimiter=config.delimiter, quote=config.quote, header=config.header,
            mapping=config.mapping, unmapped=config.unmapped,
        )  # fmt: skip
        self._tools = tools
        self._judged: set[tuple[str, ...]] = set()
        self._headers: dict[bytes, tuple[str, ...]] = {}
        # Beside the scan: counting needs one core for a tenth of its time.
        self._counter = ThreadPoolExecutor(1, "headrace-count")

    def check(self) -> None:
        files.check_first(files.gather(self._config, self._tools), self._tools, self._header)

    def look(self) -> dict[str, str]:
        return files.look(self._config, self._tools)

    def scans(self, con: duckdb.DuckDBPyConnection) -> Iterator[Scan]:
        groups: dict[tuple[str, ...], list[File]] = {}
        found = files.gather(self._config, self._tools)
        for names, file in files.prepared(found, self._tools, self._headed):
            groups.setdefault(names, []).append(file)
        if not any(groups) and not self._tools.bad:
            raise Refused(
                "There is nothing in the file: not even a header.",
                hint="Check the URL; an empty CSV file has at least a header.",
                field="input.url",
            )
        for names, members in groups.items():
            if not names:
                continue  # an empty file among others
            scan = CsvScan(members, names, self._form, self._tools)
            for file in members:
                file.counting = self._counter.submit(scan.count, file)
            yield scan

    def _headed(self, file: File) -> tuple[tuple[str, ...], File]:
        """Return a file and its columns, which are judged once for all that have the same."""
        names = self._header(file)
        if names and names not in self._judged:
            self._judge_names(names, file.name)
            self._judged.add(names)
        return names, file

    def _header(self, file: File) -> tuple[str, ...]:
        line, end, _ = file.head.partition(b"\n")
        files.refuse_html(file)
        named = line.strip(b"\r\xef\xbb\xbf")  # a blank line is no header
        if not end or not named or self._config.quote.encode() in line:
            return self._first(file)
        if line not in self._headers:  # most files have that of another one
            self._headers[line] = self._first(file)
        return self._headers[line]

    def _first(self, file: File) -> tuple[str, ...]:
        """Return the columns that a file's first record names."""
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
        judge_names(names, where, "input.url")
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
