"""What comparing a table with its source has found."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

BUCKETS_MAX: Final = 65_536


class By(StrEnum):
    """What rows are sorted into buckets by."""

    KEY = "key"
    CURSOR = "cursor"
    ROW = "row"  # all of it, where there is neither


@dataclass(frozen=True, slots=True, kw_only=True)
class Verify:
    """What a run that verifies is to do. `by` None: by the key if there is one, else the cursor.

    `repair`: the buckets that differ are loaded again. `buckets` None: as many as the rows need.
    """

    repair: bool = False
    by: By | None = None
    buckets: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Rows on both sides, and what differs.

    `pushed`: the source was asked in its own SQL; otherwise it was read. `missing` rows are in the
    source only, `extra` ones in the table only, `different` ones in both with other values,
    `pending` ones have changed since the last run and are the next one's. `left_out` says of
    columns why they were not compared.
    """

    by: By
    pushed: bool
    buckets: int
    differing: int  # buckets
    source_rows: int
    table_rows: int
    missing: int = 0
    extra: int = 0
    different: int = 0
    pending: int = 0
    columns: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)
    examples: tuple[Mapping[str, Any], ...] = ()
    repaired: bool = False  # what stands here was found before

    @property
    def same(self) -> bool:
        return not (self.missing or self.extra or self.different)

    def sentence(self) -> str:
        """Say it in words."""
        if self.same:
            return f"The table is as its source: {self.table_rows:,} rows are the same."
        found = [
            f"{rows:,} rows {what}"
            for rows, what in (
                (self.missing, "are missing"), (self.extra, "are not in the source"),
                (self.different, "differ"),
            )
            if rows
        ]  # fmt: skip
        return f"The table differs from its source: {', '.join(found)}."

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON and the store."""
        return {
            "same": self.same, "by": self.by.value, "pushed": self.pushed, "buckets": self.buckets,
            "differing": self.differing, "sourceRows": self.source_rows,
            "tableRows": self.table_rows, "missing": self.missing, "extra": self.extra,
            "different": self.different, "pending": self.pending, "columns": self.columns,
            "leftOut": dict(self.left_out), "examples": [dict(one) for one in self.examples],
            "repaired": self.repaired,
        }  # fmt: skip
