"""The step between staging and landing: every staged document passes through a transformation."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any, Final

import duckdb
import msgspec

from headrace.contract.columns import DOCUMENT, FILE, KEY
from headrace.domain.event import EventKind, EventStatus, NewEvent
from headrace.domain.rejected import RAW_BYTES_MAX, Rejected, Rule
from headrace.engine.javascript import LINES_MAX, JavaScript, Outcome
from headrace.engine.plan import Plan
from headrace.engine.stage import STAGE, FileCount, Staged

BATCH_ROWS: Final = 1_000
MADE: Final = "__headrace_transformed"


class _Identified(msgspec.Struct):
    object_id: str | int | None = msgspec.field(default=None, name="objectID")


_identified = msgspec.json.Decoder(_Identified).decode


def transform(
    con: duckdb.DuckDBPyConnection, plan: Plan, staged: Staged, code: str,
    secrets: Mapping[str, Any], *, with_file: bool,
) -> NewEvent:  # fmt: skip
    """Put what a transformation makes of the staged documents in their place.

    Counts and rejects in `staged` follow. Returns the event that tells of it. Raises Misconfigured
    for code that cannot be used.
    """
    counts = {count.file.path if with_file else "": count for count in staged.counts}
    numbers = {path: _numbers(staged, count.file.name) for path, count in counts.items()}
    file = FILE if with_file else "''"
    con.execute(f"create or replace table {MADE} as select * from {STAGE} limit 0")
    rows = con.cursor().execute(f"select {KEY}, {DOCUMENT}, {file} from {STAGE} order by rowid")
    made = total = 0
    with closing(JavaScript(code, secrets)) as script:
        while chunk := rows.fetchmany(BATCH_ROWS):
            documents = [_with_id(key, document) for key, document, _ in chunk]
            kept: list[tuple[str, str, str]] = []
            for (key, document, path), outcome in zip(chunk, script.batch(documents), strict=True):
                number = next(numbers[path])
                kept += _taken(plan, staged, counts[path], key, document, path, outcome, number)
            _insert(con, kept, with_file=with_file)
            total += len(chunk)
            made += len(kept)
        said = script.said[:LINES_MAX]
    _drop_twins(con, counts, file)
    con.execute(f"drop table {STAGE}")
    con.execute(f"alter table {MADE} rename to {STAGE}")
    for path, landed in con.execute(f"select {file}, count(*) from {STAGE} group by 1").fetchall():
        counts[path].landed = landed
    for path, count in counts.items():
        if not con.execute(f"select 1 from {STAGE} where {file} = ? limit 1", [path]).fetchone():
            count.landed = 0
    return NewEvent(
        kind=EventKind.TRANSFORM, status=EventStatus.SUCCEEDED, rows=total,
        message=f"{total:,} records were transformed into {made:,}.", data={"console": said},
    )  # fmt: skip


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


def _taken(
    plan: Plan, staged: Staged, count: FileCount, key: str, document: str, path: str,
    outcome: Outcome, number: int,
) -> list[tuple[str, str, str]]:  # fmt: skip
    """Account for one record; return the rows (key, document, file) that it became."""
    error = outcome.error
    rows = []
    for one in outcome.records:
        id_ = _identified(one).object_id
        if id_ is None and len(outcome.records) == 1:
            id_ = key
        if id_ is None or id_ == "":
            error = "The transformation returned several records, one of them without objectID."
        rows.append((str(id_), one, path))
    if error is not None:
        count.rejected += 1
        staged.rules[Rule.TRANSFORMATION] = staged.rules.get(Rule.TRANSFORMATION, 0) + 1
        staged.rejects.append(
            Rejected(
                table=plan.table,
                file=count.file.name,
                record=number,
                line=None,
                byte=None,
                column=None,
                rule=Rule.TRANSFORMATION,
                message=error,
                raw=document[:RAW_BYTES_MAX],
                raw_cut=len(document) > RAW_BYTES_MAX,
            )
        )
        return []
    if rows:
        count.expanded += len(rows) - 1
    else:
        count.filtered += 1
    return rows


def _insert(
    con: duckdb.DuckDBPyConnection, rows: list[tuple[str, str, str]], *, with_file: bool
) -> None:
    import pyarrow as pa

    if not rows:
        return
    keys, documents, files = zip(*rows, strict=True)
    columns: dict[str, Any] = {KEY: keys, DOCUMENT: documents}
    if with_file:
        columns[FILE] = files
    batch = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    con.register("__headrace_made", batch)
    con.execute(f"insert into {MADE} by name select * from __headrace_made")
    con.unregister("__headrace_made")


def _drop_twins(con: duckdb.DuckDBPyConnection, counts: Mapping[str, FileCount], file: str) -> None:
    """Of records that have become the same, keep the last; the others are rejected."""
    earlier = (
        f"select rowid as place, {file} as file, row_number() over (partition by {KEY} order by"
        f" rowid desc) as back from {MADE}"
    )
    for path, rows in con.execute(
        f"select file, count(*) from ({earlier}) where back > 1 group by 1"
    ).fetchall():
        counts[path].rejected += rows
        counts[path].duplicates += rows
    con.execute(f"delete from {MADE} where rowid in (select place from ({earlier}) where back > 1)")
