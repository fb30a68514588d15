"""What a server and its child say to each other: one JSON object a line, over pipes."""

from typing import Any, Literal

import msgspec

from headrace.service.orders import Order


class Work(msgspec.Struct, tag="work"):
    """Do this run. `lease_s`: how long an acknowledgement may take."""

    order: Order
    lease_s: float


class Ack(msgspec.Struct, tag="ack"):
    """What was told to be committed is on record."""


class Cancel(msgspec.Struct, tag="cancel"):
    """Stop the run."""


class Read(msgspec.Struct, tag="read"):
    """Read a page of a table back; of an order without a destination, the source's first rows.

    `streams`: what else there is to read where the source reads, a row a stream.
    """

    id: int
    order: Order
    table: str
    limit: int
    cursor: str | None
    streams: bool = False


ToChild = Work | Ack | Cancel | Read


class Ready(msgspec.Struct, tag="ready"):
    """The child has imported its parts."""


class Told(msgspec.Struct, tag="told"):
    """How far the run is."""

    phase: str
    rows: int
    done: int
    total: int
    message: str


class Happened(msgspec.Struct, tag="happened"):
    """An event of the run."""

    kind: str
    status: str | None
    message: str
    rows: int
    data: dict[str, Any]


class Committed(msgspec.Struct, tag="committed"):
    """The destination has the rows: put it on record and acknowledge."""

    token: str
    receipt: dict[str, Any]
    segments: list[dict[str, Any]]
    pushes: list[dict[str, Any]] = []


class Skipped(msgspec.Struct, tag="skipped"):
    """There was nothing to do."""

    message: str


class Done(msgspec.Struct, tag="done"):
    """The run is over, its commit acknowledged."""


class Failed(msgspec.Struct, tag="failed"):
    """The run is over without a commit. `fault`: who must act."""

    fault: Literal["owner", "outside", "ours", "cancelled", "lost"]
    error: dict[str, Any]
    receipt: dict[str, Any] | None
    segments: list[dict[str, Any]]
    trace: str = ""  # for the log only
    end: Literal["", "source", "destination"] = ""  # which of them is down, where it is known
    fence: int = 0  # that the destination knows, where it is higher than this attempt's


class PageRead(msgspec.Struct, tag="page"):
    """A page, or why there is none."""

    id: int
    columns: list[str]
    rows: list[dict[str, Any]]
    next: str | None
    error: dict[str, Any] | None


FromChild = Ready | Told | Happened | Committed | Skipped | Done | Failed | PageRead
