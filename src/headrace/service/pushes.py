"""What becomes of pushes: each is told by the event that was promised when it was taken."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from headrace.domain.event import EventKind, EventStatus, NewEvent
from headrace.domain.ids import RunId
from headrace.domain.rejected import RAW_BYTES_MAX, Rejected, Rule
from headrace.engine.quarantine import write_segment
from headrace.store import inbox, runs
from headrace.store.database import Tx

_records = msgspec.json.Decoder(list[msgspec.Raw]).decode


def told_push(push: Mapping[str, Any]) -> NewEvent:
    """Tell of one push: how many of its records landed, and why others did not."""
    records, landed = push["records"], push["landed"]
    bad = bool(push.get("reason") or push.get("rejected"))
    data = {name: push[name] for name in ("reason", "rejected") if push.get(name)}
    return NewEvent(
        kind=EventKind.RECORD,
        status=EventStatus.FAILED if bad else EventStatus.SUCCEEDED,
        message=push.get("reason") or f"{landed:,} of {records:,} records are in the destination.",
        rows=records,
        data=data | {"landed": landed},
    )


def refuse(tx: Tx, run: RunId, reason: str, quarantine: Path | None) -> None:
    """Take what is left of a run that has ended out of the inbox, into the quarantine.

    The records stay readable among the run's rejected rows; each push is told to have failed.
    """
    left = inbox.taken(tx, run, 1 << 62)
    if not left:
        return
    if quarantine is not None:
        segment = write_segment(quarantine, f"{run}-pushes.jsonl", _rejected(left, reason))
        runs.add_segments(tx, run, [segment.as_dict()] if segment else [])
    for push in left:
        told = {"records": push.records, "landed": 0, "reason": reason}
        runs.add_event(tx, run, told_push(told), push.id)
    inbox.drop(tx, [push.id for push in left])


def _rejected(left: list[inbox.Pushed], reason: str) -> Iterator[Rejected]:
    for push in left:
        for number, raw in enumerate(_records(push.payload), 1):
            text = bytes(raw)
            yield Rejected(
                table="", file=push.id, record=number, line=None, byte=None, column=None,
                rule=Rule.NOT_APPLIED, message=reason,
                raw=text[:RAW_BYTES_MAX].decode(errors="replace"),
                raw_cut=len(text) > RAW_BYTES_MAX,
            )  # fmt: skip
