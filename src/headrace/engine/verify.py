"""Verifying a table: compare it with its source, and load again what differs, if that is wanted.

Where a source can be asked, both sides answer in SQL and no row moves that is the same. Otherwise
the source is read as a load would read it, and its rows are asked on this machine.
"""

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb

from headrace.contract.canonical import DUCKDB
from headrace.contract.columns import Column, literal, quoted
from headrace.contract.destination import Destination
from headrace.contract.side import Asked, Comparable, Side, TableColumn
from headrace.contract.source import Source
from headrace.domain.books import Receipt
from headrace.domain.errors import Differs, Misconfigured
from headrace.domain.shape import Shape
from headrace.domain.task import Action
from headrace.domain.verification import By, Verification, Verify
from headrace.engine.compare import Comparison, Found, matched
from headrace.engine.execute import (
    RejectsTo,
    counted,
    execute,
    scanned,
    scratch,
    target_of,
    tell_earlier,
    told,
    watched,
)
from headrace.engine.layout import lay_out
from headrace.engine.plan import Journal, Plan, Segment, Stopped
from headrace.engine.shaping import names_of


def verify(
    plan: Plan, source: Source, destination: Destination, journal: Journal, rejects: RejectsTo,
    wanted: Verify, after: str | None = None,
) -> Receipt:  # fmt: skip
    """Compare the plan's table with its source and return a receipt with what was found.

    `after`: the cursor's value up to which the source was loaded. Raises Stopped with Differs
    where they are not the same (after a repair: still not), and what `execute` raises.
    """
    try:
        return _verified(plan, source, destination, journal, rejects, wanted, after)
    except duckdb.Error as error:
        raise told(error) from error


def _verified(
    plan: Plan, source: Source, destination: Destination, journal: Journal, rejects: RejectsTo,
    wanted: Verify, after: str | None,
) -> Receipt:  # fmt: skip
    if not isinstance(destination, Comparable):
        raise Misconfigured(
            f"{destination.spec.title}: what it holds cannot be compared with a source.",
            hint="Tables can: DuckDB, PostgreSQL, MySQL, Parquet.", field="type",
        )  # fmt: skip
    if wanted.repair and (earlier := _earlier(plan, destination, journal)) is not None:
        return earlier
    ends = _Ends(plan, source, destination, journal, wanted, after)
    found = ends.compare()
    said = found.verification
    if said.same:
        receipt = Receipt(tables=(), files=(), verification=said.as_dict())
        journal.advance(f"{plan.token}/verified", receipt, ())
        return receipt
    receipt = Receipt(tables=(), files=(), verification=said.as_dict())
    if not wanted.repair:
        raise Stopped(Differs(said.sentence(), hint=_how_to_mend(said)), receipt, ())
    try:
        repairing = _repairing(plan, source, destination, found)
    except Misconfigured as error:
        raise Stopped(error, receipt, ()) from error
    assert isinstance(source, Asked)  # it was asked
    source.only(found.in_source)
    told_so = _Repaired(journal, replace(said, repaired=True))
    execute(repairing, source, destination, told_so, rejects)
    again = ends.compare(found).verification
    if not again.same:
        kept = replace(told_so.receipt, verification=again.as_dict() | {"repaired": True})
        raise Stopped(
            Differs(
                f"After the repair: {again.sentence()}",
                hint="Rows were rejected, or either side changed meanwhile.",
            ),
            kept, (),
        )  # fmt: skip
    return told_so.receipt


def _how_to_mend(said: Verification) -> str:
    if not said.pushed or said.by is By.ROW:
        return "Load it again from the start."
    return "Verify with a repair: what differs is loaded again."


def _earlier(plan: Plan, destination: Destination, journal: Journal) -> Receipt | None:
    """Return the receipt of a repair that an earlier attempt has committed already."""
    load = destination.load(target_of(plan))
    try:
        note = load.begin()
        load.abort()
    finally:
        load.close()
    return None if note is None else tell_earlier(plan, note, journal)


