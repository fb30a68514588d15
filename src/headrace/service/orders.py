"""Orders: a run as plain data, and the two ends of it made from that."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import unquote, urlsplit

import msgspec

from headrace.connectors import registry
from headrace.connectors.tools import WorkTools
from headrace.contract.destination import Destination
from headrace.contract.source import Source
from headrace.contract.spec import Config, filled_in
from headrace.contract.tools import Known, Tools
from headrace.domain.errors import Misconfigured
from headrace.domain.run import Range
from headrace.domain.secret import Secret
from headrace.domain.shape import PLAIN, Shape
from headrace.domain.task import KEYED, Action
from headrace.domain.verification import Verify
from headrace.engine.plan import Journal
from headrace.security.egress import Egress, parse_networks
from headrace.security.roots import Roots


class Push(msgspec.Struct, frozen=True, kw_only=True):
    """Pushed records: a JSON array. Those of one `batch` go into one commit."""

    id: str
    batch: int
    action: str
    records: int
    payload: bytes


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """Uploaded files of one folder that go into one commit, in this order."""

    action: str
    folder: str
    files: tuple[str, ...]
    source_type: str
    source_input: dict[str, Any]  # without its url
    key: tuple[str, ...]
    latest: str | None


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """A transformation in JavaScript, and the secrets that it may read."""

    code: str
    secrets: dict[str, Any]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a worker needs for one run, as plain data. It holds secrets: never log it."""

    run: str
    attempt: int
    scope: str
    fence: int
    source_type: str
    source_input: dict[str, Any]  # Any: JSON, checked by the connector's form
    destination_type: str
    destination_input: dict[str, Any]
    action: str
    table: str | None
    key: tuple[str, ...]
    failure_threshold: float
    tenant: str
    data_dir: str
    rejects_dir: str
    files_roots: tuple[str, ...] | None  # None: every path (the CLI)
    open_inside: bool
    egress_allow: str
    memory_bytes: int
    threads: int
    rejects_max: int
    pushes: tuple[Push, ...] = ()
    phases: tuple[Phase, ...] = ()
    transformations: tuple[Code, ...] = ()
    hosts: dict[str, str] = {}
    known: Known | None = None  # a run that reads only what has changed since then
    range: Range | None = None  # a run that reads only that
    only_tells: bool = False  # it tells what has landed, and does nothing
    shape: Shape = PLAIN
    deletes: bool = False
    hash_key: bytes = b""  # of the tenant, for hashed columns
    verify: Verify | None = None  # a run that compares the table with its source
    latest: str | None = None  # of two rows with one key: the higher value here wins


@dataclass(frozen=True, slots=True)
class Built:
    """The two ends of a run."""

    source: Source
    destination: Destination
    table: str
    key: tuple[str, ...]


def spool_of(data_dir: Path, pid: int) -> Path:
    """Return where the worker with a process id keeps what it has on its way."""
    return data_dir / "spool" / "work" / str(pid)


def make_source(kind: str, given: Mapping[str, Any], tools: Tools) -> Source:
    """Make a source. Raises Invalid, naming the field, for settings that do not fit."""
    maker = registry.source(kind)
    return maker(filled_in(maker.spec.config, given), tools)


def make_destination(kind: str, given: Mapping[str, Any], tools: Tools) -> Destination:
    """Make a destination. Raises Invalid, naming the field, for settings that do not fit."""
    maker = registry.destination(kind)
    return maker(filled_in(maker.spec.config, given), tools)


def build(order: Order, tools: Tools) -> Built:
    """Make both ends of a run, and refuse by name what they cannot do together."""
    source = make_source(order.source_type, order.source_input, tools)
    destination = make_destination(order.destination_type, order.destination_input, tools)
    config = getattr(source, "_config", None)
    own_key = getattr(config, "unique_id_column", None)
    key = order.key or ((own_key,) if own_key else ())
    judge_task(registry.destination(order.destination_type).spec.name, order.action, key)
    if order.deletes:
        judge_deletes(order.source_type, order.destination_type, order.action)
    return Built(
        source, destination, destination.table_for(order.table, stream_of(order.source_input)), key
    )


