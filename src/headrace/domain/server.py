"""A server: one data folder, and the process that works over it."""

from dataclasses import dataclass
from enum import StrEnum

from headrace.domain.clock import Millis
from headrace.domain.ids import ServerId


class Role(StrEnum):
    """What a server does of all that is to be done."""

    API = "api"  # answers calls
    TICKER = "ticker"  # starts what is due, moves executions on
    DISPATCHER = "dispatcher"  # does runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """`shared` marks the folder that quarantine and uploads lie in; None: its own data folder.

    `alive`: it has been heard of lately.
    """

    id: ServerId
    name: str
    url: str
    roles: frozenset[Role]
    version: str
    shared: str | None
    data_dir: str
    started_at: Millis
    seen_at: Millis
    alive: bool
