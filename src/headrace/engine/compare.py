"""Comparing a table with its source: buckets of digests first, the rows of those that differ next.

Each side answers in its own SQL, with texts that are alike in all (contract/canonical.py). What
comes here are the digests of buckets, and of the rows of a few.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import duckdb

from headrace.contract.canonical import FLAG, NUMBER, Dialect, kind_of
from headrace.contract.columns import literal
from headrace.contract.side import Side, TableColumn
from headrace.domain.errors import Invalid
from headrace.domain.verification import BUCKETS_MAX, By, Verification, Verify

ROWS_A_BUCKET: Final = 2_000  # where nobody says how many buckets
BUCKETS_MIN: Final = 64
EXAMPLES_MAX: Final = 20
CELL_CHARACTERS_MAX: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One column on both sides: SQL of its canonical texts there and here."""

    name: str  # as the table has it
    column: TableColumn  # of the source
    source: str
    table: str
    kind: str
    whole: bool  # a whole number on both sides


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """The columns that both sides have, and why others are not compared."""

    pairs: Sequence[Pair]
    left_out: Mapping[str, str]


def matched(here: Side, there: Side, called: Mapping[str, str], *, strict: bool) -> Matched | None:
    """Match the columns of a source with a table's; `called`: their names in the table.

    `strict`: None if there is one that only its values, once read, can tell.
    """
    if here.dialect is None or there.dialect is None:
        return None
    table = {column.name.casefold(): column for column in there.columns}
    pairs, left_out = [], {}
    for column in here.columns:
        name = called.get(column.name)
        if name is None:
            continue
        other = table.pop(name.casefold(), None)
        if other is None:
            left_out[name] = "the table does not have it"
            continue
        texts = _alike(column, here.dialect, other, there.dialect)
        if texts is None:
            if strict:
                return None
            left_out[name] = f"{column.type} and {other.native} cannot be told alike"
            continue
        pairs.append(
            Pair(
                name=other.name, column=column, source=texts[0], table=texts[1], kind=texts[2],
                whole=column.type == other.type == "integer",
            )
        )  # fmt: skip
    left_out |= {other.name: "the source does not have it" for other in table.values()}
    return Matched(pairs=pairs, left_out=left_out)


def _alike(
    one: TableColumn, its: Dialect, other: TableColumn, others: Dialect
) -> tuple[str, str, str] | None:
    """Return SQL of two columns' canonical texts, and their kind; None where they have none."""
    kind, wanted = kind_of(one.type), kind_of(other.type)
    if (kind, wanted) == (NUMBER, "float"):
        kind = "float"
    if {kind, wanted} == {"boolean", NUMBER} and {one.type, other.type} <= {"boolean", "integer"}:
        kind = wanted = FLAG  # MySQL's are numbers
    if kind != wanted or (kind == "json" and its.name != others.name):
        return None
    here, there = its.canonical(kind, one.sql), others.canonical(kind, other.sql)
    return (here, there, kind) if here and there else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """One side with SQL of its texts, of its bucket, and of what is pending."""

    side: Side
    dialect: Dialect
    row: str
    key: Sequence[str]  # texts
    bucket: str
    pending: str = ""

    def _rows(self, conditions: Sequence[str]) -> str:
        """Return SQL of rows: digest h, bucket b, pending p, texts of the key k0…."""
        items = [f"{self.dialect.digest_of(self.row)} as h", f"{self.bucket} as b"]
        items += [f"case when {self.pending or '1 = 0'} then 1 else 0 end as p"]
        items += [f"{text} as k{number}" for number, text in enumerate(self.key)]
        tests = [*self.side.conditions, *conditions]
        where = " where " + " and ".join(f"({test})" for test in tests) if tests else ""
        return f"select {', '.join(items)} from {self.side.relation} as t{where}"

    def buckets(self, path: Path) -> None:
        """Write bucket, rows, and the sum of their digests, a line a bucket."""
        self.side.pour(
            f"select b, count(*) as n, sum(h) as s from ({self._rows(())}) as r group by b",
            path,
        )

    def rows(self, condition: str, path: Path) -> None:
        """Write digest, pending, and the key, a line a row that meets a condition."""
        keys = "".join(f", k{number}" for number in range(len(self.key)))
        self.side.pour(
            f"select h, p{keys} from ({self._rows([condition])}) as r",
            path,
        )

    def within(self, buckets: Sequence[str]) -> str:
        """Return SQL that is true for the rows of some buckets."""
        return f"{self.bucket} in ({', '.join(map(literal, buckets))})" if buckets else "1 = 0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found, and how the buckets that differ are named on both sides."""

    verification: Verification
    in_source: str = ""
    in_table: str = ""


