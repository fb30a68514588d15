"""What the SQL destinations share: how a stage is applied to a table, and counted while it is.

The statements run on most databases alike; what they say differently is a Grammar. The stage holds
one row a key.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from headrace.contract.columns import ATTRIBUTES, FILE, WIDER, Column, quoted
from headrace.contract.destination import Counts
from headrace.domain.errors import Refused
from headrace.domain.task import Action

FENCES: Final = "_headrace_fences"
COMMITS: Final = "_headrace_commits"
INTERNAL: Final = frozenset({FILE, ATTRIBUTES})

NEED_A_TABLE: Final = frozenset({Action.PARTIAL_NO_CREATE, Action.DELETE})

Query = Callable[[str], list[tuple[Any, ...]]]  # Any: what the database returns


def without_table(action: Action, staged: dict[str, int]) -> Counts:
    """Count what an action of NEED_A_TABLE does where there is none: nothing."""
    return Counts(unchanged=staged) if action is Action.DELETE else Counts(filtered=staged)


class Named(NamedTuple):
    """A table, and what a statement calls it."""

    table: str  # quoted
    alias: str

    def __str__(self) -> str:
        return f"{self.table} as {self.alias}"


class Some(NamedTuple):
    """Some rows of a table: what stands behind FROM and behind WHERE."""

    source: str
    where: str = "1 = 1"

    def __str__(self) -> str:
        return f"from {self.source} where {self.where}"


def equal(one: Named, other: Named, names: Sequence[str]) -> str:
    """Return SQL that is true for two rows that have the same in these columns."""
    return " and ".join(
        f"{one.alias}.{quoted(name)} = {other.alias}.{quoted(name)}" for name in names
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """What databases say differently of a table `t` and a stage `s`."""

    delete: str = "delete from {table} as t"
    update: str = "update {table} as t set {sets} from {stage} as s where {on}"
    target: str = "{}"  # of a column that is set

    def met(
        self, outer: Named, inner: Named, key: Sequence[str], *, lacks: bool = False
    ) -> Sequence[Some]:
        """Return what together are the rows of `outer` whose key is in `inner`, or is not."""
        found = self.shares(outer, inner, key)
        return [Some(str(outer), f"not {found}" if lacks else found)]

    def shares(self, outer: Named, inner: Named, names: Sequence[str]) -> str:
        """Return the condition on a row of `outer` that one of `inner` has the same in these."""
        return f"exists (select 1 from {inner} where {equal(outer, inner, names)})"

    def joined(self, outer: Named, inner: Named, key: Sequence[str]) -> Sequence[str]:
        """Return conditions that together join the rows of both that have one key."""
        return [equal(outer, inner, key)]

    def deleting(self, table: str, rows: Sequence[Some]) -> str:
        """Return SQL that deletes rows of a table `t`."""
        head = self.delete.format(table=table)
        return "; ".join(f"{head} where {some.where}" for some in rows)


STANDARD: Final = Grammar()
MYSQL: Final = Grammar(
    delete="delete t from {table} as t",
    update="update {table} as t join {stage} as s on {on} set {sets}", target="t.{}",
)  # fmt: skip
TRANSACT: Final = Grammar(
    delete="delete t from {table} as t",
    update="update t set {sets} from {table} as t join {stage} as s on {on}",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """One stage on its way into a table that exists already with all its columns."""

    query: Query
    table: str  # quoted
    stage: str  # quoted
    columns: Sequence[str]
    key: Sequence[str]
    with_file: bool
    has_attribute: Callable[[str], str] | None = None  # SQL: does the row carry it?
    nulls: frozenset[str] = frozenset()  # columns without any value, whatever their type
    in_place: bool = False  # rows are updated, never deleted: something refers to them
    unique: bool = False  # PostgreSQL holds that no two rows have one key
    others: Sequence[str] = ()  # the table's columns that the stage lacks
    within: str = ""  # of a replace: the rows that are replaced
    grammar: Grammar = STANDARD

    def run(self, action: Action) -> Counts:
        """Apply the stage in the caller's transaction; every count is measured there."""
        match action:
            case Action.REPLACE:
                return self._replace()
            case Action.APPEND:
                return Counts(inserted=self._insert(self._staged))
            case Action.SAVE | Action.PARTIAL if self.unique and self.has_attribute is None:
                return self._upsert(whole=action is Action.SAVE)
            case Action.SAVE if self.in_place:
                return self._partial(create=True, whole=True)
            case Action.SAVE:
                counts = self.counted()
                self._delete()
                self._insert(self._staged)
                return counts
            case Action.DELETE:
                deleted, total = self._matched(), self._by_file(self._staged)
                self._delete()
                missed = {file: rows - deleted.get(file, 0) for file, rows in total.items()}
                return Counts(deleted=deleted, unchanged=missed)
            case Action.PARTIAL | Action.PARTIAL_NO_CREATE:
                return self._partial(create=action is Action.PARTIAL)
            case Action.DROP:
                raise AssertionError(action)  # not among a table's actions

    def counted(self) -> Counts:
        """Count what a merge of whole rows does, before it does."""
        updated, total = self._matched(), self._by_file(self._staged)
        inserted = {file: rows - updated.get(file, 0) for file, rows in total.items()}
        return Counts(inserted=inserted, updated=updated)

    def _replace(self) -> Counts:
        where = self.within or "1 = 1"
        dropped = self.query(f"select count(*) from {self.table} as t where {where}")[0][0]
        self.query(self.grammar.deleting(self.table, [Some(str(self._own), where)]))
        return Counts(inserted=self._insert(self._staged), replaced_out=dropped)

    def _upsert(self, *, whole: bool) -> Counts:
        """Insert, and update where the key is there already, in one statement."""
        # Which files' rows are there already nobody can tell afterwards.
        updated = self._matched() if self.with_file else {}
        total = self._by_file(self._staged)
        sets = [f"{quoted(n)} = excluded.{quoted(n)}" for n in self.columns if n not in self.key]
        sets += [f"{quoted(name)} = null" for name in self.others if whole]
        # A key alone changes nothing, but its row must be counted: so it is written again.
        sets = sets or [f"{quoted(self.key[0])} = excluded.{quoted(self.key[0])}"]
        names = ", ".join(map(quoted, self.columns))
        values = ", ".join("null" if n in self.nulls else quoted(n) for n in self.columns)
        [(new, old)] = self.query(
            f"with done as (insert into {self.table} ({names}) select {values} from {self.stage}"
            f" on conflict ({', '.join(map(quoted, self.key))}) do update set {', '.join(sets)}"
            " returning xmax = 0 as fresh) select count(*) filter (where fresh),"
            " count(*) filter (where not fresh) from done"
        )
        if new + old != sum(total.values()) or (self.with_file and old != sum(updated.values())):
            raise Refused("The database has written other rows than were staged.")
        if not self.with_file:
            return Counts(inserted={"": new} if new else {}, updated={"": old} if old else {})
        inserted = {file: rows - updated.get(file, 0) for file, rows in total.items()}
        return Counts(inserted=inserted, updated=updated)

    def _partial(self, *, create: bool, whole: bool = False) -> Counts:
        updated = self._matched()
        total = self._by_file(self._staged)
        new = {file: rows - updated.get(file, 0) for file, rows in total.items()}
        # Rows to be made are told apart before the update could make more of them match.
        made = {}
        if create:
            lacking = self.grammar.met(self._coming, self._own, self.key, lacks=True)
            made = _summed(map(self._insert, lacking))
        values = {name: self._new_value(name) for name in self.columns if name not in self.key}
        values |= {name: "null" for name in self.others if whole}
        target = self.grammar.target.format
        sets = [f"{target(quoted(name))} = {value}" for name, value in values.items()]
        for on in self.grammar.joined(self._own, self._coming, self.key) if sets else ():
            self.query(
                self.grammar.update.format(
                    table=self.table, stage=self.stage, sets=", ".join(sets), on=on
                )
            )
        return Counts(inserted=made, updated=updated, filtered={} if create else new)

    def _new_value(self, name: str) -> str:
        column = quoted(name)
        value = "null" if name in self.nulls else f"s.{column}"
        if self.has_attribute is None:
            return value
        return f"case when {self.has_attribute(name)} then {value} else t.{column} end"

    def _delete(self) -> None:
        """Delete the rows that the stage has a key of."""
        met = self.grammar.met(self._own, self._coming, self.key)
        self.query(self.grammar.deleting(self.table, met))

    @property
    def _own(self) -> Named:
        return Named(self.table, "t")

    @property
    def _coming(self) -> Named:
        return Named(self.stage, "s")

    @property
    def _staged(self) -> Some:
        return Some(str(self._coming))

    def _by_file(self, rows: Some) -> dict[str, int]:
        file = f"s.{FILE}" if self.with_file else "''"
        found = self.query(
            f"select {file}, count(*) {rows}" + (f" group by {file}" if self.with_file else "")
        )
        return {name: rows for name, rows in found if rows}

    def _matched(self) -> dict[str, int]:
        return _summed(map(self._by_file, self.grammar.met(self._coming, self._own, self.key)))

    def _insert(self, rows: Some) -> dict[str, int]:
        names = ", ".join(map(quoted, self.columns))
        values = ", ".join(
            "null" if name in self.nulls else f"s.{quoted(name)}" for name in self.columns
        )
        counted = self._by_file(rows)
        self.query(f"insert into {self.table} ({names}) select {values} {rows}")
        return counted


