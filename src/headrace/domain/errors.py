"""Errors, sorted by who must act: the caller, the owner of the set-up, the outside, or we.

Each carries a stable `code`, a message, a hint and facts. Never a secret, never a row's values.
"""

from typing import ClassVar


class HeadraceError(Exception):
    """What every error here has. `facts` are small and safe to show."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", field: str = "", **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.field = field
        self.facts = facts

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def as_dict(self) -> dict[str, str]:
        """Return what may be kept and shown."""
        shown = {"code": self.code, "message": self.message, "hint": self.hint}
        return shown | ({"field": self.field} if self.field else {})


# The caller's: 4xx, exit 2.


class CallerError(HeadraceError):
    """The request cannot be served as it was made."""

    code = "bad_request"
    status = 400
    exit_code = 2


class Invalid(CallerError):
    """A value does not fit; `field` names it."""

    code = "invalid_payload"


class NotFound(CallerError):
    """No such thing in this tenant."""

    code = "resource_not_found"
    status = 404


class Unauthenticated(CallerError):
    """No key, or one that nobody issued."""

    code = "unauthenticated"
    status = 401


class Denied(CallerError):
    """The key is known and may not do this."""

    code = "denied"
    status = 403


class Conflict(CallerError):
    """The thing is in a state that forbids it."""

    code = "conflict"
    status = 409


class TooLarge(CallerError):
    """A body is over its limit."""

    code = "too_large"
    status = 413


class TooMany(CallerError):
    """A rate or queue limit was reached."""

    code = "too_many_requests"
    status = 429


# The owner's: somebody must change the set-up or the data. A run fails at once.


class OwnerError(HeadraceError):
    """The set-up, the source's data or the destination must be changed."""

    code = "misconfigured"
    status = 422
    exit_code = 3


class Misconfigured(OwnerError):
    """A source, destination or task cannot work as it is filled in."""

    exit_code = 2


class Refused(OwnerError):
    """The other side understood and said no, or gave what nobody can read."""

    code = "refused"


class BrokenPromise(OwnerError):
    """A connector did not do what its contract says."""

    code = "broken_promise"


class Differs(OwnerError):
    """A table is not as its source is."""

    code = "differs"
    exit_code = 1


class TooManyRejected(OwnerError):
    """More rows were rejected than the task allows."""

    code = "too_many_errors"
    exit_code = 4


class Unchanged(HeadraceError):
    """What a run was to read is as it was at the last one: there is nothing to do."""

    code = "unchanged"
    status = 409


# The outside's: tried again with back-off.


class OutsideError(HeadraceError):
    """Something out there did not answer; the same call may work later."""

    code = "unavailable"
    status = 503
    exit_code = 3


class Unavailable(OutsideError):
    """It cannot be reached."""


class TimedOut(OutsideError):
    """It did not answer in time."""

    code = "timed_out"


# Ours.


class LostClaim(HeadraceError):
    """Another holder has this run, or had it since: stop, write nothing."""

    code = "lost_claim"


class Unbalanced(HeadraceError):
    """The books do not balance: the run is not succeeded."""

    code = "unbalanced"


class Cancelled(HeadraceError):
    """Somebody asked for the run to stop, and it did."""

    code = "cancelled"
    exit_code = 130