class Comparison:
    """One comparison of two sides."""

    def __init__(
        self, con: duckdb.DuckDBPyConnection, spool: Path, here: Side, there: Side, found: Matched,
        key: Sequence[str], wanted: Verify, *, pushed: bool, after: str | None = None,
    ) -> None:  # fmt: skip
        """`after`: the cursor's value up to which the source was loaded. Raises Invalid."""
        self._pushed = pushed
        assert here.dialect is not None
        assert there.dialect is not None
        self._con = con
        self._spool = spool
        self._found = found
        pairs = {pair.name.casefold(): pair for pair in found.pairs}
        self._key = [pairs[name.casefold()] for name in key if name.casefold() in pairs]
        if len(self._key) < len(key):
            raise Invalid("The key's columns are not in the table.", field="key")
        of_cursor = {pair.column.name: pair for pair in found.pairs}
        cursor = of_cursor.get(here.cursor.name) if here.cursor else None
        self.by = _by(wanted, bool(key), cursor)
        self._count = wanted.buckets or _count_of(there)
        self._width = _width_of(here, self._count) if self.by is By.CURSOR else 1
        self.here = self._half(here, here.dialect, cursor, of_source=True)
        self.there = self._half(there, there.dialect, cursor, of_source=False)
        if after is not None and here.cursor and here.literal:
            name = f"t.{here.quoted(here.cursor.name)}"
            beyond = f"{name} > {here.literal(here.cursor, after)}"
            if self._key:
                self.here = replace(self.here, pending=beyond)
            else:
                side = replace(
                    here, conditions=[*here.conditions, f"not ({beyond}) or {name} is null"]
                )
                self.here = replace(self.here, side=side)

    def _half(self, side: Side, dialect: Dialect, cursor: Pair | None, *, of_source: bool) -> Half:
        def text(pair: Pair) -> str:
            return pair.source if of_source else pair.table

        def row(pairs: Sequence[Pair]) -> str:
            return dialect.row([dialect.part(pair.kind, text(pair)) for pair in pairs])

        whole = row(self._found.pairs)
        if self.by is By.CURSOR:
            assert cursor is not None
            bucket = self._cursor_bucket(dialect, cursor, text(cursor))
        elif self.by is By.KEY and len(self._key) == 1 and self._key[0].whole:
            rest = dialect.rest.replace("#", str(self._count)).replace("@", text(self._key[0]))
            bucket = f"coalesce({dialect.text.replace('@', rest)}, '')"
        else:
            digest = dialect.digest_of(row(self._key) if self.by is By.KEY else whole)
            bucket = dialect.text.replace("@", f"({digest} % {self._count})")
        key = [text(pair) for pair in self._key]
        return Half(side=side, dialect=dialect, row=whole, key=key, bucket=bucket)

    def _cursor_bucket(self, dialect: Dialect, cursor: Pair, text: str) -> str:
        """Return SQL of a day, or of the number of a range."""
        if cursor.column.cursor != "number":
            return f"coalesce(left({text}, 10), '')"
        whole = dialect.whole.replace("#", str(self._width)).replace("@", text)
        return f"coalesce({dialect.text.replace('@', whole)}, '')"

    def run(self, only: Found | None = None) -> Found:
        """Compare; `only`: no other buckets than those in which something was found before."""
        here, there = self.here, self.there
        if only is not None:
            here = _narrowed(here, only.in_source)
            there = _narrowed(there, only.in_table)
        differing, source_rows, table_rows, buckets = self._buckets(here, there)
        told = Verification(
            by=self.by, pushed=self._pushed, buckets=buckets,
            differing=len(differing), source_rows=source_rows, table_rows=table_rows,
            columns=len(self._found.pairs), left_out=self._found.left_out,
        )  # fmt: skip
        if not differing:
            return Found(verification=told)
        return Found(
            verification=self._rows(here, there, differing, told),
            in_source=here.within(differing), in_table=there.within(differing),
        )  # fmt: skip

    def _buckets(self, here: Half, there: Half) -> tuple[list[str], int, int, int]:
        """Return the buckets that differ, both sides' rows, and how many buckets there are."""
        self._asked(here.buckets, there.buckets, "b varchar, n bigint, s hugeint")
        joined = "__headrace_here as a full join __headrace_there as b using (b)"
        differing = self._con.execute(
            f"select b from {joined} where a.n is distinct from b.n or a.s is distinct from b.s"
            " order by b"
        ).fetchall()
        [(source_rows, table_rows, buckets)] = self._con.execute(
            f"select coalesce(sum(a.n), 0), coalesce(sum(b.n), 0), count(*) from {joined}"
        ).fetchall()
        return [row[0] for row in differing], int(source_rows), int(table_rows), int(buckets)

    def _rows(
        self, here: Half, there: Half, differing: Sequence[str], told: Verification
    ) -> Verification:
        """Compare the rows of the buckets that differ."""
        keys = [f"k{number}" for number in range(len(self._key))]
        self._asked(
            lambda path: here.rows(here.within(differing), path),
            lambda path: there.rows(there.within(differing), path),
            ", ".join(["h bigint", "p integer", *(f"{key} varchar" for key in keys)]),
        )
        names = ", ".join(keys or ["h"])
        grouped = f"select {names}, count(*) as n, sum(h) as s, max(p) as p from"
        same = " and ".join(f"a.{one} is not distinct from b.{one}" for one in (keys or ["h"]))
        self._con.execute(
            "create or replace temp table __headrace_differs as select * from (select"
            + ", ".join(f" coalesce(a.{one}, b.{one}) as {one}" for one in (keys or ["h"]))
            + ", coalesce(a.n, 0) as a, coalesce(b.n, 0) as b, coalesce(a.p, 0) as p,"
            " a.s is distinct from b.s as other"
            f" from ({grouped} __headrace_here group by all) as a"
            f" full join ({grouped} __headrace_there group by all) as b on {same})"
            " where a <> b or other"
        )
        kind = "case when a = 0 then 'extra' when b = 0 then 'missing' else 'different' end"
        if not keys:  # a row that is there more often is missing here, or the other way round
            kind = "case when a < b then 'extra' else 'missing' end"
        rows = "abs(a - b)" if not keys else "case when a = 0 then b when b = 0 then a else 1 end"
        counted = dict(
            self._con.execute(
                f"select case when p = 1 then 'pending' else {kind} end, sum({rows})::bigint"
                " from __headrace_differs group by 1"
            ).fetchall()
        )
        return replace(told, **counted, examples=self._examples(kind))

    def _examples(self, kind: str) -> tuple[Mapping[str, Any], ...]:
        if not self._key:
            return ()
        names = [pair.name for pair in self._key]
        cells = ", ".join(f"left(k{n}, {CELL_CHARACTERS_MAX})" for n in range(len(names)))
        found = self._con.execute(
            f"select {kind}, {cells} from __headrace_differs where p = 0 order by all"
            f" limit {EXAMPLES_MAX}"
        ).fetchall()
        return tuple(
            {"what": row[0], "key": dict(zip(names, row[1:], strict=True))} for row in found
        )

    def _asked(
        self, here: Callable[[Path], None], there: Callable[[Path], None], columns: str
    ) -> None:
        """Ask both sides at once; read what they say into a table each."""
        paths = [self._fresh("here"), self._fresh("there")]
        with ThreadPoolExecutor(2, "headrace-compare") as pool:
            for answer in [pool.submit(here, paths[0]), pool.submit(there, paths[1])]:
                answer.result()
        self._load("here", paths[0], columns)
        self._load("there", paths[1], columns)

    def _fresh(self, name: str) -> Path:
        path = self._spool / f"compared-{name}.csv"
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        return path

    def _load(self, name: str, path: Path, columns: str) -> None:
        """Read what a side has written into a table of this connection."""
        types = ", ".join(
            f"{literal(one.partition(' ')[0])}: {literal(one.partition(' ')[2])}"
            for one in columns.split(", ")
        )
        self._con.execute(
            f"create or replace temp table __headrace_{name} as select * from"
            f" read_csv({literal(str(path))}, auto_detect=false, header=false, delim=',',"
            f" quote='\"', escape='\"', allow_quoted_nulls=false, columns={{{types}}})"
        )