def is_local(source_input: Mapping[str, Any], shared: Path | None) -> bool:
    """Tell whether a source's files lie on a server's own disk, not in what all of them share."""
    url = source_input.get("url") or source_input.get("path")
    if not isinstance(url, str) or (parts := urlsplit(url)).scheme not in ("", "file"):
        return False
    path = unquote(parts.path) if parts.scheme == "file" else url
    return shared is None or not Path(os.path.normpath(path)).is_relative_to(shared.absolute())


def judge_task(destination_type: str, action: str, key: tuple[str, ...]) -> None:
    """Raise unless the destination can do `action` with this key."""
    spec = registry.destination(destination_type).spec
    if Action(action) not in spec.actions:
        able = ", ".join(sorted(spec.actions))
        raise Misconfigured(
            f"{spec.title} cannot do {str(action)!r}.", hint=f"It can: {able}.", field="action"
        )
    if Action(action) in KEYED and not key:
        raise Misconfigured(
            f"The action {str(action)!r} needs a key: which rows are the same row?",
            hint="Name the task's key (--key COLUMN), or the source's uniqueIDColumn.",
            field="key",
        )
    if spec.documents and len(key) > 1:
        raise Misconfigured(f"{spec.title} takes one key column.", field="key")


def judge_deletes(source_type: str, destination_type: str, action: str) -> None:
    """Raise Misconfigured unless rows that are gone from the source can be removed."""
    if Action(action) not in (Action.SAVE, Action.PARTIAL):
        raise Misconfigured(
            f"With the action {str(action)!r} no rows are removed that are gone from the source.",
            hint="Use save or partial.", field="deletes",
        )  # fmt: skip
    for spec in (registry.source(source_type).spec, registry.destination(destination_type).spec):
        if not spec.deletes:
            raise Misconfigured(
                f"{spec.title}: rows that are gone from the source cannot be found and removed.",
                hint="It goes from a table of a database to a table.", field="deletes",
            )  # fmt: skip


def stream_of(source: Mapping[str, Any]) -> str:
    """Return the table's name after a source's table or file, where nobody gave one."""
    if table := source.get("table"):
        return str(table)
    url = str(source.get("url", "")).rstrip("/")
    name = url.rpartition("/")[2].partition("?")[0].partition(".")[0]
    clean = "".join(char if char.isalnum() or char == "_" else "_" for char in name).strip("_")
    return clean or "rows"


def tools_for(order: Order, spool: Path, journal: Journal | None = None) -> WorkTools:
    """Make the tools of one piece of work: guarded as the order says."""
    roots = None if order.files_roots is None else [Path(root) for root in order.files_roots]
    egress = Egress(open_inside=order.open_inside, allow=parse_networks(order.egress_allow))

    def told(phase: str, message: str, done: int, total: int) -> None:
        if journal:
            journal.told(phase, done=done, total=total, message=message)

    def waiting(reason: str | None) -> None:
        if journal:
            journal.told("waiting" if reason else "fetching", message=reason or "")

    return WorkTools(
        spool=spool,
        data_dir=Path(order.data_dir),
        tenant=order.tenant,
        paths=Roots(roots),
        address_of=egress.address,
        memory_bytes=order.memory_bytes,
        told=told,
        waiting=waiting,
        hosts=order.hosts,
        known=None if order.verify else order.known,
        range_=order.range,
        repeatable=order.action in (*KEYED, Action.REPLACE),
    )


def secret_members(config: type[Config]) -> frozenset[str]:
    """Return the members of a form (as they are written) that hold secrets."""
    hints = get_type_hints(config)
    return frozenset(
        field.encode_name
        for field in msgspec.structs.fields(config)
        if Secret in (hints[field.name], *getattr(hints[field.name], "__args__", ()))
    )
