"""The step between staging and landing: every staged document passes through a transformation."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any, Final

import duckdb
import msgspec

from headrace.contract.columns import DOCUMENT, FILE, KEY
from headrace.domain.errors import TooManyRejected
from headrace.domain.event import EventKind, EventStatus, NewEvent
from headrace.domain.rejected import RAW_BYTES_MAX, Rejected, Rule
from headrace.engine.javascript import LINES_MAX, JavaScript, Outcome
from headrace.engine.plan import Journal, Plan
from headrace.engine.stage import STAGE, Staged, told_rules

BATCH_ROWS: Final = 1_000
MADE: Final = "__headrace_transformed"
RECORD: Final = "__headrace_record"  # the number of the record that a made one comes from


Row = tuple[str, str, str, int]  # KEY, DOCUMENT, FILE, RECORD


class _Identified(msgspec.Struct):
    object_id: str | int | None = msgspec.field(default=None, name="objectID")


_identified = msgspec.json.Decoder(_Identified).decode


def transform(
    con: duckdb.DuckDBPyConnection, plan: Plan, staged: Staged, journal: Journal, *,
    with_file: bool,
) -> None:  # fmt: skip
    """Put what the plan's transformations make of the staged documents in their place, in turn.

    Counts and rejects in `staged` follow; each tells its event. Raises Misconfigured for code that
    cannot be used, TooManyRejected.
    """
    for place, (code, secrets) in enumerate(plan.transformations):
        journal.told("transforming")
        step = _Step(con, plan, staged, with_file=with_file, first=place == 0)
        journal.event(step.run(code, secrets))
        if len(staged.rejects) > plan.rejects_max:
            raise TooManyRejected(
                f"More than {plan.rejects_max:,} rows are rejected.{told_rules(staged)}",
                hint="Mend the transformation, or the source. Nothing was published.",
            )
    if plan.transformations:
        con.execute(f"alter table {STAGE} drop column {RECORD}")


class _Step:
    """One transformation of all documents in the stage."""

    def __init__(
        self, con: duckdb.DuckDBPyConnection, plan: Plan, staged: Staged, *, with_file: bool,
        first: bool,
    ) -> None:  # fmt: skip
        self._con = con
        self._plan = plan
        self._staged = staged
        self._with_file = with_file
        self._file = FILE if with_file else "''"
        self._counts = {count.file.path if with_file else "": count for count in staged.counts}
        if first:
            con.execute(f"alter table {STAGE} add column {RECORD} bigint")
        self._numbers = {
            path: _numbers(staged, count.file.name) if first else None
            for path, count in self._counts.items()
        }

    def run(self, code: str, secrets: Mapping[str, Any]) -> NewEvent:
        """Transform; return the event that tells of it."""
        con = self._con
        con.execute(f"create or replace table {MADE} as select * from {STAGE} limit 0")
        found = con.cursor().execute(
            f"select {KEY}, {DOCUMENT}, {self._file}, {RECORD} from {STAGE} order by rowid"
        )
        made = total = 0
        with closing(JavaScript(code, secrets)) as script:
            while chunk := found.fetchmany(BATCH_ROWS):
                documents = [_with_id(row[0], row[1]) for row in chunk]
                kept: list[Row] = []
                for row, outcome in zip(chunk, script.batch(documents), strict=True):
                    kept += self._taken(row, outcome)
                self._insert(kept)
                total += len(chunk)
                made += len(kept)
            said = script.said[:LINES_MAX]
        self._drop_twins()
        con.execute(f"drop table {STAGE}")
        con.execute(f"alter table {MADE} rename to {STAGE}")
        landed = dict(
            con.execute(f"select {self._file}, count(*) from {STAGE} group by 1").fetchall()
        )
        for path, count in self._counts.items():
            count.landed = landed.get(path, 0)
        return NewEvent(
            kind=EventKind.TRANSFORM, status=EventStatus.SUCCEEDED, rows=total,
            message=f"{total:,} records were transformed into {made:,}.", data={"console": said},
        )  # fmt: skip

    def _taken(self, row: Row, outcome: Outcome) -> list[Row]:
        """Account for one record; return the rows that it became."""
        key, document, path, number = row
        if numbers := self._numbers[path]:
            number = next(numbers)
        error = outcome.error
        rows = []
        for one in outcome.records:
            id_ = _identified(one).object_id
            if id_ is None and len(outcome.records) == 1:
                id_ = key
            if id_ is None or id_ == "":
                error = "The transformation returned several records, one of them without objectID."
            rows.append((str(id_), one, path, number))
        if error is not None:
            self._reject((key, document, path, number), Rule.TRANSFORMATION, error)
            return []
        if rows:
            self._counts[path].expanded += len(rows) - 1
        else:
            self._counts[path].filtered += 1
        return rows

    def _reject(self, row: Row, rule: Rule, message: str) -> None:
        _, document, path, number = row
        count, rules = self._counts[path], self._staged.rules
        count.rejected += 1
        rules[rule] = rules.get(rule, 0) + 1
        self._staged.rejects.append(
            Rejected(
                table=self._plan.table, file=count.file.name, record=number, line=None, byte=None,
                column=None, rule=rule, message=message, raw=document[:RAW_BYTES_MAX],
                raw_cut=len(document) > RAW_BYTES_MAX,
            )
        )  # fmt: skip

    def _insert(self, rows: list[Row]) -> None:
        import pyarrow as pa

        if not rows:
            return
        keys, documents, files, numbers = zip(*rows, strict=True)
        columns: dict[str, Any] = {
            KEY: pa.array(keys, pa.string()), DOCUMENT: pa.array(documents, pa.string()),
            RECORD: pa.array(numbers, pa.int64()),
        }  # fmt: skip
        if self._with_file:
            columns[FILE] = pa.array(files, pa.string())
        self._con.register("__headrace_made", pa.table(columns))
        self._con.execute(f"insert into {MADE} by name select * from __headrace_made")
        self._con.unregister("__headrace_made")

    def _drop_twins(self) -> None:
        """Of records that have become the same, keep the last; the others are rejected."""
        ranked = (
            f"select rowid as place, row_number() over (partition by {KEY} order by rowid desc)"
            f" as back from {MADE}"
        )
        twins = f"rowid in (select place from ({ranked}) where back > 1)"
        found = self._con.execute(
            f"select {KEY}, {DOCUMENT}, {self._file}, {RECORD} from {MADE} where {twins}"
            " order by rowid"
        )
        while rows := found.fetchmany(BATCH_ROWS):
            for row in rows:
                self._reject(
                    row, Rule.DUPLICATE_KEY,
                    f"The transformation made {row[0][:80]!r} of a later record too; that stands.",
                )  # fmt: skip
                self._counts[row[2]].duplicates += 1
        self._con.execute(f"delete from {MADE} where {twins}")


def _numbers(staged: Staged, name: str) -> Iterator[int]:
    """Yield the numbers of a file's records that reached the stage."""
    gone = {reject.record for reject in staged.rejects if reject.file == name}
    number = 0
    while True:
        number += 1
        if number not in gone:
            yield number


def _with_id(key: str, document: str) -> str:
    """Return a document that names its objectID, as code expects it."""
    if _identified(document).object_id is not None:
        return document
    rest = document[1:].lstrip()
    comma = "" if rest.startswith("}") else ","
    return f'{{"objectID":{msgspec.json.encode(key).decode()}{comma}{rest}'
