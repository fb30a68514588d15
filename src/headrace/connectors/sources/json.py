"""JSON files by URL, path or glob: an array of objects, or one object a line.

An array is cut into lines first, in bounded memory; then both are one scan. Values are judged by
their JSON type and never coerced.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import ClassVar, Final

import duckdb
import msgspec

from headrace.connectors.families import files, json_text, text_scan
from headrace.connectors.families.files import FilesConfig
from headrace.contract.columns import Column, literal
from headrace.contract.source import Cell, File, RowCheck, Scan, SourceMaker, Survey
from headrace.contract.spec import Spec
from headrace.contract.tools import Tools
from headrace.domain.errors import Refused
from headrace.domain.rejected import Rule

READER_LINE_BYTES: Final = 8_388_608
COLUMNS_MAX: Final = 2_000
SAMPLE_RECORDS: Final = 10_000
# DuckDB's reader lets commas before a closing bracket pass, and numbers that are none; JSON has
# neither. Only a line that may hold one is looked at without its strings.
_LENIENT: Final = r",[ \t\r]*[}\]]|(?i:nan|inf)"
STRICT: Final = (
    f"(not regexp_matches(line, '{_LENIENT}') or not regexp_matches("
    rf"""regexp_replace(line, '"([^"\\]|\\.)*"', '""', 'g'), '{_LENIENT}'))"""
)


class JsonConfig(FilesConfig, frozen=True, kw_only=True):
    """What a user fills in for JSON files."""

    mapping: dict[str, str] = msgspec.field(default_factory=dict)
    unique_id_column: str | None = msgspec.field(default=None, name="uniqueIDColumn")

    def __post_init__(self) -> None:
        files.check_mapping(self.mapping)


class JsonScan:
    """All files of a run, one object a line."""

    document: str | None = "doc"
    checks: Sequence[RowCheck] = (
        RowCheck(sql="doc is null", rule=Rule.BROKEN_JSON, message="This is not JSON."),
        RowCheck(
            sql="json_type(doc) <> 'OBJECT'",
            rule=Rule.NOT_AN_OBJECT,
            message="A record must be a JSON object.",
        ),
    )

    def __init__(
        self,
        scanned: list[File],
        arrays: set[str],
        config: JsonConfig,
        con: duckdb.DuckDBPyConnection,
        tools: Tools,
    ) -> None:
        self.files: Sequence[File] = scanned
        self._arrays = arrays  # paths of lines that were cut out of an array
        self._config = config
        self._con = con
        self._tools = tools

    @cached_property
    def cells(self) -> Sequence[Cell]:
        """One cell an attribute that any record has (invariant 2: a sample would lose some)."""
        raw = self.relation(self.files, with_file=False)
        objects = f"(select doc from {raw} where doc is not null and json_type(doc) = 'OBJECT')"
        types = self._types(f"(select doc from {objects} limit {SAMPLE_RECORDS})")
        for name, type_ in self._types(objects).items():
            types.setdefault(name, type_)
        self.reader_rejects(self._con)
        if len(types) > COLUMNS_MAX:
            raise Refused(
                f"The records have more than {COLUMNS_MAX:,} different attributes.",
                hint="Put what varies below one attribute, or load into a search index.",
                field="input.url",
            )
        twins: dict[str, str] = {}
        for name in types:
            if (twin := twins.setdefault(name.casefold(), name)) != name:
                raise Refused(
                    f"The records have both {twin!r} and {name!r}: a table's columns"
                    " must differ by more than case.",
                    hint="Rename one, or load into a search index.",
                    field="input.url",
                )
        return [self.cell(name, type_) for name, type_ in (types | self._config.mapping).items()]

    def cell(self, name: str, type_: str) -> Cell:
        """Return the cell of one attribute."""
        where = literal(pointer(name))
        return Cell(
            column=Column(name, type_),
            sql=f"json_extract_string(doc, {where})",
            json_type=f"json_type(doc, {where})",
        )

    def needed_cells(self, names: Sequence[str]) -> Sequence[Cell]:
        """Return the mapped cells and those of `names`, without a look at what else is there."""
        wanted = dict.fromkeys(names, "key") | self._config.mapping
        return [self.cell(name, type_) for name, type_ in wanted.items()]

    def _types(self, objects: str) -> dict[str, str]:
        found = self._con.execute(
            "select name, list(distinct type), min(seen), min(place) from (select"
            " row_number() over () as seen, unnest(range(len(json_keys(doc)))) as place,"
            " unnest(json_keys(doc)) as name, unnest(list_transform(json_keys(doc), lambda k:"
            " json_type(doc, '/' || replace(replace(k, '~', '~0'), '/', '~1')))) as type"
            f" from {objects}) group by name order by 3, 4 limit {COLUMNS_MAX + 1}"
        ).fetchall()
        return {name: _type_of(set(kinds)) for name, kinds, _, _ in found}

    def relation(self, files: Sequence[File], *, with_file: bool) -> str:
        options = (
            "header=false, delim='\\x01', quote='', escape='', strict_mode=false,"
            f" max_line_size={READER_LINE_BYTES}, buffer_size={2 * READER_LINE_BYTES},"
            " columns={'line': 'VARCHAR'}"
        )
        lines = text_scan.reader(files, options, with_file=with_file)
        return (
            f"(select *, case when json_valid(line) and {STRICT} then line::json end as doc"
            f" from {lines} where line is not null and trim(line, ' \t\r') <> '')"
        )

    def reader_rejects(self, con: duckdb.DuckDBPyConnection) -> dict[str, list[int]]:
        return text_scan.left_out(con)

    def _records(self, file: File) -> Iterator[tuple[int, int, bytes]]:
        if file.path in self._arrays:
            return json_text.elements(file.text_path, file.name)
        return json_text.lines(file.text_path or file.path)

    def survey(self, file: File, wanted: Sequence[int], keep: int) -> Survey:
        surveyor = text_scan.Surveyor(wanted, keep)
        cut = file.path in self._arrays
        read_at = 0
        for line, byte, text in self._records(file):
            fault = json_text.fault_of_line(text)
            surveyor.record(line, byte, text, fault, read_at if cut else None)
            read_at += len(text) + 1
        return surveyor.found

    def cleaned(self, file: File) -> File:
        target = files.new_spool_file(self._tools)
        with target.open("wb") as out:
            for _, _, text in self._records(file):
                if not json_text.fault_of_line(text):
                    out.write(json_text.as_line(text))
        copy = File(
            name=file.name,
            path=str(target),
            bytes=file.bytes,
            known=file.records,
            text_path=file.text_path or file.path,
            version=file.version,
            cleaned=True,
        )
        if file.path in self._arrays:
            self._arrays.add(copy.path)
        return copy

    def quick(
        self, con: duckdb.DuckDBPyConnection, types: Mapping[str, str], *, in_order: bool
    ) -> None:
        return None

    def head(self, file: File, bytes_max: int) -> File | None:
        head = text_scan.cut_head(file, bytes_max)
        if head is None:
            return None
        target = files.new_spool_file(self._tools)
        target.write_bytes(head)
        return File(name=file.name, path=str(target), bytes=len(head), known=None)


class Json:
    """JSON files."""

    spec: ClassVar[Spec] = Spec(name="json", title="JSON files", config=JsonConfig, ranges=True)

    def __init__(self, config: JsonConfig, tools: Tools) -> None:
        self._config = config
        self._tools = tools

    def check(self) -> None:
        for file in files.gather(self._config, self._tools):
            files.refuse_html(file)
            return

    def look(self) -> dict[str, str]:
        return files.look(self._config, self._tools)

    def scans(self, con: duckdb.DuckDBPyConnection) -> Iterator[Scan]:
        arrays: set[str] = set()
        scanned: list[File] = []
        for file in files.gather(self._config, self._tools):
            files.refuse_html(file)
            if json_text.is_array(file.path):
                scanned.append(self._cut(file))
                arrays.add(scanned[-1].path)
            else:
                file.known = sum(1 for _ in json_text.lines(file.path))
                scanned.append(file)
        if not any(file.bytes for file in scanned):
            raise Refused(
                "There is nothing in the file.",
                hint="An empty JSON file holds at least [].",
                field="input.url",
            )
        yield JsonScan(scanned, arrays, self._config, con, self._tools)

    def _cut(self, file: File) -> File:
        target = files.new_spool_file(self._tools)
        records = 0
        with target.open("wb") as out:
            for _, byte, text in json_text.elements(file.path, file.name):
                out.write(json_text.as_line(text))
                records += 1
                if records % 10_000 == 0:
                    self._tools.told(f"cutting {file.name}", done=byte, total=file.bytes)
        return File(
            name=file.name,
            path=str(target),
            bytes=file.bytes,
            known=records,
            text_path=file.path,
            version=file.version,
        )

    def close(self) -> None:
        pass


def pointer(name: str) -> str:
    """Write an attribute's name as a JSON pointer."""
    return "/" + name.replace("~", "~0").replace("/", "~1")


def _type_of(kinds: set[str | None]) -> str:
    kinds -= {None, "NULL"}
    if kinds == {"VARCHAR"} or not kinds:
        return "string"
    if kinds <= {"UBIGINT", "BIGINT"}:
        return "integer"
    if kinds <= {"UBIGINT", "BIGINT", "DOUBLE"}:
        return "float"
    return "boolean" if kinds == {"BOOLEAN"} else "json"


CONNECTOR: Final[SourceMaker] = Json  # type: ignore[assignment]  # its config is narrower