def _summed(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for some in counts:
        total.update(some)
    return dict(total)


def remove_others(
    query: Query, table: str, keys: str, key: Sequence[str], within: str = "",
    grammar: Grammar = STANDARD, among: Sequence[str] = (),
) -> int:  # fmt: skip
    """Delete the rows whose key is not in the table `keys`; return how many they were.

    `within`: SQL of a condition on the table `t`; other rows stay. `among`: so do rows that share
    these columns with none of `keys`.
    """
    own, others = Named(table, "t"), Named(keys, "s")
    also = "".join(f" and t.{quoted(name)} is not null" for name in key)
    also += f" and ({within})" if within else ""
    also += f" and {grammar.shares(own, others, among)}" if among else ""
    gone = [
        Some(some.source, some.where + also) for some in grammar.met(own, others, key, lacks=True)
    ]
    found = sum(query(f"select count(*) {some}")[0][0] for some in gone)
    query(grammar.deleting(table, gone))
    return int(found)


@dataclass(frozen=True, slots=True)
class Evolution:
    """What must change in a table so that rows fit; `nulls` have no value and fit any type."""

    add: Sequence[Column]
    widen: Sequence[Column]
    nulls: frozenset[str]


def evolution(
    table: str, there: dict[str, str], coming: Sequence[Column], empty: Callable[[str], bool]
) -> Evolution:
    """Return what must change so that `coming` fits. Raises Refused. Never narrows.

    `there` maps names (folded) to types in our words; `empty(name)` tells whether a column that
    comes has no value at all.
    """
    add, widen, nulls = [], [], set()
    for column in coming:
        old = there.get(column.name.casefold())
        new = column.type.partition("(")[0]
        if old is None:
            add.append(column)
        elif old == column.type or (new, old.partition("(")[0]) in WIDER:
            continue
        elif empty(column.name):
            nulls.add(column.name)
        elif (old.partition("(")[0], new) in WIDER:
            widen.append(column)
        else:
            raise Refused(
                f"Column {column.name!r} of table {table!r} holds {old}; the source gives"
                f" {column.type}.",
                hint="Map the column to the table's type, or load with replace.",
                field=f"input.mapping.{column.name}",
            )
    return Evolution(add, widen, frozenset(nulls))
