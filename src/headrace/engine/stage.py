"""Staging: scans become fitted rows in one place, and every record is accounted for.

First the quick way, if the source has one: it reads plain files only and ends at the first oddity.
Then the tolerant one: one scan, judged in SQL, rejects only counted. A file whose numbers agree
with the count of its bytes is done. The others are gone over record by record: that finds the place
and reason of every reject, and where the two readers disagree, the file is cleaned and scanned
again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import duckdb

from headrace.contract import room
from headrace.contract.chunks import VECTOR_ROWS, buffered
from headrace.contract.columns import ATTRIBUTES, FILE, KEY, MISFIT, Column, literal, quoted
from headrace.contract.destination import DocumentRules, Load, Rows
from headrace.contract.source import File, Guessing, LeftOver, Place, Survey
from headrace.domain.errors import TooManyRejected, Unbalanced
from headrace.domain.rejected import Rejected, Rule
from headrace.engine import fit
from headrace.engine.layout import HEAD_BYTES, Fitted, quickened, sampled
from headrace.engine.plan import Journal, Plan
from headrace.observe import faults

STORM_ROWS: Final = 100  # fewer rows than this are no storm
STORM_SHARE: Final = 0.95
OFFSET_SLACK: Final = 2  # bytes; DuckDB 1.5 tells some offsets after its first buffer one too high
STAGE: Final = "__headrace_scratch_stage"
LIGHT: Final = 2  # times a run's memory: 60 M rows in a temporary table have no room in 143 MB
WIDE: Final = 100  # columns
LONG: Final = 10_000  # bytes of a row
SHORT_BYTES: Final = 20  # of a value that is no long text
COLUMN_BYTES: Final = 720_000  # what DuckDB holds for each column that a thread writes: its values,
# which of them are null, and a block on its way to the file
STREAM_BYTES: Final = 1_000_000  # of rows that are ahead of whoever takes them

Misfit = tuple[int, int, str | None]  # ordinal among unbroken records, broken test, value


@dataclass(slots=True, kw_only=True)
class FileCount:
    """One file's numbers: read + expanded = landed + rejected + filtered."""

    file: File
    read: int
    landed: int
    rejected: int = 0
    duplicates: int = 0
    expanded: int = 0  # by a transformation
    filtered: int = 0  # by a transformation


@dataclass(slots=True, kw_only=True)
class Staged:
    """What lies in the stage. `rejects_capped`: more were found than the quarantine may keep."""

    columns: Sequence[Column]
    counts: list[FileCount] = field(default_factory=list)
    rejects: list[Rejected] = field(default_factory=list)
    rules: dict[str, int] = field(default_factory=dict)


