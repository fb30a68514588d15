"""Positions: how far a task has read, so that its next run reads only what is new."""

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from headrace.domain.clock import Millis

GIVEN: Final = ""  # the name of what a position is of that somebody has set
NOTHING: Final = "0 0"  # the digest of no rows


@dataclass(frozen=True, slots=True)
class Position:
    """What the last committed run has read: `versions` of files, or of a table its edge, by name.

    Files that are not among them and have not changed since `after` count as read.
    """

    versions: Mapping[str, str]
    after: Millis | None = None

    def edge(self) -> "Edge | None":
        """Return the edge of the one table that was read, if it is one."""
        found = [Edge.of(text) for text in self.versions.values()]
        return found[0] if len(found) == 1 else None


@dataclass(frozen=True, slots=True)
class Edge:
    """How far a table was read: the highest value of its cursor, and the rows at it.

    `seen` are their hashes, one a row; where they are too many, only `digest` is kept of them.
    """

    column: str
    value: str
    digest: str = NOTHING
    seen: Sequence[int] = ()

    @property
    def is_told(self) -> bool:
        """Whether it is known row by row what was read at the edge."""
        return bool(self.seen) or self.digest == NOTHING

    def text(self) -> str:
        packed = base64.b64encode(struct.pack(f"<{len(self.seen)}Q", *self.seen)).decode()
        told = {"cursor": self.column, "value": self.value, "digest": self.digest, "seen": packed}
        return json.dumps(told)

    @classmethod
    def of(cls, text: str) -> "Edge | None":
        """Read what `text` has written; None for anything else."""
        if not text.startswith('{"cursor"'):
            return None
        found = json.loads(text)
        packed = base64.b64decode(found["seen"])
        seen = struct.unpack(f"<{len(packed) // 8}Q", packed)
        return cls(found["cursor"], found["value"], found["digest"], seen)
