"""Executing a plan: read, fit, stage, judge, commit once, tell.

What is durable, in this order: the rejects, the commit (with the receipt, in the data's own
transaction), the journal's record of it. Killed anywhere, the next attempt finds either nothing or
the whole commit with its receipt, and tells that.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

import duckdb

from headrace.contract import room
from headrace.contract.columns import duckdb_type, literal, quoted
from headrace.contract.destination import Counts, Destination, Load, Rows, Target
from headrace.contract.instance import instance, instance_in
from headrace.contract.meanwhile import meanwhile
from headrace.contract.source import Deleting, File, Scan, Source
from headrace.domain.books import Books, FileBooks, Receipt, TableBooks
from headrace.domain.errors import (
    Cancelled,
    HeadraceError,
    LostClaim,
    OutsideError,
    Refused,
    TooManyRejected,
    Unbalanced,
    Unchanged,
)
from headrace.domain.event import EventKind, EventStatus, NewEvent
from headrace.domain.rejected import Rejected, Rule
from headrace.domain.shape import Policy
from headrace.domain.task import Action
from headrace.engine.children import Children, judge, taken
from headrace.engine.digests import Digests
from headrace.engine.documents import Documents
from headrace.engine.layout import Fitted, keys_of, lay_out, shut
from headrace.engine.plan import Journal, Plan, Segment, Stopped
from headrace.engine.quarantine import write_segment
from headrace.engine.stage import LONG, STAGE, WIDE, FileCount, Staged, Stager, told_rules
from headrace.engine.transform import transform
from headrace.observe import faults

T = TypeVar("T")
WATCH_S: Final = 0.25
LASTS_S: Final = 6 * 3600  # a commit at most


def execute(
    plan: Plan, source: Source, destination: Destination, journal: Journal, rejects: "RejectsTo",
    children: Children | None = None,
) -> Receipt:  # fmt: skip
    """Run a plan to its end and return the receipt. `children`: of arrays, tables are made.

    Raises Stopped with the error and what is known of the books. May be called again with the
    same token after any kind of end: a commit that happened is found and told, not repeated.
    """
    load = _blamed("destination", lambda: destination.load(target_of(plan)))
    known = _Known()
    try:
        if (earlier := _begun(plan, load, journal)) is not None:
            return earlier
        return _executed(plan, source, destination, load, journal, rejects, known, children)
    except HeadraceError as error:
        load.abort()
        if isinstance(error, LostClaim | Cancelled | Unchanged):
            raise
        failed = _receipt_of_failure(plan, known.staged) if known.staged else None
        raise Stopped(known.changed() or error, failed, known.segments) from error
    except duckdb.Error as error:
        load.abort()
        form = (known.stager.width, known.stager.row_bytes) if known.stager else (0, 0)
        raise Stopped(known.changed() or told(error, *form), None, known.segments) from error
    except BaseException:
        load.abort()
        raise
    finally:
        if known.digests is not None:
            known.digests.stop()
        load.close()


@dataclass(slots=True)
class _Known:
    """What is known of a run while it goes on."""

    stager: Stager | None = None
    staged: Staged | None = None
    segments: tuple[Segment, ...] = ()
    digests: Digests | None = None

    def changed(self) -> HeadraceError | None:
        """Return the error of a file that changed while it was read: others come of it."""
        return self.digests.changed() if self.digests is not None else None


def _executed(
    plan: Plan, source: Source, destination: Destination, load: Load, journal: Journal,
    rejects: "RejectsTo", known: _Known, children: Children | None,
) -> Receipt:  # fmt: skip
    if children is not None:
        judge(plan)
    con = load.con or scratch(plan)
    known.stager = stager = Stager(plan, load, con, journal, destination.document_rules)
    with watched(stager, journal):
        scans = scanned(plan, source, con, journal)
        files = [file for scan in scans for file in scan.files]
        known.digests = digests = Digests(files)
        there = _blamed("destination", load.columns)
        with counted(plan, files, journal):
            staged = stager.stage(lambda: lay_out(plan, scans, con, there, guesses=True))
            known.staged = staged
        fitted = stager.fitted
        _leave_out(plan, staged, journal)
        if stager.documents:
            _finish(plan, staged, con, journal, destination, with_file=stager.with_file)
        faults.reach("child.staged")
        if segment := write_segment(rejects.folder, rejects.name, staged.rejects):
            known.segments = (segment,)
        faults.reach("child.rejects_written")
        _judge_threshold(plan, staged)
        landed = _children(plan, children, con, stager, known) if children else ()
        if stager.local and not load.stages:
            _blamed("destination", lambda: _hand_over(load, stager, staged, con))
        digests.wait(lambda: journal.told("digesting"))
        known.digests = None  # what fails from here on is not of the files
        if plan.deletes:
            _keep(plan, source, con, load, fitted[0])
        if plan.keys:
            _keep_those(plan, con, load, fitted[0])
    rows = sum(count.landed for count in staged.counts)
    _grow(plan, load, stager, rows)
    journal.told("committing", rows=rows)
    faults.reach("child.before_commit")
    signer = _Signer(plan, staged, known.segments, digests, landed, with_file=stager.with_file)
    with _told_on(journal, "committing", rows):
        _blamed("destination", lambda: load.commit(signer.sign))
    faults.reach("child.committed")
    journal.advance(plan.token, signer.receipt, known.segments)
    faults.reach("child.advanced")
    return signer.receipt


def _grow(plan: Plan, load: Load, stager: Stager, rows: int) -> None:
    """Let DuckDB have more of a run's memory: nothing is on its way through us any more."""
    if load.con is None:
        return
    # Of other tables it would only keep more.
    if stager.width >= WIDE or stager.row_bytes >= LONG:
        room.confine(load.con, plan.memory_bytes * 4 // 5)
    elif load.temporary and room.in_order(rows, plan.memory_bytes // 2):
        room.confine(load.con, plan.memory_bytes * 13 // 20)


def scanned(
    plan: Plan, source: Source, con: duckdb.DuckDBPyConnection, journal: Journal
) -> list[Scan]:
    """Fetch what there is to read."""
    journal.told("fetching")
    scans = _blamed("source", lambda: list(source.scans(con)))
    faults.reach("child.fetched")
    files = [file for scan in scans for file in scan.files]
    if plan.bad and not files:
        raise plan.bad[0].error
    if plan.shape.compute:
        shut(con, files, plan.spool)
    if all(file.counting is None for file in files):
        journal.event(_fetched(plan, files))
    return scans


@contextlib.contextmanager
def counted(plan: Plan, files: list[File], journal: Journal) -> Iterator[None]:
    """Tell of what was fetched as soon as its records are counted: not before the work is done.

    Nothing is told of what did not come.
    """
    try:
        yield
    finally:
        counts = [file.counting for file in files if file.counting is not None]
        lost = [one for one in counts if one.done() and (one.cancelled() or one.exception())]
        if counts and not lost:
            journal.event(_fetched(plan, files))


def _children(
    plan: Plan, children: Children, con: duckdb.DuckDBPyConnection, stager: Stager, known: _Known
) -> Sequence[Receipt]:
    """Land the arrays of what is staged, each in a table of its own."""
    assert known.staged is not None
    receipts = []
    for child in taken(plan, children, con, stager.table, known.staged):
        receipt, segments = children.land(child)
        receipts.append(receipt)
        known.segments += segments
    return receipts


def _keep_those(plan: Plan, con: duckdb.DuckDBPyConnection, load: Load, fitted: Fitted) -> None:
    """Have the commit remove the rows of the same parents that are in no array any more."""
    columns = [out.column for out in fitted.layout.outs if out.column.name in plan.key]
    items = ", ".join(
        f"{quoted(one.name)}::{duckdb_type(one.type)} as {quoted(one.name)}" for one in columns
    )
    text = f"select {items} from read_parquet({literal(plan.keys)})"
    rows = Rows(con=con, sql=text, columns=columns, with_file=False)
    _blamed("destination", lambda: load.keep(rows))


def _keep(
    plan: Plan, source: Source, con: duckdb.DuckDBPyConnection, load: Load, fitted: Fitted
) -> None:
    """Have the commit remove the rows that are gone from the source."""
    scan = source.keys() if isinstance(source, Deleting) else None
    if scan is None:
        return  # a back-fill
    [file] = scan.files
    relation = scan.relation(scan.files, with_file=False)
    # Every cell is asked for: one that nobody asks for is not looked at by the reader.
    found = con.execute(f"select count(*), max(columns(*)) from {relation}").fetchone() or (0,)
    if found[0] != file.records or scan.reader_rejects(con):
        raise Unbalanced(f"{file.name}: {found[0]:,} of {file.records:,} keys can be read.")
    if not found[0] and not plan.within:
        raise Refused(
            "The source holds no rows any more: all rows of the table would be removed.",
            hint="If that is right, load it once with the action replace.", field="deletes",
        )  # fmt: skip
    columns = [out.column for out in fitted.layout.outs if out.column.name in plan.key]
    rows = Rows(con=con, sql=keys_of(plan, scan, fitted.layout), columns=columns, with_file=False)
    _blamed("destination", lambda: load.keep(rows))


def _leave_out(plan: Plan, staged: Staged, journal: Journal) -> None:
    """Account for files that cannot be read: each is one rejected record."""
    for bad in plan.bad:
        hint = f" {bad.error.hint}" if bad.error.hint else ""
        staged.counts.append(
            FileCount(
                file=File(name=bad.name, path=f"\0{bad.name}", bytes=bad.bytes), read=1, landed=0,
                rejected=1,
            )
        )  # fmt: skip
        staged.rejects.append(
            Rejected(
                table=plan.table, file=bad.name, record=1, line=None, byte=None, column=None,
                rule=Rule.BAD_FILE, message=f"{bad.error.message}{hint}", raw="",
            )
        )  # fmt: skip
        staged.rules[Rule.BAD_FILE] = staged.rules.get(Rule.BAD_FILE, 0) + 1
        journal.event(
            NewEvent(
                kind=EventKind.LOG, status=EventStatus.FAILED,
                message=f"A file was left out: {bad.error.message}",
            )
        )  # fmt: skip


def _begun(plan: Plan, load: Load, journal: Journal) -> Receipt | None:
    """Begin a load; return the receipt of an earlier attempt that has committed already."""
    note = _blamed("destination", load.begin)
    faults.reach("child.fence_raised")
    if note is not None:
        return tell_earlier(plan, note, journal)
    if plan.only_tells:
        raise Cancelled("The run was cancelled before it had committed.")
    return None


def target_of(plan: Plan) -> Target:
    return Target(
        table=plan.table, action=plan.action, key=plan.key, scope=plan.scope, fence=plan.fence,
        token=plan.token, keeps_columns=plan.shape.policy is not Policy.EVOLVE,
        within=plan.within, among=plan.among,
        inner=plan.inner,
    )  # fmt: skip


def _blamed(end: str, work: Callable[[], T]) -> T:
    """Do some work; say of what is down there which end of the run it is."""
    try:
        return work()
    except OutsideError as error:
        error.facts.setdefault("end", end)
        raise


class _Signer:
    """Signs a commit: makes the receipt from what the destination counted, if it balances."""

    def __init__(
        self,
        plan: Plan,
        staged: Staged,
        segments: tuple[Segment, ...],
        digests: Digests,
        children: Sequence[Receipt],
        *,
        with_file: bool,
    ) -> None:
        self._plan = plan
        self._staged = staged
        self._segments = segments
        self._digests = digests
        self._children = children
        self._with_file = with_file
        self.receipt = Receipt(tables=(), files=())

    def sign(self, counts: Counts) -> str:
        """Return the note to keep with the commit. Raises Unbalanced: nothing is published."""
        receipt = _receipt(
            self._plan, self._staged, counts, self._digests, with_file=self._with_file
        )
        if quarrel := receipt.quarrel() or _table_quarrel(self._plan, receipt):
            raise Unbalanced(f"The books do not balance: {quarrel}.")
        for child in self._children:
            receipt = receipt.with_more(child)
        self.receipt = receipt
        faults.reach("child.in_commit")
        return _note(receipt, self._segments)


def _fetched(plan: Plan, files: list[File]) -> NewEvent:
    return NewEvent(
        kind=EventKind.FETCH,
        status=EventStatus.SUCCEEDED,
        message=f"{len(files)} files are at hand.",
        rows=sum(file.counted or 0 for file in files),
        data={"files": [file.name for file in files[:100]], "table": plan.table},
    )


class RejectsTo:
    """Where the rejects of one attempt go."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name


def told(error: duckdb.Error, width: int = 0, row_bytes: int = 0) -> HeadraceError:
    """Translate what DuckDB says outside of what connectors expect.

    `width`: how many columns the table has; `row_bytes`: how long its rows are; 0: not known.
    """
    text = str(error)
    if "No space left" in text or "Could not write" in text:
        why = text.splitlines()[0].rpartition(": ")[2]
        return Refused(
            f"A file cannot be written: {why}.", hint="Make room; nothing was published."
        )
    if isinstance(error, duckdb.OutOfMemoryException) or "memory limit" in text:  # of a commit
        why = ""
        if width >= WIDE:
            why = f" A table of {width:,} columns takes a lot."
        elif row_bytes >= LONG:
            why = f" Rows of about {row_bytes:,} bytes take a lot."
        return Refused(
            f"The run needs more memory than it may have.{why}",
            hint="Raise HEADRACE_MEMORY, or lower HEADRACE_WORKERS: docs/server.md has figures.",
        )
    if isinstance(error, duckdb.ConstraintException):
        return Refused(
            "A constraint of the table refuses the rows.",
            hint="Look at its keys, its unique indexes and its checks; nothing was published.",
        )
    if isinstance(error, duckdb.InterruptException):
        return Cancelled("The run was cancelled.")
    if isinstance(error, duckdb.InvalidInputException | duckdb.IOException):
        return Refused(text.splitlines()[0][:500])
    raise error


def _finish(
    plan: Plan, staged: Staged, con: duckdb.DuckDBPyConnection, journal: Journal,
    destination: Destination, *, with_file: bool,
) -> None:  # fmt: skip
    """Make of the staged documents what the destination gets."""
    documents = Documents(con, plan, staged, with_file=with_file)
    for code, secrets in plan.transformations:
        journal.told("transforming")
        journal.event(transform(documents, code, secrets))
    if destination.document_rules is not None and plan.action not in (Action.DELETE, Action.DROP):
        documents.judge(destination.document_rules)
    documents.done()


def scratch(plan: Plan) -> duckdb.DuckDBPyConnection:
    con = instance_in(plan.spool) if plan.key else instance()
    limit(con, plan)
    return con


def limit(con: duckdb.DuckDBPyConnection, plan: Plan) -> None:
    """Hold a connection to the plan's memory and threads.

    Half is left to what DuckDB does not count: the program, batches on their way, fragments.
    """
    con.execute(f"set memory_limit = '{plan.memory_bytes // 2 // 1_000_000}MB'")
    con.execute(f"set threads = {plan.threads}")
    con.execute(f"set temp_directory = '{plan.spool}/duckdb'")


class Watched(Protocol):
    """Long work that somebody watches."""

    def share(self) -> float:
        """Return how much of it is done, from 0 to 1."""

    def stop(self) -> None:
        """Make it end soon, with duckdb.InterruptException."""


@contextlib.contextmanager
def watched(stager: Watched, journal: Journal) -> Iterator[None]:
    """Tell the progress of long calls, and interrupt them when the run must stop."""
    stop: list[HeadraceError] = []

    def watch() -> bool:
        try:
            if share := stager.share():
                journal.told("loading", done=round(share * 100), total=100)
            else:
                journal.told("")
        except HeadraceError as error:
            stop.append(error)
            stager.stop()
        return not stop

    try:
        with meanwhile(watch, WATCH_S, "headrace-watch"):
            yield
    except duckdb.InterruptException:
        raise (stop[0] if stop else Cancelled("The run was cancelled.")) from None
    except Exception:
        if stop:  # whatever it is, it comes of that
            raise stop[0] from None
        raise


@contextlib.contextmanager
def _told_on(journal: Journal, phase: str, rows: int) -> Iterator[None]:
    """Tell of a phase while it lasts: who says nothing for long is taken for dead.

    So is, in the end, what lasts for hours, or goes on though the journal says to stop.
    """
    until = time.monotonic() + LASTS_S

    def tell() -> bool:
        try:
            journal.told(phase, rows=rows)
        except HeadraceError:
            return False
        return time.monotonic() < until

    with meanwhile(tell, WATCH_S, "headrace-commit"):
        yield


def tell_earlier(plan: Plan, note: str, journal: Journal) -> Receipt:
    kept = json.loads(note)
    receipt = Receipt.from_dict(kept["receipt"])
    segments = tuple(Segment(**segment) for segment in kept["rejects"])
    journal.event(
        NewEvent(
            kind=EventKind.LOG,
            status=None,
            message="An earlier attempt had committed already; its receipt stands.",
        )
    )
    journal.advance(plan.token, receipt, segments)
    return receipt


def _note(receipt: Receipt, segments: tuple[Segment, ...]) -> str:
    return json.dumps(
        {"receipt": receipt.as_dict(), "rejects": [segment.as_dict() for segment in segments]}
    )


def _judge_threshold(plan: Plan, staged: Staged) -> None:
    read = sum(count.read for count in staged.counts)
    failures = sum(count.rejected - count.duplicates for count in staged.counts)
    bad, files = len(plan.bad), len(staged.counts)
    if bad * 100 > plan.failure_threshold * files:
        raise TooManyRejected(
            f"{bad:,} of {files:,} files cannot be read; the task allows"
            f" {plan.failure_threshold:g} percent. The first: {plan.bad[0].error.message}",
            hint="Nothing was published. Mend or remove them, or raise the failure threshold.",
            field="failureThreshold",
        )
    if failures * 100 > plan.failure_threshold * read:
        raise TooManyRejected(
            f"{failures:,} of {read:,} rows were rejected; the task allows"
            f" {plan.failure_threshold:g} percent.{told_rules(staged)}",
            hint="Nothing was published. Look at the rejected rows, mend them, or raise the"
            " failure threshold.",
            field="failureThreshold",
        )


def _hand_over(load: Load, stager: Stager, staged: Staged, con: duckdb.DuckDBPyConnection) -> None:
    """Write the engine's own stage into the load's. Raises Unbalanced unless every row is there."""
    with_file = stager.with_file
    landed = load.write(
        Rows(
            con=con, sql=f"select * from {STAGE}", columns=staged.columns, with_file=with_file,
            with_attributes=stager.with_attributes, row_bytes=stager.row_bytes,
        )
    )  # fmt: skip
    for count in staged.counts:
        there = landed.get(count.file.path if with_file else "", 0)
        if there != count.landed:
            raise Unbalanced(
                f"{count.file.name}: {count.landed:,} rows were sent, {there:,} landed."
            )


def _receipt(
    plan: Plan, staged: Staged, counts: Counts, digests: Digests | None, *, with_file: bool
) -> Receipt:
    files = []
    for count in staged.counts:
        path = count.file.path if with_file else ""
        files.append(
            FileBooks(
                name=count.file.name,
                table=plan.table,
                bytes=count.file.bytes,
                counted="derived" if count.file.records is None else "counted",
                version=count.file.version,
                sha256=digests.of(count.file) if digests else "",
                books=Books(
                    read=count.read,
                    expanded=count.expanded,
                    inserted=counts.inserted.get(path, 0),
                    updated=counts.updated.get(path, 0),
                    filtered=counts.filtered.get(path, 0) + count.filtered,
                    deleted=counts.deleted.get(path, 0),
                    unchanged=counts.unchanged.get(path, 0),
                    rejected=count.rejected,
                    duplicates=count.duplicates,
                ),
            )
        )
    total = Books.total(file.books for file in files)
    table = TableBooks(
        name=plan.table,
        books=total
        + Books(replaced_out=counts.replaced_out, expanded=counts.removed, deleted=counts.removed),
        rows_after=counts.rows_after,
        digest=counts.digest,
    )
    return Receipt(
        tables=(table,), files=tuple(files), rules=staged.rules, passed=dict(plan.passed)
    )


def _table_quarrel(plan: Plan, receipt: Receipt) -> str | None:
    """Hold the books against the destination's own count of the table."""
    table = receipt.tables[0]
    known = table.rows_after is not None or not plan.documents  # a service may not let us count
    if (
        plan.action is Action.REPLACE
        and not plan.within
        and known
        and table.rows_after != table.books.inserted
    ):
        return f"{table.name} holds {table.rows_after} rows, {table.books.inserted} were inserted"
    return None


def _receipt_of_failure(plan: Plan, staged: Staged) -> Receipt:
    """Tell what was read and rejected where nothing landed."""
    return _receipt(plan, staged, Counts(), None, with_file=True)