class Stager:
    """Fills one stage. `attempt` may be repeated after `clean`; the stage is emptied first."""

    def __init__(
        self, plan: Plan, load: Load, con: duckdb.DuckDBPyConnection, journal: Journal,
        rules: DocumentRules | None,
    ) -> None:  # fmt: skip
        self._plan = plan
        self._load = load
        self._con = con
        self._journal = journal
        # A key needs an ordered stage that can be looked at; other loads are streamed to.
        self.documents = bool(plan.transformations) or rules is not None
        self.local = load.stages or bool(plan.key) or self.documents
        self.table = load.stage if load.stages else STAGE
        self.with_file = False
        self.with_attributes = False
        self.fitted: Sequence[Fitted] = ()
        self.width = 0  # columns
        self.row_bytes = 0  # about
        self._room = plan.memory_bytes // 2  # bytes that DuckDB may take
        self._kind = "table"
        [(self._threads,)] = con.execute("select current_setting('threads')").fetchall()
        self._judged = False  # where the scans begin
        self._files: dict[int, list[File]] = {}
        self._quick: Sequence[Fitted] = ()

    def share(self) -> float:
        """Return how much of the scan under way is done, from 0 to 1; 0 where nobody knows."""
        quick = [one.quick.share() for one in self._quick if one.quick]
        return sum(quick) / len(quick) if quick else max(self._con.query_progress(), 0) / 100

    def stop(self) -> None:
        """Make the scan under way fail soon; from any thread."""
        self._con.interrupt()
        for one in self._quick:
            one.quick.stop() if one.quick else None

    def stage(self, lay: Callable[[], Sequence[Fitted]]) -> Staged:
        """Stage every row of every scan, each record accounted for, or raise.

        `lay` lays the columns over the scans; again, where what a scan had guessed did not hold.
        """
        fitted = self._begin(lay())
        if staged := self._staged_quickly(fitted):
            return staged
        guessing = [one.scan for one in fitted if isinstance(one.scan, Guessing)]
        # Each of them: none is to guess again. Whole documents have no columns to guess.
        if not self._plan.documents and sum(scan.settle() for scan in guessing):
            fitted = self._begin(lay())
            if staged := self._staged_quickly(fitted):
                return staged
        return self._staged_exactly(fitted)

    def _begin(self, fitted: Sequence[Fitted]) -> Sequence[Fitted]:
        self.fitted = fitted
        self._files = {number: list(one.scan.files) for number, one in enumerate(fitted)}
        self.with_file = sum(map(len, self._files.values())) > 1
        self.with_attributes = any(ATTRIBUTES in item for one in fitted for item in one.extra)
        self._judged = False
        # A document is two values, its key and its text.
        self.width = 2 if self._plan.documents else max(len(one.columns) for one in fitted)
        self.row_bytes = max(one.scan.record_bytes() for one in fitted)
        ahead = buffered(STREAM_BYTES, self.width, self.row_bytes)
        self._con.execute(f"set streaming_buffer_size = '{ahead}B'")
        text_bytes = self.row_bytes - self.width * SHORT_BYTES  # of the longest column, at most
        if text_bytes * room.GROUP_ROWS > self._plan.memory_bytes // 3:
            # To weigh a dictionary DuckDB holds a column's texts of a group, outside its limit.
            self._con.execute("set disabled_compression_methods = 'dictionary'")
        return fitted

    def _take_threads(self, *, quickly: bool) -> None:
        """Take as many threads as there is room for: wide tables and long rows take more.

        DuckDB's own reader gives a thread alone more rows at once than two: long ones by buffers.
        """
        each = self.width * COLUMN_BYTES
        if quickly:
            each = max(each, self.row_bytes * VECTOR_ROWS * 4)
        threads = max(min(self._threads, self._plan.memory_bytes // 2 // each), 1)
        self._con.execute(f"set threads = {threads}")

    def _staged_exactly(self, fitted: Sequence[Fitted]) -> Staged:
        self._take_threads(quickly=False)
        self._judge_heads(fitted)
        strict, cleaned = True, False
        while True:
            try:
                landed, left_out = self._fill(fitted, strict=strict)
            except duckdb.InvalidInputException as error:
                if cleaned:
                    raise Unbalanced(f"The file cannot be read: {error}") from error
                if strict and MISFIT in str(error):
                    strict = False
                    self._empty(fitted)
                    continue
                doubtful = set(self._paths())
                staged = None
            else:
                staged, doubtful = self._account(fitted, landed, left_out)
            if staged and not doubtful:
                return staged
            if cleaned:
                break
            strict, cleaned = False, True
            self._journal.told("cleaning", message=f"{len(doubtful)} files are read again")
            self._clean(fitted, doubtful)
        names = ", ".join(sorted(self._paths()[path] for path in doubtful)[:3])
        raise Unbalanced(
            f"{names}: the records in the file and the rows that were loaded differ.",
            hint="Nothing was published. Please report this file's form.",
        )

    def _staged_quickly(self, fitted: Sequence[Fitted]) -> Staged | None:
        """Stage everything the quick way; None, and an empty stage, if it met anything odd."""
        self._take_threads(quickly=True)
        self._quick = quickened(self._plan, fitted, self._con) or ()
        if not self._quick:
            return None
        found: Staged | None = None
        try:
            landed, _ = self._fill(self._quick, strict=True)
        except Exception as error:  # of whoever reads the streams
            if MISFIT not in str(error):
                raise
        else:
            found = self._with_left_over(fitted, landed)
        if found is None:
            self._empty(fitted)
        for one in self._quick:
            one.quick.close() if one.quick else None
        self._quick = ()
        return found

    def _with_left_over(self, fitted: Sequence[Fitted], landed: dict[str, int]) -> Staged | None:
        """Stage, by the exact way, what a quick scan has passed over; None in any doubt."""
        if not all(one.quick.complete() for one in self._quick if one.quick):
            return None
        over = {
            file.path: left
            for one, files in zip(self._quick, self._files.values(), strict=True)
            for file in files
            if one.quick and (left := one.quick.left_over(file))
        }
        if not all(
            one.scan.knows(list(over.values())) for one in fitted if isinstance(one.scan, Guessing)
        ):
            return None
        if not over:
            staged, doubtful = self._account(fitted, landed, {})
            return None if doubtful else staged
        self._judge_heads(fitted)
        staged = Staged(columns=fitted[0].columns)
        for one, files in zip(fitted, self._files.values(), strict=True):
            for file in files:
                rows = landed.get(file.path if self.with_file else "", 0)
                count = FileCount(file=file, read=file.records or 0, landed=rows)
                staged.counts.append(count)
                if (left := over.get(file.path)) and not self._exactly(one, count, left, staged):
                    return None
                if count.read != count.landed + count.rejected:
                    return None
        return staged

    def _exactly(self, one: Fitted, count: FileCount, left: LeftOver, staged: Staged) -> bool:
        """Stage records of one file that were passed over; tell whether each is accounted for."""
        own = left.file
        sql = one.rows([own], with_file=False)
        if self.with_file:
            sql = f"select *, {literal(count.file.path)} as {FILE} from ({sql})"
        if self.local:
            self._con.execute(f"insert into {self.table} by name {sql}")
            added = self._landed().get(count.file.path if self.with_file else "", 0) - count.landed
        else:
            rows = Rows(
                con=self._con, sql=sql, columns=one.columns, with_file=self.with_file,
                row_bytes=self.row_bytes,
            )  # fmt: skip
            added = sum(self._load.write(rows).values())
        out = one.scan.reader_rejects(self._con).get(own.path, [])
        before = len(staged.rejects)
        few = FileCount(file=own, read=own.records or 0, landed=added)
        if (few.read != added or out) and not self._explain(one, few, out, (), staged):
            return False
        staged.rejects[before:] = [
            replace(
                reject, record=place.record, line=place.line, byte=place.byte, raw=place.raw,
                raw_cut=place.raw_cut,
            )
            for reject in staged.rejects[before:]
            for place in [left.places[reject.record - 1]]
        ]  # fmt: skip
        count.landed += added
        count.rejected = few.rejected
        return few.read == added + few.rejected

    def _paths(self) -> dict[str, str]:
        return {file.path: file.name for files in self._files.values() for file in files}

    def _clean(self, fitted: Sequence[Fitted], doubtful: set[str]) -> None:
        for number, one in enumerate(fitted):
            self._files[number] = [
                one.scan.cleaned(file) if file.path in doubtful else file
                for file in self._files[number]
            ]
        self._empty(fitted)

    def _empty(self, fitted: Sequence[Fitted]) -> None:
        """Empty the stage for another attempt."""
        self._load.abort()
        self._load.begin()
        if self.local:
            self._con.execute(f"drop table if exists {self.table}")
        for one in fitted:
            one.scan.reader_rejects(self._con)

    def _fill(
        self, fitted: Sequence[Fitted], *, strict: bool
    ) -> tuple[dict[str, int], dict[str, list[int]]]:
        """Scan everything; return rows landed and where records were left out, by path."""
        ordered = str(bool(self._plan.key) or self.documents).lower()
        self._con.execute(f"set preserve_insertion_order = {ordered}")
        landed: dict[str, int] = {}
        left_out: dict[str, list[int]] = {}
        total = sum(file.bytes for files in self._files.values() for file in files)
        self._journal.told("loading", total=total)
        for number, one in enumerate(fitted):
            sql = one.rows(self._files[number], with_file=self.with_file, strict=strict)
            if self.local:
                how = f"insert into {self.table} by name" if number else None
                own = not self._load.stages and not self.documents
                light = self.width < WIDE and total <= self._plan.memory_bytes * LIGHT
                temporary = (own or self._load.temporary) and light
                self._kind = "temp table" if temporary else "table"
                self._con.execute(f"{how or f'create {self._kind} {self.table} as'} {sql}")
                if self.width >= WIDE:  # what is in the file takes less memory to be read
                    self._con.execute("checkpoint")
            else:
                rows = Rows(
                    con=self._con, sql=sql, columns=one.columns, with_file=self.with_file,
                    streams=one.streams(self._files[number]) if not self.with_file else (),
                    row_bytes=self.row_bytes,
                )  # fmt: skip
                for path, added in self._load.write(rows).items():
                    landed[path] = landed.get(path, 0) + added
            left_out |= one.scan.reader_rejects(self._con)
            faults.reach("child.half_staged")
        return (self._landed() if self.local else landed), left_out

    def _landed(self) -> dict[str, int]:
        if self.with_file:
            sql = f"select {FILE}, count(*) from {self.table} group by 1"
        else:
            sql = f"select '', count(*) from {self.table}"
        return dict(self._con.execute(sql).fetchall())

    def _account(
        self, fitted: Sequence[Fitted], landed: dict[str, int], left_out: dict[str, list[int]]
    ) -> tuple[Staged, set[str]]:
        """Account for every record; return also the files in which the two readers disagree."""
        staged = Staged(columns=fitted[0].columns)
        doubtful: set[str] = set()
        doubles = (
            self._take_duplicates(sum(landed.values())) if self.local and self._plan.key else {}
        )
        for number, one in enumerate(fitted):
            for file in self._files[number]:
                rows = landed.get(file.path if self.with_file else "", 0)
                twins = doubles.get(file.path if self.with_file else "", [])
                out = left_out.get(file.path, [])
                read = rows + len(out) if file.records is None else file.records
                count = FileCount(file=file, read=read, landed=rows - len(twins))
                staged.counts.append(count)
                if read == rows and not (out or twins or file.ambiguous):
                    continue
                if file.ambiguous or not self._explain(one, count, out, twins, staged):
                    doubtful.add(file.path)
        return staged, doubtful

    def _has_twins(self, key: Sequence[str], rows: int) -> bool:
        """Tell whether a key of the stage is there twice."""
        parts = room.parts(rows, room.KEY_BYTES, self._room)
        for number in range(parts):
            if parts > 1:
                self._con.execute(room.freeing(self._con))
            found = self._con.execute(
                f"select 1 from {self.table} where {room.part(key, number, parts)}"
                f" group by {', '.join(key)} having count(*) > 1 limit 1"
            ).fetchall()
            if found:
                return True
        return False

    def _take_duplicates(self, rows: int) -> dict[str, list[int]]:
        """Remove all but the last of each key's rows from the stage; return ordinals by file.

        The last: the one with the most in the plan's `latest`, then the one that comes last.
        """
        key = [quoted(KEY)] if self._plan.documents else list(map(quoted, self._plan.key))
        if not self._has_twins(key, rows):
            return {}
        file = FILE if self.with_file else "''"
        best = f"{quoted(self._plan.latest)} desc nulls last, " if self._plan.latest else ""
        twins = "__headrace_twins"
        self._con.execute(
            f"create or replace temp table {twins} as select id, file, ordinal from"
            f" (select rowid as id, {file} as file,"
            f" row_number() over (partition by {file} order by rowid) - 1 as ordinal,"
            f" row_number() over (partition by {', '.join(key)} order by {best}rowid desc) as back"
            f" from {self.table}) where back > 1"
        )
        fresh = quoted(self.table.strip('"') + "_anew")
        for statement in room.going(self._con, self.table, twins, fresh, self._room, self._kind):
            self._con.execute(statement)
        found: dict[str, list[int]] = {}
        for path, ordinal in self._con.execute(
            f"select file, ordinal from {twins} order by file, ordinal"
        ).fetchall():
            found.setdefault(path, []).append(ordinal)
        self._con.execute(f"drop table {twins}")
        return found

    def _explain(
        self,
        one: Fitted,
        count: FileCount,
        left_out: list[int],
        twins: Sequence[int],
        staged: Staged,
    ) -> bool:
        """Find every rejected record of one file; False if the two readers disagree about it."""
        file = count.file
        most = max(self._plan.rejects_max - len(staged.rejects), 0)
        self._con.execute("set preserve_insertion_order = true")
        misfits = self._con.execute(one.misfits(file, most + 1)).fetchall()
        one.scan.reader_rejects(self._con)
        misfit_at = [row[0] for row in misfits]
        twin_at = list(_unbroken(twins, misfit_at))
        survey = one.scan.survey(file, sorted({*misfit_at, *twin_at}), most + 1)
        landed = count.landed + len(twins)
        capped = len(misfits) > most
        if file.records is not None:
            count.read = survey.records
        misfitting = count.read - survey.broken - landed
        agreed = _same_places(left_out, [] if file.cleaned else survey.broken_at) and (
            misfitting > most if capped else misfitting == len(misfits)
        )
        if not agreed or misfitting < 0:
            return False
        count.duplicates = len(twins)
        count.rejected = survey.broken + misfitting + len(twins)
        found = list(self._rejects(one, file, survey, misfits, twin_at))
        for reject in found:
            staged.rules[reject.rule] = staged.rules.get(reject.rule, 0) + 1
        staged.rejects += found
        if len(staged.rejects) > self._plan.rejects_max:
            read, rejected = self._totals(staged)
            raise TooManyRejected(
                f"More than {self._plan.rejects_max:,} rows are rejected"
                f" ({rejected:,} of {read:,} read so far)." + told_rules(staged),
                hint="Mend the source, or its mapping. Nothing was published.",
            )
        return True

    def _totals(self, staged: Staged) -> tuple[int, int]:
        return (
            sum(count.read for count in staged.counts),
            sum(count.rejected for count in staged.counts),
        )

    def _rejects(
        self, one: Fitted, file: File, survey: Survey, misfits: list[Misfit], twins: Sequence[int]
    ) -> Iterator[Rejected]:
        """Yield the rejected records of one file: broken, misfitting, doubled."""

        def rejected(place: Place, rule: Rule, message: str, column: str | None) -> Rejected:
            return Rejected(
                table=self._plan.table, file=file.name, record=place.record, line=place.line,
                byte=place.byte, column=column, rule=rule, message=message, raw=place.raw,
                raw_cut=place.raw_cut,
            )  # fmt: skip

        for broken in survey.kept:
            yield rejected(broken.place, broken.rule, broken.message, None)
        for ordinal, reason, value in misfits:
            place = survey.wanted[ordinal]
            if reason < len(one.checks):
                check = one.checks[reason]
                yield rejected(place, check.rule, check.message, None)
            else:
                cell, type_ = one.judged[reason - len(one.checks)]
                said = f"{value!r} is not {fit.noun(type_)}."
                yield rejected(place, Rule.BAD_VALUE, said, cell.column.name)
        which = f"with more in {self._plan.latest!r}" if self._plan.latest else "that comes later"
        later = f"A row of this run {which} has the same key."
        for ordinal in twins:
            yield rejected(survey.wanted[ordinal], Rule.DUPLICATE_KEY, later, None)

    def _judge_heads(self, fitted: Sequence[Fitted]) -> None:
        """Judge where every scan begins, once, before many rows are judged one by one."""
        if not self._judged:
            for one in fitted:
                self._judge_head(one)
        self._judged = True

    def _judge_head(self, one: Fitted) -> None:
        """Look at the first MiB of a large scan: a column that is wrong everywhere ends the run."""
        file = one.scan.files[0]
        share = max(STORM_SHARE, self._plan.failure_threshold / 100)
        head = one.scan.head(file, HEAD_BYTES)
        if head is None or self._plan.failure_threshold >= 100:  # percent
            return

        def query(file: File) -> str:
            counts, source = one.head_counts(file)
            return f"select {counts} from {source}"

        [(rows, *wrong)], left = sampled(self._con, one.scan, head, query)
        if rows + left < STORM_ROWS:
            return
        for (cell, type_), bad in zip(one.judged, wrong, strict=False):
            if bad > share * rows:
                raise TooManyRejected(
                    f"Column {cell.column.name!r} is not {fit.noun(type_)}"
                    f" in {bad:,} of the first {rows:,} rows.",
                    hint="Change its type in the mapping, or the delimiter. Nothing was loaded.",
                    field=f"input.mapping.{cell.column.name}",
                )
        for check, bad in zip(one.checks, wrong[len(one.judged) :], strict=True):
            if bad > share * rows:
                raise TooManyRejected(
                    f"{check.message} So it is in {bad:,} of the first {rows:,} rows.",
                    hint="Nothing was loaded.",
                )
        if left > share * (rows + left):
            survey = one.scan.survey(head, (), 1)
            why = survey.kept[0].message if survey.kept else "They cannot be read."
            raise TooManyRejected(
                f"{left:,} of the first {rows + left:,} rows are broken: {why}",
                hint="Check delimiter, quote and encoding. Nothing was loaded.",
            )


def _same_places(one: Sequence[int], other: Sequence[int]) -> bool:
    """Tell whether both name the same records; the fast reader's offsets can be one off."""
    return len(one) == len(other) and all(
        abs(a - b) <= OFFSET_SLACK for a, b in zip(one, other, strict=True)
    )


def _unbroken(twins: Sequence[int], misfits: Sequence[int]) -> Iterator[int]:
    """Turn ordinals among fitting rows into ordinals among unbroken rows; both sorted."""
    passed = 0
    for twin in twins:
        while passed < len(misfits) and misfits[passed] <= twin + passed:
            passed += 1
        yield twin + passed


def told_rules(staged: Staged) -> str:
    """Tell the most frequent reasons in a sentence."""
    reasons: dict[str, int] = {}
    for reject in staged.rejects:
        if reject.rule is Rule.DUPLICATE_KEY:
            continue
        said = f"column {reject.column!r}: {reject.rule}" if reject.column else str(reject.rule)
        reasons[said] = reasons.get(said, 0) + 1
    top = sorted(reasons.items(), key=lambda item: -item[1])[:3]
    return (" Most often " + ", ".join(f"{said} ({n:,})" for said, n in top) + ".") if top else ""
