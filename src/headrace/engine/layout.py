"""The layout: which columns a table gets, and how each scan gives them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import duckdb

from headrace.contract.columns import (
    ATTRIBUTES,
    DOCUMENT,
    FILE,
    KEY,
    MISFIT,
    WIDER,
    Column,
    duckdb_type,
    literal,
    quoted,
)
from headrace.contract.source import Cell, File, Guessing, QuickScan, RowCheck, Scan
from headrace.domain.errors import Misconfigured, OwnerError, Refused, Unchanged
from headrace.domain.rejected import Rule
from headrace.domain.shape import PLAIN, Policy
from headrace.domain.task import Action
from headrace.engine import fit
from headrace.engine.plan import Plan
from headrace.engine.shaping import (
    Layout,
    cast,
    decided,
    is_ours,
    made_of,
    names_of,
    pinned,
)

HEAD_BYTES: Final = 1 << 20
STACKED: Final = 250  # cells whose types are told by one query: their values are held at once


@dataclass(slots=True, kw_only=True)
class Fitted:
    """One scan with the columns of the whole table laid over it."""

    scan: Scan
    layout: Layout
    columns: Sequence[Column]
    made: Sequence[str]  # SQL of each column's value
    checks: Sequence[RowCheck]
    judged: Sequence[tuple[Cell, str]]  # each cell that must fit, with the type to fit
    computed: Sequence[str] = ()  # SQL of what an expression makes: a struct, null if it cannot
    extra: Sequence[str]  # select items of KEY and DOCUMENT
    quick: QuickScan | None = None  # instead of the scan, for reading only

    def good(self) -> str:
        """Return SQL that is true for a row without fault."""
        tests = [f"not coalesce({check.sql}, false)" for check in self.checks]
        tests += self.tests()
        return " and ".join(test for test in tests if test != "true") or "true"

    def tests(self) -> list[str]:
        """Return for each judged cell SQL that is true where it fits."""
        return [
            fit.fits(_named(cell, number), type_, f"v{number}")
            for number, (cell, type_) in enumerate(self.judged)
        ]

    def _valued(self, files: Sequence[File], *, with_file: bool) -> str:
        """Return SQL of the raw rows with every cell's text `x`, JSON type `k` and value `v`.

        What expressions make of the values is `e`.

        In steps of their own, so that nothing is computed twice.
        """
        raw, values = ["*"], ["*"]
        for number, (cell, type_) in enumerate(self.judged):
            raw.append(f"{cell.sql} as x{number}")
            if cell.json_type:
                raw.append(f"{cell.json_type} as k{number}")
            whole = type_ == "json" and cell.json_type
            value = fit.value(cell if whole else _named(cell, number), type_)
            values.append(f"{value} as v{number}")
        source = (self.quick or self.scan).relation(files, with_file=with_file)
        valued = f"(select {', '.join(values)} from (select {', '.join(raw)} from {source}))"
        if not self.computed:
            return valued
        computed = [f"{one} as e{number}" for number, one in enumerate(self.computed)]
        return f"(select *, {', '.join(computed)} from {valued})"

    def rows(self, files: Sequence[File], *, with_file: bool, strict: bool = False) -> str:
        """Return SQL of the rows that fit; `strict`: it fails with MISFIT at one that does not.

        A filter would be pushed down and have every cast computed twice; clean files are common.
        """
        items = [
            f"{value} as {quoted(column.name)}"
            for column, value in zip(self.columns, self.made, strict=True)
        ]
        items += self.extra
        items += [FILE] if with_file else []
        source = self._valued(files, with_file=with_file)
        good = self.good()
        if not strict or good == "true":
            return f"select {', '.join(items)} from {source} where {good}"
        value, _, name = items[0].rpartition(" as ")
        items[0] = f"case when {good} then {value} else error('{MISFIT}') end as {name}"
        return f"select {', '.join(items)} from {source}"

    def streams(self, files: Sequence[File]) -> Sequence[Any]:
        """Return the rows as they come, where nothing is left to do with them."""
        if not self.quick or self.extra or self.good() != "true":
            return ()
        cells = [cell for cell, _ in self.judged]
        if cells != list(self.quick.cells) or self.made != [f"v{n}" for n in range(len(cells))]:
            return ()
        return self.quick.streams(files)

    def misfits(self, file: File, limit: int) -> str:
        """Return SQL of ordinal, number of the broken test, and the value, of rows that do not."""
        cases, values = [], []
        for number, check in enumerate(self.checks):
            cases.append(f"when coalesce({check.sql}, false) then {number}")
        for number, test in enumerate(self.tests()):
            if test != "true":
                reason = number + len(self.checks)
                cases.append(f"when not {test} then {reason}")
                values.append(f"when {reason} then left(x{number}::varchar, 200)")
        if not cases:
            return "select 0, 0, '' where false"
        told = f"case reason {' '.join(values)} end" if values else "''"
        # A column that nobody asks for is not checked by the reader, and other records would be
        # left out than before: so every cell is asked for.
        cells = [f"strlen({cell.sql}::varchar)" for cell in self.scan.cells if not cell.json_type]
        size = f"greatest({', '.join(cells)})" if cells else "0"
        # The numbers are given to narrow columns, so the window does not hold whole rows.
        return (
            f"select ordinal, reason, told from (select row_number() over () - 1 as ordinal,"
            f" reason, told, size from (select reason, {told} as told, {size} as size"
            f" from (select *, case {' '.join(cases)} end as reason"
            f" from {self._valued([file], with_file=False)})))"
            f" where reason is not null and (size is null or size >= 0) limit {limit}"
        )

    def head_counts(self, file: File) -> tuple[str, str]:
        """Return a select list and source that count the rows of a file, and misfits by test."""
        tests = [*self.tests(), *(f"not coalesce({check.sql}, false)" for check in self.checks)]
        counted = [f"count(*) filter (not ({test}))" for test in tests]
        return ", ".join(["count(*)", *counted]), self._valued([file], with_file=False)


def _named(cell: Cell, number: int) -> Cell:
    """Return the cell as `_valued` names its parts."""
    kind = f"k{number}" if cell.json_type else None
    return Cell(column=cell.column, sql=f"x{number}", json_type=kind, typed=cell.typed)


def lay_out(
    plan: Plan, scans: Sequence[Scan], con: duckdb.DuckDBPyConnection,
    there: Sequence[Column] | None = None, *, guesses: bool = False,
) -> list[Fitted]:  # fmt: skip
    """Decide the table's columns and lay them over every scan. Raises Misconfigured.

    `there` are the columns of the table that is there already. `guesses`: whoever asks finds out
    what a scan had only guessed.
    """
    guessing = [] if plan.documents else [scan for scan in scans if isinstance(scan, Guessing)]
    if guesses:
        try:
            return _laid_out(plan, scans, con, there)
        except OwnerError:  # what is missed may be there
            if not sum(scan.settle() for scan in guessing):
                raise
    for scan in guessing:
        scan.settle()
    return _laid_out(plan, scans, con, there)


def _laid_out(
    plan: Plan, scans: Sequence[Scan], con: duckdb.DuckDBPyConnection,
    there: Sequence[Column] | None,
) -> list[Fitted]:  # fmt: skip
    shape = plan.shape
    if plan.documents and shape != PLAIN:
        raise Misconfigured(
            "Columns are shaped on their way into tables; an index takes whole records.",
            hint="Use a transformation.", field="columns",
        )  # fmt: skip
    known = {} if there is None else {one.name.casefold(): one.type for one in there}
    if plan.action is Action.REPLACE and shape.policy is Policy.EVOLVE:
        known = {}
    cells_of = [
        list(scan.needed_cells(plan.key)) if plan.documents and scan.document else list(scan.cells)
        for scan in scans
    ]
    names = {cell.column.name: None for cells in cells_of for cell in cells}
    called = names_of(shape, names)
    wanted = {name: known.get(out.casefold(), "") for name, out in called.items()}
    types: dict[str, str] = {}
    for scan, cells in zip(scans, cells_of, strict=True):
        for number, cell in enumerate(cells):
            cells[number] = cast(cell, shape.cast.get(cell.column.name))
        _infer(scan, cells, con, {} if plan.documents else wanted)
        if known and shape.policy is not Policy.EVOLVE:
            cells[:] = [pinned(cell, wanted.get(cell.column.name, "")) for cell in cells]
        for cell in cells:
            name, type_ = cell.column.name, cell.column.type
            types[name] = fit.wider(types[name], type_) if name in types else type_
    layout = decided(plan, shape, called, types, known, con)
    if not layout.outs and not plan.documents:
        _judge_nothing(plan, [file for scan in scans for file in scan.files])
    return [_fitted(plan, scan, cells, layout) for scan, cells in zip(scans, cells_of, strict=True)]


def keys_of(plan: Plan, scan: Scan, layout: Layout) -> str:
    """Return SQL of the keys, as the table has them, of a scan of what they are made of."""
    cells = [
        replace(cell, column=Column(cell.column.name, layout.types[cell.column.name]))
        for cell in scan.cells
    ]
    names = ", ".join(quoted(out.column.name) for out in layout.outs if out.column.name in plan.key)
    rows = _fitted(plan, scan, cells, layout).rows(scan.files, with_file=False)
    return f"select {names} from ({rows})"


def shut(con: duckdb.DuckDBPyConnection, files: Sequence[File], spool: Path) -> None:
    """Let a connection read nothing but the files of a run, its spool, and what it has a right to.

    What a load needs itself it has put into `allowed_directories`.
    """
    own = con.execute("select current_setting('allowed_directories')").fetchone() or ([],)
    folders = ", ".join(map(literal, [*own[0], f"{spool}/"]))
    paths = ", ".join(literal(file.path) for file in files)
    con.execute(f"set allowed_paths = [{paths}]")
    con.execute(f"set allowed_directories = [{folders}]")
    con.execute("set enable_external_access = false")


def _judge_nothing(plan: Plan, files: Sequence[File]) -> None:
    """Raise for a source without any column: Unchanged where nothing was to be added."""
    if plan.action is not Action.REPLACE and not any(file.records for file in files):
        raise Unchanged("The source holds no records.")
    raise Refused(
        "The records have no members: there is nothing to make a table's columns of.",
        hint="Name the columns and their types in the mapping.", field="input.mapping",
    )  # fmt: skip


def _infer(
    scan: Scan, cells: list[Cell], con: duckdb.DuckDBPyConnection, known: Mapping[str, str]
) -> None:
    """Replace the type "infer" by what a sample of one of the first files looks like.

    `known` are the types that the table has. A column keeps its type while most of the sample's
    values are of it, or while those there are can be written in it.
    """
    open_ = [number for number, cell in enumerate(cells) if cell.column.type == "infer"]
    if not open_:
        return
    file = max(scan.files[:100], key=lambda file: min(file.bytes, HEAD_BYTES))
    sample = scan.head(file, HEAD_BYTES) or file
    for start in range(0, len(open_), STACKED):
        some = open_[start : start + STACKED]
        types = _inferred(scan, [cells[number] for number in some], con, known, sample)
        for number, type_ in zip(some, types, strict=True):
            cells[number] = replace(cells[number], column=Column(cells[number].column.name, type_))


def _inferred(
    scan: Scan, cells: Sequence[Cell], con: duckdb.DuckDBPyConnection, known: Mapping[str, str],
    sample: File,
) -> list[str]:  # fmt: skip
    """Return what the cells look like in a sample."""
    held = {
        place: type_
        for place, cell in enumerate(cells)
        if is_ours(type_ := known.get(cell.column.name, ""))
    }

    def query(file: File) -> str:
        return fit.inference(cells, held, scan.relation([file], with_file=False))

    rows, _ = sampled(con, scan, sample, query)
    found = {place: told for place, *told in rows}
    types: list[str] = []
    for place in range(len(cells)):
        looks, odd, filled = found.get(place, (None, 0, 0))
        type_ = fit.type_of(looks)
        types.append(_kept(held[place], type_, odd, filled) if place in held else type_)
    return types


def _kept(old: str, new: str, odd: int, filled: int) -> str:
    """Return the type of a column that was `old` and now looks `new`; `odd` values are not old."""
    if odd > filled // 2:
        return new  # whatever it was, it is something else now
    if new == "string":
        # Without any odd one they are texts that a number would not be written as: 007.
        return old if odd or not filled else new
    base = (old.partition("(")[0], new.partition("(")[0])
    return new if base in WIDER and odd else old


def sampled(
    con: duckdb.DuckDBPyConnection, scan: Scan, file: File, query: Callable[[File], str]
) -> tuple[list[tuple[Any, ...]], int]:
    """Return the rows of an aggregate over a file, and how many records are broken."""
    try:
        found = con.execute(query(file)).fetchall()
        broken = sum(map(len, scan.reader_rejects(con).values()))
    except duckdb.InvalidInputException:  # the reader gave up: try what is unbroken
        found = con.execute(query(scan.cleaned(file))).fetchall()
        broken = scan.survey(file, (), 0).broken
    return found, broken


def quickened(
    plan: Plan, fitted: Sequence[Fitted], con: duckdb.DuckDBPyConnection
) -> list[Fitted] | None:
    """Return the same laid over the scans' quick ways; None if one of them has none."""
    partial = plan.action in (Action.PARTIAL, Action.PARTIAL_NO_CREATE)
    if plan.documents or (partial and any(one.scan.document for one in fitted)):
        return None  # a key is the text of its cell, and which members a record has is not kept
    found: list[Fitted] = []
    for one in fitted:
        types = {cell.column.name: type_ for cell, type_ in one.judged}
        if any(
            out.column.name in plan.key and out.column.type == "json" for out in one.layout.outs
        ):
            return None  # where null is text
        for cell in one.scan.cells:  # what nobody asks for may be anything
            types.setdefault(cell.column.name, "json" if cell.json_type else "string")
        quick = one.scan.quick(con, types, in_order=bool(plan.key))
        if quick is None:
            for other in found:
                other.quick.close() if other.quick else None
            return None
        found.append(_fitted(plan, one.scan, list(quick.cells), one.layout, quick))
    return found


