"""The step between staging and landing: every staged document passes through a transformation."""

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import msgspec

from headrace.contract.columns import KEY
from headrace.domain.event import EventKind, EventStatus, NewEvent
from headrace.domain.rejected import Rule
from headrace.engine.documents import SPARE, Documents, Row, object_id
from headrace.engine.javascript import LINES_MAX, JavaScript, Outcome


def transform(documents: Documents, code: str, secrets: Mapping[str, Any]) -> NewEvent:
    """Put what a transformation makes of the staged documents in their place.

    Returns the event that tells of it. Raises Misconfigured for code that cannot be used.
    """
    made = total = 0
    with closing(JavaScript(code, secrets)) as script:
        for rows in documents.rewriting():
            outcomes = script.batch([_with_id(row[0], row[1]) for row in rows])
            kept: list[Row] = []
            for row, outcome in zip(rows, outcomes, strict=True):
                kept += _taken(documents, row, outcome)
            documents.insert(kept)
            total += len(rows)
            made += len(kept)
        said = script.said[:LINES_MAX]
    _drop_twins(documents)
    documents.replace_by(SPARE)
    return NewEvent(
        kind=EventKind.TRANSFORM, status=EventStatus.SUCCEEDED, rows=total,
        message=f"{total:,} records were transformed into {made:,}.", data={"console": said},
    )  # fmt: skip


def _with_id(key: str, document: str) -> str:
    """Return a document that names its objectID, as code expects it."""
    if object_id(document) is not None:
        return document
    rest = document[1:].lstrip()
    comma = "" if rest.startswith("}") else ","
    return f'{{"objectID":{msgspec.json.encode(key).decode()}{comma}{rest}'


def _taken(documents: Documents, row: Row, outcome: Outcome) -> list[Row]:
    """Account for one record; return the rows that it became."""
    key, _, path, number = row
    error = outcome.error
    rows = []
    for one in outcome.records:
        id_ = object_id(one)
        if id_ is None and len(outcome.records) == 1:
            id_ = key
        if id_ is None or id_ == "":
            error = "The transformation returned several records, one of them without objectID."
        elif isinstance(id_, bool) or not isinstance(id_, str | int):
            error = "The transformation returned an objectID that is no text and no whole number."
        rows.append((str(id_), one, path, number))
    if error is not None:
        documents.reject(row, Rule.TRANSFORMATION, error)
        return []
    if rows:
        documents.counts[path].expanded += len(rows) - 1
    else:
        documents.counts[path].filtered += 1
    return rows


def _drop_twins(documents: Documents) -> None:
    """Of records that have become the same, keep the last; the others are rejected."""
    ranked = (
        f"select rowid as place, row_number() over (partition by {KEY} order by rowid desc) as back"
        f" from {SPARE}"
    )
    twins = f"rowid in (select place from ({ranked}) where back > 1)"
    for rows in documents.chunks(
        f"select {documents.row} from {SPARE} where {twins} order by rowid"
    ):
        for row in rows:
            message = f"The transformation made {row[0][:80]!r} of a later record too; that stands."
            documents.reject(row, Rule.DUPLICATE_KEY, message)
    documents.con.execute(f"delete from {SPARE} where {twins}")
