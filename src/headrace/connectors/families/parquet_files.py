"""Parquet files, and what becomes some.

Values have types already and are not judged. Records are counted from the files' own metadata, by
another library than the one that reads them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, ClassVar

import duckdb
import msgspec

from headrace.connectors.families import files, parquet_parts
from headrace.connectors.families.files import FilesConfig
from headrace.contract.columns import FILE, NANOSECONDS, Column, literal, ours_of, quoted, text_of
from headrace.contract.source import Cell, File, Place, RowCheck, Scan, Survey
from headrace.contract.spec import Spec
from headrace.contract.tools import Tools
from headrace.domain.errors import Refused
from headrace.domain.rejected import RAW_BYTES_MAX, Rule


class ParquetConfig(FilesConfig, frozen=True, kw_only=True):
    """What a user fills in for Parquet files."""

    unique_id_column: str | None = msgspec.field(default=None, name="uniqueIDColumn")
    mapping: Annotated[
        dict[str, str],
        msgspec.Meta(description="Types of columns that are to be others than the file's own."),
    ] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        files.check_mapping(self.mapping)


class ParquetScan:
    """Files with the same columns."""

    document: str | None = None

    def __init__(
        self,
        scanned: list[File],
        columns: Sequence[tuple[str, str]],
        con: duckdb.DuckDBPyConnection,
        mapping: Mapping[str, str],
    ) -> None:
        self.files: Sequence[File] = scanned
        self.cells: Sequence[Cell] = [
            _cell(name, type_, mapping.get(name)) for name, type_ in columns
        ]
        self.checks: Sequence[RowCheck] = [
            RowCheck(
                sql=f"epoch_ns({quoted(name)}) % 1000 <> 0", rule=Rule.BAD_VALUE,
                message=f"{name!r} has nanoseconds, which a timestamp here does not; map it to"
                " string to keep them.",
            )
            for cell, (name, type_) in zip(self.cells, columns, strict=True)
            if type_ == NANOSECONDS and cell.typed
        ]  # fmt: skip
        self._con = con
        self._packed = ", ".join(f"{quoted(name)} := {quoted(name)}" for name, _ in columns)

    def needed_cells(self, names: Sequence[str]) -> Sequence[Cell]:
        return self.cells

    def relation(self, files: Sequence[File], *, with_file: bool) -> str:
        paths = ", ".join(literal(file.path) for file in files)
        named = f", filename={literal(FILE)}" if with_file else ""
        return f"read_parquet([{paths}]{named})"

    def reader_rejects(self, con: duckdb.DuckDBPyConnection) -> dict[str, list[int]]:
        return {}

    def survey(self, file: File, wanted: Sequence[int], keep: int) -> Survey:
        found = Survey(records=file.records or 0)
        ordinals = ", ".join(map(str, wanted)) or "-1"
        rows = self._con.execute(
            f"select file_row_number, to_json(row)::varchar from (select file_row_number,"
            f" struct_pack({self._packed}) as row"
            f" from read_parquet({literal(file.path)}, file_row_number=true))"
            f" where file_row_number in ({ordinals})"
        ).fetchall()
        for ordinal, raw in rows:
            found.wanted[ordinal] = Place(
                record=ordinal + 1, line=None, byte=None, raw=raw[:RAW_BYTES_MAX],
                raw_cut=len(raw) > RAW_BYTES_MAX,
            )  # fmt: skip
        return found

    def cleaned(self, file: File) -> File:
        return file

    def quick(
        self, con: duckdb.DuckDBPyConnection, types: Mapping[str, str], *, in_order: bool
    ) -> None:
        return None

    def record_bytes(self) -> int:
        largest = max(self.files, key=lambda file: file.bytes)
        found = self._con.execute(
            "select sum(total_uncompressed_size) // greatest(any_value(num_rows), 1) from"
            " parquet_metadata($1) join parquet_file_metadata($1) using (file_name)",
            [largest.path],
        ).fetchone() or (0,)
        return int(found[0] or 0)

    def head(self, file: File, bytes_max: int) -> File | None:
        return None


class ParquetFiles:
    """A source of files that are read as Parquet. Subclasses give `spec`."""

    spec: ClassVar[Spec]

    def __init__(self, config: ParquetConfig, tools: Tools) -> None:
        self._config = config
        self._tools = tools

    def check(self) -> None:
        files.check_first(self._files(), self._tools)

    def look(self) -> dict[str, str]:
        return files.look(self._config, self._tools)

    def _files(self) -> Iterator[File]:
        """Yield the files, counted."""
        needs = self._tools.needs
        choose = None if needs is None else partial(_chosen, needs)
        found = files.gather(self._config, self._tools, text=False, choose=choose)
        yield from files.prepared(found, self._tools, self._counted)

    def _counted(self, file: File) -> File:
        files.refuse_html(file)
        file.known = _count(file)
        return file

    def scans(self, con: duckdb.DuckDBPyConnection) -> Iterator[Scan]:
        groups: dict[tuple[tuple[str, str], ...], list[File]] = {}

        def described(file: File) -> tuple[tuple[tuple[str, str], ...], File]:
            try:
                found = con.execute(
                    f"describe select * from read_parquet({literal(file.path)})"
                ).fetchall()
            except duckdb.Error as error:
                raise Refused(f"{file.name} cannot be read as Parquet.") from error
            names = [row[0] for row in found]
            files.judge_mapping(self._config.mapping, names, file.name)
            needs = self._tools.needs
            # Of an object that came in parts the other columns are holes.
            wanted = set(names if file.body or needs is None else needs(names))
            return tuple((row[0], row[1]) for row in found if row[0] in wanted), file

        for columns, file in files.prepared(self._files(), self._tools, described):
            groups.setdefault(columns, []).append(file)
        for columns, members in groups.items():
            yield ParquetScan(members, columns, con, self._config.mapping)

    def close(self) -> None:
        pass


def _chosen(
    needs: Callable[[Sequence[str]], Sequence[str]], size: int, read: parquet_parts.Read
) -> parquet_parts.Parts | None:
    return parquet_parts.parts_of(size, read, needs)


def _count(file: File) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(file.path).num_rows)
    except (pa.ArrowInvalid, OSError) as error:
        raise Refused(
            f"{file.name} is not a Parquet file.", hint="Check the URL.", field="input.url"
        ) from error


def _cell(name: str, type_: str, wanted: str | None) -> Cell:
    column = quoted(name)
    ours, sql = ours_of(type_, column)
    if wanted is not None and wanted != ours:  # then its text is judged
        return Cell(column=Column(name, wanted), sql=text_of(type_, column))
    return Cell(column=Column(name, ours), sql=sql, typed=True)
