"""JSON files by URL, path or glob: an array of objects, or one object a line.

An array is cut into lines first, in bounded memory; then both are one scan. Values are judged by
their JSON type and never coerced.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

import duckdb
import msgspec

from headrace.connectors.families import files, json_text, text_scan
from headrace.connectors.families.files import FilesConfig
from headrace.connectors.families.quick_json import QuickJson, QuickJsonFiles
from headrace.connectors.families.quick_streams import (
    FILES_MAX,
    LEFT_MAX,
    are_many,
    kind_of,
    left_over,
    threads_of,
)
from headrace.contract.columns import Column, literal
from headrace.contract.source import Cell, File, LeftOver, RowCheck, Scan, SourceMaker, Survey
from headrace.contract.spec import Spec
from headrace.contract.tools import Tools
from headrace.domain.errors import Refused
from headrace.domain.rejected import Rule
from headrace.native import text as native
from headrace.native.text import JsonSurvey

READER_LINE_BYTES: Final = 8_388_608
COLUMNS_MAX: Final = 2_000
SAMPLE_RECORDS: Final = 10_000
GLIMPSE_RECORDS: Final = 100  # of a file that is not the first
SMALL_BYTES: Final = 1 << 20  # all files together: below, the quick way is not quicker
DEPTH_MAX: Final = 10
SEPARATOR: Final = "__"  # between the names of an object and its member
TOLD_RECORDS: Final = 10_000
TOLD_S: Final = 0.2
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
    nested: Annotated[
        Literal["json", "columns", "tables"],
        msgspec.Meta(
            description="What objects in records become: JSON, or a column a member; with tables"
            " arrays become tables of their own."
        ),
    ] = "json"
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
        self, scanned: list[File], arrays: set[str], surveys: dict[str, JsonSurvey],
        glimpsed: dict[str, int], config: JsonConfig, con: duckdb.DuckDBPyConnection, tools: Tools,
    ) -> None:  # fmt: skip
        """`arrays`: paths of the lines that are cut out of an array, when they are needed.

        `surveys`: what is known of files that are plain, by path. `glimpsed`: those of which only
        the first records were looked at, with how many are the sample.
        """
        self.files: Sequence[File] = scanned
        self._arrays = arrays
        self._surveys = surveys
        self._glimpsed = glimpsed
        self._config = config
        self._con = con
        self._tools = tools

    @cached_property
    def cells(self) -> Sequence[Cell]:
        """One cell an attribute that any record has (invariant 2: a sample would lose some).

        Of files that were only glimpsed at, those of the first records: whoever loads them so asks
        afterwards whether it `knows` all there is.
        """
        types = self._surveyed() if self._plain() else self._looked()
        paths: dict[str, tuple[str, ...]] = {}
        if self._nested:
            types, paths = self._flattened(types)
        if len(types) > COLUMNS_MAX:
            raise Refused(
                f"The records have more than {COLUMNS_MAX:,} different attributes.",
                hint="Put what varies below one attribute, or load into a search index.",
                field="input.url",
            )
        twins: dict[str, str] = {}
        for name in types:
            if not name or "\0" in name or name.casefold().startswith("__headrace_"):
                raise Refused(
                    f"The records have a member named {name!r}, which cannot be a column's name.",
                    hint="Rename it, or load into a search index.", field="input.url",
                )  # fmt: skip
            if (twin := twins.setdefault(name.casefold(), name)) != name:
                raise Refused(
                    f"The records have both {twin!r} and {name!r}: a table's columns"
                    " must differ by more than case.",
                    hint="Rename one, or load into a search index.",
                    field="input.url",
                )
        return [
            self.cell(name, type_, paths.get(name))
            for name, type_ in (types | self._config.mapping).items()
        ]

    @property
    def _nested(self) -> bool:
        return self._config.nested != "json"

    def _flattened(
        self, types: Mapping[str, str]
    ) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
        """Put in the place of each object's column those of its members, however deep.

        Returns types and paths by name. What is an object only at times stays one column.
        """
        raw = self.relation(self.files, with_file=False)
        objects = f"(select doc from {raw} where doc is not null and json_type(doc) = 'OBJECT')"
        found = self._con.execute(f"select json_group_structure(doc) from {objects}").fetchone()
        self.reader_rejects(self._con)
        tree = json.loads(found[0]) if found and found[0] else {}
        flat: dict[str, str] = {}
        paths: dict[str, tuple[str, ...]] = {}
        for name, type_ in types.items():
            for path, leaf in _leaves((name,), tree.get(name)):
                column = SEPARATOR.join(path)
                if column in flat:
                    raise Refused(
                        f"The members {'.'.join(path)} and {'.'.join(paths[column])} would both"
                        f" be the column {column!r}.",
                        hint='Leave objects as they are: "nested": "json".', field="input.nested",
                    )  # fmt: skip
                flat[column] = type_ if len(path) == 1 else leaf
                paths[column] = path
        return flat, paths

    def _plain(self) -> bool:
        return all(file.path in self._surveys for file in self.files)

    def _looked(self) -> dict[str, str]:
        """Return the type of each attribute by a look at every record."""
        raw = self.relation(self.files, with_file=False)
        objects = f"(select doc from {raw} where doc is not null and json_type(doc) = 'OBJECT')"
        first = objects.replace(raw, f"(select doc from {raw} limit {SAMPLE_RECORDS})")
        sampled = self._kinds(first)
        kinds = self._kinds(objects)
        self.reader_rejects(self._con)
        return _types(sampled, kinds)

    def _surveyed(self) -> dict[str, str]:
        """Return the same by what is known already, and a look at the few that are not plain."""
        sampled: dict[str, set[str]] = {}
        kinds: dict[str, set[str]] = {}
        for file in self.files:
            survey = self._surveys[file.path]
            found = [
                (one.first, one.name.decode(), one.sampled, one.kinds) for one in survey.members
            ]
            if survey.left:
                found += self._left(file, survey)
            for _, name, first, all_ in sorted(found, key=lambda one: one[0]):
                kinds.setdefault(name, set()).update(all_)
                if first:
                    sampled.setdefault(name, set()).update(first)
        untyped = kinds.keys() - self._config.mapping
        unseen = not kinds or self._config.mapping.keys() - kinds  # whose place is not known
        nulls = any(sampled.get(name, set()) <= {"NULL"} for name in untyped)
        if self._glimpsed and (unseen or nulls):
            self._look_again()  # only other records tell what there is
            return self._surveyed() if self._plain() else self._looked()
        return _types(sampled, kinds)

    def _look_again(self) -> None:
        """Look at every record of what was only glimpsed at."""
        for file in self.files:
            if (sample := self._glimpsed.pop(file.path, None)) is None:
                continue
            survey = look(file, self._tools, sample=sample, lines=True)
            if survey is None:
                del self._surveys[file.path]
            else:
                self._surveys[file.path] = survey

    def settle(self) -> bool:
        if not self._glimpsed:
            return False
        self._look_again()
        return self.__dict__.pop("cells", None) is not None

    def knows(self, left: Sequence[LeftOver]) -> bool:
        if not self._glimpsed:
            return True
        names = {cell.column.name for cell in self.cells}
        return all(
            name in names for one in left for _, _, name, _ in self._members(Path(one.file.path))
        )

    def _left(
        self, file: File, survey: JsonSurvey
    ) -> list[tuple[tuple[int, int], str, frozenset[str], frozenset[str]]]:
        """Look at the records that a survey has passed over, as `Member`s have it."""
        target = files.new_spool_file(self._tools)
        left_over(file, file.text_path or file.path, survey.left, target)
        found = []
        for number, place, name, kind in self._members(target):
            record = survey.left[number].record
            kinds = frozenset(filter(None, [kind]))
            sampled = kinds if record < survey.sample else frozenset()
            found.append(((record, place), name, sampled, kinds))
        return found

    def _members(self, path: Path) -> list[tuple[int, int, str, str]]:
        """Return line, place, name and kind of every member of the objects in a small file."""
        numbers, lines = [], []
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1]):
            with contextlib.suppress(UnicodeDecodeError):
                lines.append(line.decode())
                numbers.append(number)
        return self._con.execute(
            "select n, unnest(range(len(json_keys(doc)))), unnest(json_keys(doc)),"
            " unnest(list_transform(json_keys(doc), lambda k:"
            " json_type(doc, '/' || replace(replace(k, '~', '~0'), '/', '~1'))))"
            f" from (select n, case when json_valid(line) and {STRICT} then line::json end as doc"
            " from (select unnest(?::bigint[]) as n, unnest(?::varchar[]) as line))"
            " where doc is not null and json_type(doc) = 'OBJECT'",
            [numbers, lines],
        ).fetchall()

    def cell(self, name: str, type_: str, path: tuple[str, ...] | None = None) -> Cell:
        """Return the cell of one attribute."""
        where = literal("".join(map(pointer, path or (name,))))
        return Cell(
            column=Column(name, type_),
            sql=f"json_extract_string(doc, {where})",
            json_type=f"json_type(doc, {where})",
        )

    def needed_cells(self, names: Sequence[str]) -> Sequence[Cell]:
        """Return the mapped cells and those of `names`, without a look at what else is there."""
        wanted = dict.fromkeys(names, "key") | self._config.mapping
        return [self.cell(name, type_) for name, type_ in wanted.items()]

    def _kinds(self, objects: str) -> dict[str, set[str]]:
        """Return the kinds of each attribute, in the order in which they are first seen."""
        found = self._con.execute(
            "select name, list(distinct type), min(seen * 1000000 + place) from (select"
            " row_number() over () as seen, unnest(range(len(json_keys(doc)))) as place,"
            " unnest(json_keys(doc)) as name, unnest(list_transform(json_keys(doc), lambda k:"
            " json_type(doc, '/' || replace(replace(k, '~', '~0'), '/', '~1')))) as type"
            f" from {objects}) group by name order by 3 limit {COLUMNS_MAX + 1}"
        ).fetchall()
        return {name: set(filter(None, kinds)) for name, kinds, _ in found}

    def relation(self, files: Sequence[File], *, with_file: bool) -> str:
        options = (
            "header=false, delim='\\x01', quote='', escape='', strict_mode=false,"
            f" max_line_size={READER_LINE_BYTES}, buffer_size={2 * READER_LINE_BYTES},"
            " columns={'line': 'VARCHAR'}"
        )
        for file in files:
            if file.path in self._arrays and not Path(file.path).exists():
                self._cut(file)
        lines = text_scan.reader(files, options, with_file=with_file)
        return (
            f"(select *, case when json_valid(line) and {STRICT} then line::json end as doc"
            f" from {lines} where line is not null and trim(line, ' \t\r') <> '')"
        )

    def reader_rejects(self, con: duckdb.DuckDBPyConnection) -> dict[str, list[int]]:
        return text_scan.left_out(con)

    def _cut(self, file: File) -> None:
        """Write the elements of an array as lines."""
        with Path(file.path).open("wb") as out:
            for number, (_, byte, text) in enumerate(
                json_text.elements(file.text_path, file.name), 1
            ):
                out.write(json_text.as_line(text))
                if number % TOLD_RECORDS == 0:
                    self._tools.told(f"cutting {file.name}", done=byte, total=file.bytes)

    def _records(self, file: File) -> Iterator[tuple[int, int, bytes]]:
        return records_of(file, cut=file.path in self._arrays)

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
        copy = replace(
            file, path=str(target), known=file.records, counting=None,
            text_path=file.text_path or file.path, cleaned=True,
        )  # fmt: skip
        if file.path in self._arrays:
            self._arrays.add(copy.path)
        return copy

    def quick(
        self, con: duckdb.DuckDBPyConnection, types: Mapping[str, str], *, in_order: bool
    ) -> QuickJson | QuickJsonFiles | None:
        columns = [Column(cell.column.name, types[cell.column.name]) for cell in self.cells]
        small = sum(file.bytes for file in self.files) < SMALL_BYTES
        able = all(kind_of(column.type) for column in columns)
        if small or not self._plain() or not able or not columns or self._nested:
            return None
        threads, closed = threads_of(con), bool(self._glimpsed)
        cut = sum(file.path in self._arrays for file in self.files)
        if are_many(self.files) and cut in (0, len(self.files)):
            return QuickJsonFiles(
                con, self.files, columns, self._tools, lines=not cut, closed=closed,
                in_order=in_order, threads=threads,
            )  # fmt: skip
        if len(self.files) > FILES_MAX:
            return None  # both lines and arrays, and a stream for each would be too many
        return QuickJson(
            con, self._surveys, self.files, columns, self._tools, arrays=self._arrays,
            closed=closed, in_order=in_order, threads=threads,
        )  # fmt: skip

    def record_bytes(self) -> int:
        lines = [file for file in self.files if file.path not in self._arrays]
        known = [
            file.bytes // max(self._surveys[file.path].records, 1)
            for file in self.files
            if file.path in self._arrays and file.path in self._surveys
        ]
        return max([text_scan.record_bytes(lines) if lines else 0, *known])

    def head(self, file: File, bytes_max: int) -> File | None:
        if file.bytes <= bytes_max:
            return None
        if file.path not in self._arrays:
            head = text_scan.cut_head(file, bytes_max)
        else:
            head = b""
            for _, _, text in json_text.elements(file.text_path, file.name):
                head += json_text.as_line(text)
                if len(head) > bytes_max:
                    break
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
        self._counter = ThreadPoolExecutor(1, "headrace-count")

    def check(self) -> None:
        found = files.gather(self._config, self._tools)
        files.check_first(found, self._tools, files.refuse_html)

    def look(self) -> dict[str, str]:
        return files.look(self._config, self._tools)

    def scans(self, con: duckdb.DuckDBPyConnection) -> Iterator[Scan]:
        arrays: set[str] = set()
        surveys: dict[str, JsonSurvey] = {}
        glimpsed: dict[str, int] = {}
        left = SAMPLE_RECORDS

        def counted(file: File) -> File:
            nonlocal left
            is_array = json_text.is_array(file.path, file.head)
            files.refuse_html(file)
            glimpses = not is_array and self._config.nested == "json"
            most = max(left, GLIMPSE_RECORDS) if glimpses else native.WHOLE
            survey = look(file, self._tools, sample=left, lines=not is_array, most=most)
            if is_array:
                target = files.new_spool_file(self._tools, ".lines")
                file = replace(file, path=str(target), text_path=file.path)
                arrays.add(file.path)
            if survey is None:
                file.known = sum(1 for _ in records_of(file, cut=is_array))
                return file
            surveys[file.path] = survey
            if glimpses and survey.records >= most:  # there may be more
                glimpsed[file.path] = left
            if is_array:
                file.known = survey.records
            else:  # in its bytes, beside the loading: it takes a tenth of the time
                file.counting = self._counter.submit(native.count_lines, file.path)
            left = max(left - survey.records, 0)
            return file

        found = files.gather(self._config, self._tools)
        scanned = list(files.prepared(found, self._tools, counted))
        if not scanned and self._tools.bad:
            return
        if not any(file.bytes for file in scanned):
            raise Refused(
                "There is nothing in the file.",
                hint="An empty JSON file holds at least [].",
                field="input.url",
            )
        yield JsonScan(scanned, arrays, surveys, glimpsed, self._config, con, self._tools)

    def close(self) -> None:
        self._counter.shutdown(cancel_futures=True)


def records_of(file: File, *, cut: bool) -> Iterator[tuple[int, int, bytes]]:
    """Yield line, byte and text of every record of a file; `cut`: they are an array's elements."""
    if cut:
        return json_text.elements(file.text_path, file.name)
    return json_text.lines(file.text_path or file.path)


