"""Pushed records on their way into one commit.

A commit holds each object once. Where pushes that go together name an object several times, the
later record stands for the earlier ones: as it is where records are whole, with their attributes
laid under its own where they are partial.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from headrace.engine.documents import object_id

_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_records: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class Folded:
    """Records, one line each, and for each that is superseded the number of the one that stands.

    Numbers count the records of all payloads from 1.
    """

    lines: Sequence[bytes]
    superseded_by: dict[int, int]


def fold(payloads: Iterable[bytes], *, partial: bool) -> Folded:
    """Lay the records (JSON arrays of objects with an objectID) of one commit over each other."""
    # One line each, whatever white space the sender has put in.
    lines = [
        msgspec.json.format(bytes(record), indent=-1)
        for payload in payloads
        for record in _records(payload)
    ]
    places: dict[str, list[int]] = {}
    for number, line in enumerate(lines, 1):
        places.setdefault(str(object_id(line)), []).append(number)
    superseded_by: dict[int, int] = {}
    for numbers in places.values():
        if len(numbers) == 1:
            continue
        *earlier, last = numbers
        superseded_by |= dict.fromkeys(earlier, last)
        if partial:
            members: dict[str, msgspec.Raw] = {}
            for number in numbers:
                members |= _members(lines[number - 1])
            lines[last - 1] = msgspec.json.encode(members)
    return Folded(lines, superseded_by)