def _fitted(
    plan: Plan, scan: Scan, cells: list[Cell], layout: Layout, quick: QuickScan | None = None
) -> Fitted:
    by_name = {cell.column.name: cell for cell in cells}
    # The quick way knows no records that are not plain.
    checks = [] if quick else list(scan.checks)
    judged = [(by_name[name], type_) for name, type_ in layout.types.items() if name in by_name]
    place = {cell.column.name: f"v{number}" for number, (cell, _) in enumerate(judged)}
    laid = Fitted(
        scan=scan, layout=layout, columns=[out.column for out in layout.outs], made=[],
        checks=checks, judged=judged, extra=[], quick=quick,
    )  # fmt: skip
    if plan.documents:
        checks += _key_checks(plan.key, lambda name: by_name[name].sql if name in by_name else "")
        checks += _nul_checks(plan, judged, quick)
        _add_document(plan, laid, by_name)
        return laid
    made: list[str] = []
    computed: list[str] = []
    texts: dict[str, str] = {}  # of what a key is empty without
    for out in layout.outs:
        name = out.column.name
        if out.of is not None:
            cell = by_name.get(out.of)
            made.append(made_of(out, place.get(out.of)))
            texts[name] = cell.sql if cell else ""
            continue
        given = [
            place.get(each) or f"null::{duckdb_type(layout.types[each])}" for each in out.given
        ]
        value = f"e{len(computed)}.v"
        computed.append(f"try(struct_pack(v := {out.macro}({', '.join(given)})))")
        checks.append(
            RowCheck(
                sql=f"e{len(computed) - 1} is null", rule=Rule.EXPRESSION,
                message=f"{name!r} cannot be computed.",
            )
        )  # fmt: skip
        made.append(value)
        texts[name] = value
    for name in layout.unknown:
        if cell := by_name.get(name):
            checks.append(
                RowCheck(
                    sql=_presence(cell), rule=Rule.UNKNOWN_COLUMN,
                    message=f"It has a value for {name!r}, which the table does not have.",
                )
            )  # fmt: skip
    laid.made, laid.computed = made, computed
    checks += _key_checks(plan.key, lambda name: texts.get(name, ""))
    checks += _nul_checks(plan, judged, quick)
    if scan.document and plan.action in (Action.PARTIAL, Action.PARTIAL_NO_CREATE):
        laid.extra = [f"{_attributes(layout, by_name)}::varchar as {ATTRIBUTES}"]
    return laid