def look(
    file: File, tools: Tools, *, sample: int, lines: bool, most: int = native.WHOLE
) -> JsonSurvey | None:
    """Look at the first `most` records of a file; None if too many of them are not plain."""
    if not native.available():
        return None
    path = file.text_path or file.path
    surveying = native.Surveying(path, lines=lines, sample=sample, left_max=LEFT_MAX, most=most)
    if file.bytes < SMALL_BYTES:  # over before there is anything to tell
        return surveying.run()
    with ThreadPoolExecutor(1, "headrace-survey") as thread:
        under_way = thread.submit(surveying.run)
        try:
            while not wait([under_way], TOLD_S).done:
                tools.told(f"reading {file.name}", done=surveying.place, total=file.bytes)
        except BaseException:
            surveying.stop()
            raise
        return under_way.result()


def pointer(name: str) -> str:
    """Write an attribute's name as a JSON pointer."""
    return "/" + name.replace("~", "~0").replace("/", "~1")


def _leaves(path: tuple[str, ...], tree: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield path and type of what lies below a member, by the structure that DuckDB tells."""
    if isinstance(tree, dict) and tree and len(path) < DEPTH_MAX:
        for name, below in tree.items():
            yield from _leaves((*path, name), below)
    else:
        yield path, _type_of({tree}) if isinstance(tree, str) and tree != "JSON" else "json"


def _types(sampled: Mapping[str, set[str]], kinds: Mapping[str, set[str]]) -> dict[str, str]:
    """Return the type of each attribute: that of the first records, where they have values."""
    return {
        name: _type_of((sampled.get(name, set()) - {"NULL"}) or found)
        for name, found in kinds.items()
    }


def _type_of(kinds: set[str]) -> str:
    kinds = kinds - {"NULL"}
    if kinds == {"VARCHAR"} or not kinds:
        return "string"
    if kinds <= {"UBIGINT", "BIGINT"}:
        return "integer"
    if kinds <= {"UBIGINT", "BIGINT", "DOUBLE"}:
        return "float"
    return "boolean" if kinds == {"BOOLEAN"} else "json"


CONNECTOR: Final[SourceMaker] = Json  # type: ignore[assignment]  # its config is narrower
