"""Sheets of workbooks: Excel (xlsx, xlsb, xls) and OpenDocument (ods).

A sheet becomes CSV in the spool and goes on as such: numbers without their formats, dates in ISO
form. Rows without any value are no records; a cell whose formula ends in an error is empty.
"""

import csv
import datetime as dt
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Final, Literal

import duckdb
import msgspec

from headrace.connectors.families import files
from headrace.connectors.families.csv_scan import CsvForm, CsvScan, judge_names
from headrace.connectors.families.files import FilesConfig
from headrace.contract.source import File, Scan, SourceMaker
from headrace.contract.spec import Spec
from headrace.contract.tools import Tools
from headrace.domain.errors import Misconfigured, Refused

TOLD_ROWS: Final = 10_000


class ExcelConfig(FilesConfig, frozen=True, kw_only=True):
    """What a user fills in for workbooks."""

    sheet: Annotated[str, msgspec.Meta(description="The first one if it is left out.")] = ""
    header: Annotated[bool, msgspec.Meta(description="False: columns are column1, column2 …")] = (
        True
    )
    mapping: dict[str, str] = msgspec.field(default_factory=dict)
    unmapped: Literal["infer", "string"] = "infer"
    unique_id_column: str | None = msgspec.field(default=None, name="uniqueIDColumn")

    def __post_init__(self) -> None:
        files.check_mapping(self.mapping)


class Excel:
    """Workbooks."""

    spec: ClassVar[Spec] = Spec(
        name="excel", title="Excel workbooks", config=ExcelConfig, ranges=True
    )

    def __init__(self, config: ExcelConfig, tools: Tools) -> None:
        self._config = config
        self._tools = tools

    def check(self) -> None:
        found = files.gather(self._config, self._tools, text=False, packed=False)
        files.check_first(found, self._tools, self._sheet)

    def look(self) -> dict[str, str]:
        return files.look(self._config, self._tools)

    def scans(self, con: duckdb.DuckDBPyConnection) -> Iterator[Scan]:
        groups: dict[tuple[str, ...], list[File]] = {}
        found = files.gather(self._config, self._tools, text=False, packed=False)
        for names, text in files.prepared(found, self._tools, self._as_csv):
            groups.setdefault(names, []).append(text)
        form = CsvForm(mapping=self._config.mapping, unmapped=self._config.unmapped)
        for names, members in groups.items():
            yield CsvScan(members, names, form, self._tools)

    def _sheet(self, file: File) -> Any:  # Any: calamine's
        import python_calamine as calamine

        files.refuse_html(file)
        try:
            book = calamine.CalamineWorkbook.from_path(file.path)
            names = book.sheet_names
            wanted = self._config.sheet or (names[0] if names else "")
            if wanted not in names:
                raise Misconfigured(
                    f"{file.name} has no sheet {wanted!r}.",
                    hint=f"Its sheets: {', '.join(names[:20])}.", field="input.sheet",
                )  # fmt: skip
            return book.get_sheet_by_name(wanted)
        except calamine.PasswordError as error:
            raise Refused(f"{file.name} is encrypted.", hint="Save it without.") from error
        except (calamine.CalamineError, OSError) as error:
            raise Refused(
                f"{file.name} is not a workbook that can be read: {str(error)[:200]}.",
                hint="xlsx, xlsb, xls and ods can.", field="input.url",
            ) from error  # fmt: skip

    def _as_csv(self, file: File) -> tuple[tuple[str, ...], File]:
        """Write a sheet as CSV; return its columns and the file."""
        rows = (row for row in self._sheet(file).iter_rows() if any(cell != "" for cell in row))
        first = next(rows, None)
        if first is None:
            raise Refused(
                f"{file.name}: the sheet is empty.", hint="Check input.sheet.", field="input.sheet"
            )
        names = tuple(
            (_text(cell).strip() if self._config.header else "") or f"column{number}"
            for number, cell in enumerate(first, 1)
        )
        judge_names(names, file.name, "input.url")
        files.judge_mapping(self._config.mapping, names, file.name)
        target = files.new_spool_file(self._tools)
        count = 0
        with target.open("w", encoding="utf-8", newline="") as out:
            to = csv.writer(out, lineterminator="\n")
            to.writerow(names)
            if not self._config.header:
                to.writerow(map(_text, first))
                count = 1
            for row in rows:
                to.writerow(map(_text, row))
                count += 1
                if count % TOLD_ROWS == 0:
                    self._tools.told(f"reading {file.name}", done=count)
        return names, replace(file, path=str(target), known=count)

    def close(self) -> None:
        pass


def _text(cell: object) -> str:
    """Write a cell's value without its format."""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() else repr(cell)
    if isinstance(cell, dt.datetime):
        return cell.isoformat(" ")
    if isinstance(cell, dt.timedelta):  # a duration, in seconds
        return _text(cell.total_seconds())
    return str(cell)


CONNECTOR: Final[SourceMaker] = Excel  # type: ignore[assignment]  # its config is narrower