def _presence(cell: Cell) -> str:
    """Return SQL that is true where a cell has a value."""
    if cell.json_type:
        return f"coalesce({cell.json_type}, 'NULL') <> 'NULL'"
    if cell.typed and cell.column.type == "json":
        return f"coalesce(json_type({cell.sql}), 'NULL') <> 'NULL'"
    return f"{cell.sql} is not null" if cell.typed else f"coalesce({cell.sql}, '') <> ''"


def _key_checks(key: Sequence[str], text: Callable[[str], str]) -> list[RowCheck]:
    found = []
    for name in key:
        sql = text(name)
        absent = f"coalesce({sql}::varchar, '') = ''" if sql else "true"
        message = f"The key column {name!r} is empty."
        found.append(RowCheck(sql=absent, rule=Rule.MISSING_KEY, message=message))
    return found


def _nul_checks(
    plan: Plan, judged: Sequence[tuple[Cell, str]], quick: QuickScan | None
) -> list[RowCheck]:
    if not plan.refuses_nul:
        return []
    return [
        RowCheck(
            sql=f"(contains({cell.sql}::varchar, chr(0))"
            + (f" or contains({cell.sql}::varchar, '\\u0000'))" if type_ == "json" else ")"),
            rule=Rule.BAD_VALUE,
            message=f"{cell.column.name!r} holds the character U+0000.",
        )
        for cell, type_ in judged
        if type_ == "json" or (type_ == "string" and not quick)  # which knows no NUL
    ]


