"""What SQLite says, in our words."""

import contextlib
import sqlite3
from collections.abc import Iterator

from headrace.domain.errors import Refused, Unavailable


@contextlib.contextmanager
def told(what: str, room: str = "Make room.") -> Iterator[None]:
    """Translate what SQLite says of a file of ours; `room` is the hint where the disk is full."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "locked" in text or "busy" in text:
            raise Unavailable(f"The {what} is busy.", hint="It will be tried again.") from error
        if "full" in text:
            raise Refused("The disk is full.", hint=room) from error
        raise Refused(f"The {what} cannot be used: {text}") from error
    except sqlite3.DatabaseError as error:
        raise Refused(f"The {what} cannot be used: {error}") from error
