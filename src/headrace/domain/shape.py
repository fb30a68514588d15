"""The shape of a table: what becomes of a source's columns on their way into it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any


class Policy(StrEnum):
    """What becomes of columns that the table does not have."""

    EVOLVE = "evolve"  # they are added, and types widened
    FREEZE = "freeze"  # rows with a value in one are rejected
    DISCARD = "discard"  # they are left out


class Names(StrEnum):
    """How columns are called where nobody has renamed them."""

    AS_IS = "asIs"
    SNAKE = "snake"  # lower case, words joined by underscores


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Columns are named as the source names them, but in `compute`: there as the table does."""

    select: tuple[str, ...] = ()  # these only, in this order; none: all
    drop: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    cast: Mapping[str, str] = field(default_factory=dict)  # to our types; what misfits is rejected
    hash: tuple[str, ...] = ()  # HMAC-SHA-256 of the text, in hexadecimal digits
    mask: Mapping[str, int] = field(default_factory=dict)  # all but so many last characters
    compute: Mapping[str, str] = field(default_factory=dict)  # SQL expressions over source columns
    names: Names = Names.AS_IS
    policy: Policy = Policy.EVOLVE

    def as_dict(self) -> dict[str, Any]:
        """Return what differs from the plain shape, as JSON values."""
        found: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if value != getattr(PLAIN, one.name):
                found[one.name] = list(value) if isinstance(value, tuple) else value
        return found

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "Shape":
        """Read what `as_dict` has made."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in given.items()
        }
        values["names"] = Names(given.get("names", Names.AS_IS))
        values["policy"] = Policy(given.get("policy", Policy.EVOLVE))
        return cls(**values)


PLAIN = Shape()