def _attributes(layout: Layout, by_name: Mapping[str, Cell]) -> str:
    """Return SQL of the names, as the table has them, of what a record carries."""
    carried = []
    for out in layout.outs:
        cell = by_name.get(out.of or "")
        kind = cell.json_type if cell and cell.json_type else "true" if out.of is None else "null"
        carried.append(f"case when {kind} is not null then {literal(out.column.name)} end")
    return f"to_json(list_filter([{', '.join(carried)}], lambda x: x is not null))"


def _add_document(plan: Plan, laid: Fitted, by_name: Mapping[str, Cell]) -> None:
    """Make the record a document with a key."""
    document, judged = laid.scan.document, laid.judged
    key = [fit.value(by_name[name], "string") for name in plan.key if name in by_name]
    extra = [f"{key[0]}::varchar as {KEY}" if key else f"uuid()::varchar as {KEY}"]
    if document:
        extra.append(f"{document}::varchar as {DOCUMENT}")
    else:
        members = ", ".join(
            f"{literal(cell.column.name)}, {fit.value(cell, type_)}" for cell, type_ in judged
        )
        extra.append(f"json_object({members})::varchar as {DOCUMENT}")
        laid.checks = [
            *laid.checks,
            *(
                RowCheck(
                    sql=f"not isfinite(try_cast({cell.sql} as double))", rule=Rule.BAD_VALUE,
                    message=f"{cell.column.name!r} is not finite, which JSON cannot say.",
                )
                for cell, type_ in judged
                if type_ == "float"
            ),
        ]  # fmt: skip
    laid.extra = extra