def _narrowed(half: Half, condition: str) -> Half:
    return replace(half, side=replace(half.side, conditions=[*half.side.conditions, condition]))


def _by(wanted: Verify, keyed: bool, cursor: Pair | None) -> By:  # noqa: FBT001
    """Decide what the buckets go by. Raises Invalid."""
    able = cursor is not None and (
        cursor.column.cursor in ("day", "moment") or cursor.column.type == "integer"
    )
    if wanted.by is By.CURSOR and not able:
        raise Invalid(
            "by=cursor needs a cursor in the source that is a whole number, a date or a timestamp.",
            hint="Name one in its input.cursor, or leave `by` out.", field="by",
        )  # fmt: skip
    if wanted.by is By.KEY and not keyed:
        raise Invalid(
            "by=key needs a key.", hint="Name the task's key, or leave `by` out.", field="by"
        )
    return wanted.by or (By.KEY if keyed else By.CURSOR if able else By.ROW)


def _count_of(side: Side) -> int:
    """Return how many buckets a table's rows need."""
    rows = int(side.value(f"select count(*) from {side.relation} as t") or 0)
    return min(max(rows // ROWS_A_BUCKET, BUCKETS_MIN), BUCKETS_MAX)


def _width_of(side: Side, count: int) -> int:
    """Return how far a bucket goes, of so many over all values of a cursor that is a number."""
    if side.cursor is None or side.cursor.cursor != "number":
        return 1
    name = f"t.{side.quoted(side.cursor.name)}"
    low, high = (
        int(side.value(f"select {which}({name}) from {side.relation} as t") or 0)
        for which in ("min", "max")
    )
    return (high - low) // count + 1