def _repairing(plan: Plan, source: Source, destination: Destination, found: Found) -> Plan:
    """Return the plan that loads the buckets that differ. Raises Misconfigured."""
    if not found.verification.pushed or not isinstance(source, Asked):
        raise Misconfigured(
            f"{found.verification.sentence()} It cannot be repaired by parts: the source can only"
            " be read from its start.",
            hint="Reset the task's position and run it.", field="repair",
        )  # fmt: skip
    if found.verification.by is By.ROW:
        raise Misconfigured(
            f"{found.verification.sentence()} It cannot be repaired by parts without a key or a"
            " cursor.",
            hint="Name the task's key or the source's cursor, or load it again.", field="repair",
        )  # fmt: skip
    if not destination.spec.deletes:
        raise Misconfigured(
            f"{found.verification.sentence()} {destination.spec.title} cannot be repaired by"
            " parts.",
            hint="Load it again.", field="repair",
        )  # fmt: skip
    if not plan.key:
        return replace(plan, action=Action.REPLACE, within=found.in_table)
    merges = plan.action in (Action.SAVE, Action.PARTIAL)
    action = plan.action if merges else Action.SAVE
    return replace(plan, action=action, within=found.in_table, deletes=True)


@dataclass(frozen=True, slots=True)
class _Ends:
    """Both ends of what is verified; the table's can be compared."""

    plan: Plan
    source: Source
    destination: Any  # a Destination that is Comparable
    journal: Journal
    wanted: Verify
    after: str | None

    def compare(self, only: Found | None = None) -> Found:
        """Compare both ends as they are now."""
        plan = self.plan
        self.journal.told("comparing")
        con = scratch(plan)
        with contextlib.closing(con), self.destination.side(plan.table) as there:
            if (asked := self._asked()) is not None:
                with asked.side() as here:
                    names = dict.fromkeys(column.name for column in here.columns)
                    called = names_of(plan.shape, names)
                    if found := matched(here, there, called, strict=True):
                        return Comparison(
                            con, plan.spool, here, there, found, plan.key, self.wanted,
                            pushed=True, after=self.after,
                        ).run(only)  # fmt: skip
            with watched(_Interrupted(con), self.journal):
                here = self._read(con, there)
                called = {column.name: column.name for column in here.columns}
                found = matched(here, there, called, strict=False)
                assert found is not None  # both are DuckDB's, or the table's own
                return Comparison(
                    con, plan.spool, here, there, found, plan.key, self.wanted, pushed=False
                ).run(only)

    def _asked(self) -> Asked | None:
        """Return the source where what it holds comes into the table as it is."""
        changed = _changes(self.plan.shape)
        return self.source if isinstance(self.source, Asked) and not changed else None

    def _read(self, con: duckdb.DuckDBPyConnection, there: Side) -> Side:
        """Read the source as a load would; return its rows as a side."""
        scans = scanned(self.plan, self.source, con, self.journal)
        known = [Column(column.name, column.type) for column in there.columns]
        with counted(self.plan, [file for scan in scans for file in scan.files], self.journal):
            fitted = lay_out(self.plan, scans, con, known)
        parts = [f"({one.rows(one.scan.files, with_file=False)})" for one in fitted]
        names = ", ".join(quoted(column.name) for column in fitted[0].columns)
        relation = " union all ".join(f"select {names} from {part}" for part in parts)
        self.journal.told("comparing")
        return Side(
            dialect=DUCKDB, relation=f"({relation})", quoted=quoted,
            columns=[
                TableColumn(
                    name=column.name, type=column.type, sql=f"t.{quoted(column.name)}",
                    native=column.type,
                )
                for column in fitted[0].columns
            ],
            pour=lambda query, path: _pour(con, query, path),
            value=lambda query: _value(con, query),
        )  # fmt: skip


def _changes(shape: Shape) -> bool:
    """Tell whether values come into the table as others than the source has."""
    return bool(shape.cast or shape.hash or shape.mask or shape.compute)


def _pour(con: duckdb.DuckDBPyConnection, query: str, path: Path) -> int:
    found = con.execute(
        f"copy ({query}) to {literal(str(path))} (format csv, header false)"
    ).fetchone()
    return int(found[0]) if found else 0


def _value(con: duckdb.DuckDBPyConnection, query: str) -> str | None:
    found = con.execute(query).fetchone()
    return None if found is None or found[0] is None else str(found[0])


class _Interrupted:
    """Work of a connection: nobody knows how far it is."""

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self.stop = con.interrupt

    def share(self) -> float:
        return 0.0


class _Repaired:
    """The journal of a repair: its receipt also says what was found before."""

    def __init__(self, journal: Journal, found: Verification) -> None:
        self._journal = journal
        self._found = found
        self.receipt = Receipt(tables=(), files=())
        self.told = journal.told
        self.event = journal.event

    def advance(self, token: str, receipt: Receipt, rejects: tuple[Segment, ...]) -> None:
        self.receipt = replace(receipt, verification=self._found.as_dict())
        self._journal.advance(token, self.receipt, rejects)
