"""Staged documents between reading and landing: numbered, transformed, judged, some rejected."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import duckdb
import msgspec

from headrace.contract.chunks import BUFFER_BYTES_MIN, chunks
from headrace.contract.columns import DOCUMENT, FILE, KEY
from headrace.contract.destination import DocumentRules
from headrace.contract.instance import another
from headrace.domain.errors import TooManyRejected
from headrace.domain.rejected import RAW_BYTES_MAX, Rejected, Rule
from headrace.engine.plan import Plan
from headrace.engine.stage import STAGE, FileCount, Staged, told_rules

RECORD: Final = "__headrace_record"  # the number of the source's record that a document comes from
SPARE: Final = "__headrace_spare"  # what the stage is made anew in
BATCH_ROWS: Final = 1_000

Row = tuple[str, str, str, int]  # KEY, DOCUMENT, FILE, RECORD


class _Identified(msgspec.Struct):
    object_id: Any = msgspec.field(default=None, name="objectID")


_identified: Final = msgspec.json.Decoder(_Identified).decode


def object_id(document: str | bytes) -> Any:  # Any: JSON, whatever somebody has put there
    """Return a document's objectID, None if it has none."""
    return _identified(document).object_id


class Documents:
    """The documents of one run in the stage. Counts and rejects in `staged` follow every change."""

    def __init__(
        self, con: duckdb.DuckDBPyConnection, plan: Plan, staged: Staged, *, with_file: bool
    ) -> None:
        self.con = con
        self.with_file = with_file
        self._plan = plan
        self._staged = staged
        self.file = FILE if with_file else "''"  # SQL
        self.row = f"{KEY}, {DOCUMENT}, {self.file}, {RECORD}"  # SQL of a Row
        self.counts: Mapping[str, FileCount] = {
            count.file.path if with_file else "": count for count in staged.counts
        }
        self._number()

    def _number(self) -> None:
        """Give each document the number of its record: those that were rejected left a gap."""
        con, file = self.con, self.file
        gone: dict[str, set[int]] = {}
        for reject in self._staged.rejects:
            gone.setdefault(reject.file, set()).add(reject.record)
        gaps = [
            (path, record - place, place)  # a gap after so many documents; so many gaps by then
            for path, count in self.counts.items()
            for place, record in enumerate(sorted(gone.get(count.file.name, ())), 1)
        ]
        con.execute("create or replace temp table gaps (path varchar, before bigint, gone bigint)")
        if gaps:
            con.executemany("insert into gaps values (?, ?, ?)", gaps)
        con.execute(f"alter table {STAGE} add column {RECORD} bigint")
        con.execute(  # without the documents: a sort would have to hold them
            f"update {STAGE} set {RECORD} = nth + coalesce(gone, 0) from (select * from (select"
            f" rowid as place, {file} as path,"
            f" row_number() over (partition by {file} order by rowid) as nth from {STAGE})"
            " asof left join (select path as of, before, max(gone) as gone from gaps group by all)"
            f" on path = of and nth > before) where {STAGE}.rowid = place"
        )
        con.execute("drop table gaps")

    def rewriting(self) -> Iterator[list[Row]]:
        """Make an empty table SPARE like the stage, and yield the stage's rows in order."""
        self.con.execute(f"create or replace table {SPARE} as select * from {STAGE} limit 0")
        yield from self.chunks(f"select {self.row} from {STAGE} order by rowid")

    def chunks(self, query: str) -> Iterator[list[Any]]:
        """Yield what a query gives, while the connection is used for other things."""
        cursor = another(self.con)
        # Nothing is ahead: documents may be long.
        cursor.execute(f"set streaming_buffer_size = '{BUFFER_BYTES_MIN}B'")
        yield from chunks(cursor.execute(query), BATCH_ROWS)

    def insert(self, rows: Sequence[Row]) -> None:
        """Put rows into SPARE."""
        import pyarrow as pa

        if not rows:
            return
        keys, texts, files, numbers = zip(*rows, strict=True)
        columns: dict[str, Any] = {
            KEY: pa.array(keys, pa.string()), DOCUMENT: pa.array(texts, pa.string()),
            RECORD: pa.array(numbers, pa.int64()),
        }  # fmt: skip
        if self.with_file:
            columns[FILE] = pa.array(files, pa.string())
        self.con.register("__headrace_rows", pa.table(columns))
        self.con.execute(f"insert into {SPARE} by name select * from __headrace_rows")
        self.con.unregister("__headrace_rows")

    def replace_by(self, table: str) -> None:
        """Put another table of the same columns in the stage's place, and count it."""
        self.con.execute(f"drop table {STAGE}")
        self.con.execute(f"alter table {table} rename to {STAGE}")
        found = self.con.execute(f"select {self.file}, count(*) from {STAGE} group by 1").fetchall()
        landed = dict(found)
        for path, count in self.counts.items():
            count.landed = landed.get(path, 0)

    def reject(self, row: Row, rule: Rule, message: str) -> None:
        """Put a document that is no longer in the stage among the rejected. Raises TooMany."""
        _, document, path, number = row
        count, staged = self.counts[path], self._staged
        count.rejected += 1
        count.duplicates += rule is Rule.DUPLICATE_KEY
        staged.rules[rule] = staged.rules.get(rule, 0) + 1
        staged.rejects.append(
            Rejected(
                table=self._plan.table, file=count.file.name, record=number, line=None, byte=None,
                column=None, rule=rule, message=message, raw=document[:RAW_BYTES_MAX],
                raw_cut=len(document) > RAW_BYTES_MAX,
            )
        )  # fmt: skip
        if len(staged.rejects) > self._plan.rejects_max:
            raise TooManyRejected(
                f"More than {self._plan.rejects_max:,} rows are rejected.{told_rules(staged)}",
                hint="Mend the source, or its transformation. Nothing was published.",
            )

    def judge(self, rules: DocumentRules) -> None:
        """Drop what the destination leaves out; reject the documents that it does not take."""
        con = self.con
        if (shaped := rules.shaped) is not None:
            for some in self.rewriting():
                self.insert([(row[0], shaped(row[1]), row[2], row[3]) for row in some])
            self.replace_by(SPARE)
        suspects = self.chunks(
            f"select rowid, {self.row} from {STAGE} where {rules.suspect} order by rowid"
        )
        gone: list[tuple[int]] = []
        for rows in suspects:
            for place, key, document, path, number in rows:
                if (why := rules.why(document)) is not None:
                    self.counts[path].landed -= 1
                    self.reject((key, document, path, number), *why)
                    gone.append((place,))
        if gone:
            con.executemany(f"delete from {STAGE} where rowid = ?", gone)

    def done(self) -> None:
        """Leave the stage as a load expects it."""
        self.con.execute(f"alter table {STAGE} drop column {RECORD}")
