"""Builds the real parts and introduces them to each other."""

import bisect
import contextlib
import functools
import glob
import hashlib
import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from headrace.connectors import registry
from headrace.connectors.tools import WorkTools
from headrace.contract.columns import Column
from headrace.contract.destination import Page
from headrace.contract.source import Discovering, Stream
from headrace.domain.books import Receipt
from headrace.domain.errors import Invalid
from headrace.domain.event import NewEvent
from headrace.domain.position import Edge
from headrace.domain.shape import PLAIN, Shape
from headrace.domain.task import Action
from headrace.domain.verification import Verify
from headrace.engine.plan import REJECTS_MAX, Journal, Plan, Segment, Stopped
from headrace.engine.pushed import fold
from headrace.engine.shaping import key_columns, needed
from headrace.service.orders import (
    Built,
    Order,
    Phase,
    Push,
    build,
    make_destination,
    make_source,
    spool_of,
    tools_for,
)
from headrace.service.shapes import check_shape, hash_key

# DuckDB looks for pandas at every statement with a parameter, and imports it where it is installed:
# seconds, for values that we never have.
sys.modules.setdefault("pandas", None)  # type: ignore[arg-type]  # None: it is not to be found

if TYPE_CHECKING:
    from headrace.engine.children import Child
    from headrace.engine.execute import RejectsTo

REASONS_MAX: Final = 100  # of the rejected records of a push that its event names


@contextlib.contextmanager
def spooled(parent: Path | None = None) -> Iterator[Path]:
    """Lend a folder of its own, removed afterwards."""
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="headrace-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _spool_of(order: Order) -> Path | None:
    """Return this process's own part of a server's spool: who kills it knows what to remove."""
    return spool_of(Path(order.data_dir), os.getpid()) if order.data_dir else None


def _planned(order: Order, tools: WorkTools, spool: Path, part: str = "") -> tuple[Plan, Built]:
    """Make both ends of an order, and the plan of one commit. `part` tells commits apart."""
    built = build(order, tools)
    spec = registry.destination(order.destination_type).spec
    if order.deletes or (order.verify and order.verify.repair and built.key):
        tools.key_columns = functools.partial(key_columns, order.shape, built.key)
    if order.shape.select and not order.shape.drop:
        tools.needs = functools.partial(needed, order.shape)
    plan = Plan(
        run=order.run, scope=order.scope, fence=order.fence,
        token="/".join(filter(None, (order.run, built.table, part))), table=built.table,
        action=Action(order.action), key=built.key, documents=spec.documents,
        refuses_nul=spec.refuses_nul, latest=order.latest, only_tells=order.only_tells,
        failure_threshold=order.failure_threshold,
        rejects_max=order.rejects_max, memory_bytes=order.memory_bytes, threads=order.threads,
        spool=spool, passed=tools.passed, bad=tools.bad, shape=order.shape, hash_key=order.hash_key,
        deletes=order.deletes,
        transformations=tuple(
            (one.code, one.secrets)
            for one in order.transformations
            if Action(order.action) not in (Action.DELETE, Action.DROP)
        ),
    )  # fmt: skip
    return plan, built


def work(order: Order, journal: Journal) -> Receipt:
    """Do one run. Raises what engine.execute raises, and OwnerErrors of the set-up."""
    from headrace.engine.execute import RejectsTo, execute

    with spooled(_spool_of(order)) as spool:
        plan, built = _planned(order, tools_for(order, spool, journal), spool)
        rejects = RejectsTo(Path(order.rejects_dir), f"{order.run}-{order.attempt}.jsonl")
        try:
            if order.verify is not None:
                from headrace.engine.verify import verify

                after = _loaded_up_to(order)
                return verify(
                    replace(plan, deletes=False), built.source, built.destination, journal, rejects,
                    order.verify, after,
                )  # fmt: skip
            children = None
            if order.source_input.get("nested") == "tables" and not plan.documents:
                from headrace.engine.children import Children

                kept = frozenset(order.source_input.get("mapping") or ())
                land = functools.partial(_land_child, order, built, plan, journal)
                children = Children(land, kept)
            return execute(plan, built.source, built.destination, journal, rejects, children)
        finally:
            built.source.close()
            built.destination.close()


def _land_child(
    order: Order, built: Built, plan: Plan, journal: Journal, child: "Child"
) -> tuple[Receipt, tuple[Segment, ...]]:
    """Land the rows of one child table in a commit of its own, and their children's before.

    Nobody is told before their parents have landed too.
    """
    from headrace.engine.children import Children, mapping_of
    from headrace.engine.execute import RejectsTo, execute

    roots = None if order.files_roots is None else (*order.files_roots, str(plan.spool))
    inner = msgspec.structs.replace(order, known=None, range=None, files_roots=roots)
    given = {"url": str(child.path), "nested": "tables", "mapping": mapping_of(child)}
    source = make_source("json", given, tools_for(inner, plan.spool))
    digest = hashlib.sha256(child.table.encode()).hexdigest()[:16]
    merges = plan.action in (Action.SAVE, Action.PARTIAL)
    own = replace(
        plan, table=child.table, scope=f"{order.scope}/{digest}", inner=True,
        token=f"{plan.token}/{child.table}", action=Action.SAVE if merges else plan.action,
        key=tuple(column.name for column in child.key), latest=None, deletes=False,
        among=tuple(column.name for column in child.parents.columns) if merges else (),
        keys=child.keys if merges else "", shape=Shape(names=plan.shape.names), bad=(), passed={},
    )  # fmt: skip
    quiet = _Quiet(journal)
    rejects = RejectsTo(Path(order.rejects_dir), f"{order.run}-{order.attempt}-{digest}.jsonl")
    land = functools.partial(_land_child, order, built, own, journal)
    depth = len(child.key) - len(child.parents.columns) + 1
    below = Children(land, frozenset(), child.parents, depth)
    try:
        receipt = execute(own, source, built.destination, quiet, rejects, below)
    finally:
        source.close()
    files = tuple(replace(file, name=f"{built.table} → {child.table}") for file in receipt.files)
    return replace(receipt, files=files), quiet.rejects


class _Quiet:
    """The journal of a child table: its commit is told with its parents'."""

    def __init__(self, journal: Journal) -> None:
        self.rejects: tuple[Segment, ...] = ()
        self.told = journal.told
        self.event = journal.event

    def advance(self, token: str, receipt: Receipt, rejects: tuple[Segment, ...]) -> None:
        self.rejects = rejects


def _loaded_up_to(order: Order) -> str | None:
    """Return the cursor's value up to which an order's source was loaded, where that is known."""
    cursor = order.source_input.get("cursor")
    edges = [Edge.of(version) for version in order.known.versions.values()] if order.known else []
    values = [edge.value for edge in edges if edge is not None and edge.column == cursor]
    return values[0] if len(values) == 1 else None


def work_phases(order: Order, journal: Journal) -> None:
    """Load an order's uploaded files, each phase in a commit of its own. Raises as `work`."""
    sum_ = _Sum(journal)
    for number, phase in enumerate(order.phases):
        _work_phase(order, number, phase, sum_)


def _work_phase(order: Order, number: int, phase: Phase, journal: "_Sum") -> None:
    from headrace.engine.execute import RejectsTo, execute

    folder = Path(phase.folder) / str(number)
    folder.mkdir(exist_ok=True, mode=0o750)
    for place, name in enumerate(phase.files, 1):  # in the order of their names
        with contextlib.suppress(FileExistsError):
            os.link(Path(phase.folder) / name, folder / f"{place:06}{Path(name).suffix}")
    order = msgspec.structs.replace(
        order, source_type=phase.source_type, action=phase.action, key=phase.key,
        latest=phase.latest, files_roots=(*(order.files_roots or ()), phase.folder),
        source_input=phase.source_input | {"url": f"{glob.escape(str(folder))}/*"},
    )  # fmt: skip
    with spooled(_spool_of(order)) as spool:
        plan, built = _planned(order, tools_for(order, spool, journal), spool, f"{number}")
        rejects = RejectsTo(Path(order.rejects_dir), f"{order.run}-{order.attempt}-{number}.jsonl")
        try:
            execute(plan, built.source, built.destination, journal, rejects)
        except Stopped as stopped:
            receipt = journal.with_earlier(stopped.receipt)
            raise Stopped(stopped.error, receipt, stopped.rejects) from stopped
        finally:
            built.source.close()
            built.destination.close()


class _Sum:
    """The journal of several commits of one run: what it tells of each is the sum so far.

    A commit of an earlier attempt is told again, so the sum is the same however often it is made.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._receipt: Receipt | None = None
        self.told = journal.told
        self.event = journal.event

    def with_earlier(self, more: Receipt | None) -> Receipt | None:
        """Return the sum of what is committed and `more`."""
        if self._receipt is None or more is None:
            return self._receipt or more
        return self._receipt.with_more(more)

    def advance(self, token: str, receipt: Receipt, rejects: tuple[Segment, ...]) -> None:
        self._receipt = self.with_earlier(receipt)
        assert self._receipt is not None  # one was given
        self._journal.advance(token, self._receipt, rejects)


PUSH_ACTIONS: Final = {
    "addObject": Action.SAVE, "updateObject": Action.SAVE, "partialUpdateObject": Action.PARTIAL,
    "partialUpdateObjectNoCreate": Action.PARTIAL_NO_CREATE, "deleteObject": Action.DELETE,
    "clear": Action.REPLACE, "delete": Action.DROP,
}  # fmt: skip


class PushJournal(Journal, Protocol):
    """A journal that also takes what became of each push."""

    def advance(
        self, token: str, receipt: Receipt, rejects: tuple[Segment, ...],
        pushes: Sequence[Mapping[str, Any]] = (),
    ) -> None: ...  # fmt: skip


def work_pushes(order: Order, journal: PushJournal) -> None:
    """Apply an order's pushes batch by batch, each in a commit of its own. Raises as `work`."""
    for number, batch in itertools.groupby(order.pushes, key=lambda push: push.batch):
        _work_batch(order, number, list(batch), journal)


def _work_batch(order: Order, number: int, batch: list[Push], journal: PushJournal) -> None:
    from headrace.engine.execute import RejectsTo, execute

    with spooled(_spool_of(order)) as spool:
        action = PUSH_ACTIONS[batch[0].action]
        if action not in registry.destination(order.destination_type).spec.actions:
            action = Action.REPLACE if action is Action.DROP else action  # a table stays, empty
        partial = action in {Action.PARTIAL, Action.PARTIAL_NO_CREATE}
        folded = fold([push.payload for push in batch], partial=partial)
        path = spool / "pushed.jsonl"
        path.write_bytes(b"\n".join(folded.lines) or b"[]")
        order = msgspec.structs.replace(
            order, source_type="json", action=action, key=("objectID",),
            source_input={"url": str(path), "uniqueIDColumn": "objectID"},
            files_roots=(*(order.files_roots or ()), str(spool)),
        )  # fmt: skip
        plan, built = _planned(order, tools_for(order, spool, journal), spool, f"{number}")
        plan = replace(plan, failure_threshold=100)
        rejects = RejectsTo(Path(order.rejects_dir), f"{order.run}-{order.attempt}-{number}.jsonl")
        told = _OneBatch(batch, folded.superseded_by, rejects, journal)
        try:
            execute(plan, built.source, built.destination, told, rejects)
        finally:
            built.source.close()
            built.destination.close()


class _OneBatch:
    """The journal of one batch: it tells with the commit what became of each push."""

    def __init__(
        self, batch: list[Push], superseded_by: Mapping[int, int], rejects: "RejectsTo",
        journal: PushJournal,
    ) -> None:  # fmt: skip
        self._batch = batch
        self._superseded_by = superseded_by
        self._rejects = rejects
        self.told = journal.told
        self._journal = journal

    def event(self, event: NewEvent) -> None:
        """Say nothing: a push has one event."""

    def advance(self, token: str, receipt: Receipt, rejects: tuple[Segment, ...]) -> None:
        rows: dict[int, dict[str, Any]] = {}
        for segment in rejects:
            for line in (self._rejects.folder / segment.name).read_bytes().splitlines():
                row = msgspec.json.decode(line)
                rows[row["record"]] = row
        rejected: list[list[dict[str, Any]]] = [[] for _ in self._batch]
        ends = list(itertools.accumulate(push.records for push in self._batch))
        for record, row in sorted(rows.items()):
            # What a later record stands for has come as far as that one.
            why = rows.get(self._superseded_by.get(record, record))
            if why is None:
                continue
            number = bisect.bisect_left(ends, record)
            place = record - (ends[number - 1] if number else 0)
            rejected[number].append(
                {"record": place, "reason": why["message"], "row": row["raw"][:1000]}
            )
        pushes = [
            {
                "id": push.id, "records": push.records, "landed": push.records - len(bad),
                "rejected": bad[:REASONS_MAX],
            }
            for push, bad in zip(self._batch, rejected, strict=True)
        ]  # fmt: skip
        self._journal.advance(token, receipt, rejects, pushes)


def read_table(order: Order, table: str, limit: int, cursor: str | None) -> Page:
    """Read a page of the order's destination back."""
    if not 1 <= limit <= 10_000:  # rows in a page
        raise Invalid("limit must be a number from 1 to 10000.", field="limit")
    with spooled() as spool:
        ends = make_destination(
            order.destination_type, order.destination_input, tools_for(order, spool)
        )
        try:
            return ends.read(table, limit, cursor)
        finally:
            ends.close()


def sample(order: Order, limit: int) -> Page:
    """Return the first rows of the order's source that fit. Loads nothing."""
    columns, rows = _sampled(order, limit)
    return Page(columns=[column.name for column in columns], rows=rows, next=None)


def preview_rows(
    kind: str, given: dict[str, Any], limit: int
) -> tuple[list[Column], list[dict[str, Any]]]:
    """Return columns with their types and the first rows that fit, as this user."""
    order = local_order(
        source=(kind, given), destination=("", {}), action=Action.APPEND, table=None, key=(),
        failure_threshold=100, memory_bytes=512 << 20, scope="", run="",
    )  # fmt: skip
    return _sampled(order, limit)


def _sampled(order: Order, limit: int) -> tuple[list[Column], list[dict[str, Any]]]:
    from headrace.connectors.families.paging import plain
    from headrace.contract.instance import instance
    from headrace.engine.layout import HEAD_BYTES, lay_out

    with spooled(_spool_of(order)) as spool:
        tools = tools_for(order, spool)
        source = make_source(order.source_type, order.source_input, tools)
        with contextlib.closing(source), instance() as con:
            scans = list(source.scans(con))
            if tools.bad and not scans:
                raise tools.bad[0].error
            plan = Plan(
                run="", scope="", fence=0, token="", table="", action=Action.APPEND, key=(),
                documents=False, refuses_nul=False, failure_threshold=100, rejects_max=0,
                memory_bytes=order.memory_bytes, threads=order.threads, spool=spool,
            )  # fmt: skip
            fitted = lay_out(plan, scans[:1], con)[0]
            found: list[tuple[Any, ...]] = []
            for file in (fitted.scan.head(fitted.scan.files[0], HEAD_BYTES), fitted.scan.files[0]):
                if file is not None and len(found) < limit:  # its beginning says enough, mostly
                    sql = fitted.rows([file], with_file=False)
                    found = con.execute(f"{sql} limit {limit}").fetchall()
            names = [column.name for column in fitted.columns]
            rows = [dict(zip(names, map(plain, row), strict=True)) for row in found]
    return list(fitted.columns), rows


def discover(kind: str, given: dict[str, Any]) -> Sequence[Stream]:
    """Return what there is to read where a source reads, as this user. Raises Invalid."""
    order = local_order(
        source=(kind, given), destination=("", {}), action=Action.APPEND, table=None, key=(),
        failure_threshold=100, memory_bytes=512 << 20, scope="", run="",
    )  # fmt: skip
    return _discovered(order)


def streams(order: Order) -> Page:
    """Return what there is to read where the order's source reads, a row a stream."""
    names = [field.name for field in fields(Stream)]
    rows = [{name: getattr(one, name) for name in names} for one in _discovered(order)]
    return Page(columns=names, rows=rows, next=None)


def _discovered(order: Order) -> Sequence[Stream]:
    with spooled(_spool_of(order)) as spool:
        source = make_source(order.source_type, order.source_input, tools_for(order, spool))
        with contextlib.closing(source):
            if not isinstance(source, Discovering):
                raise Invalid(
                    f"{source.spec.title} cannot tell what else there is to read.",
                    hint="Databases can: postgresql, mysql, sqlite, duckdb.", field="type",
                )  # fmt: skip
            return source.discover()


def local_order(
    *, source: tuple[str, dict[str, Any]], destination: tuple[str, dict[str, Any]], action: str,
    table: str | None, key: tuple[str, ...], failure_threshold: float, memory_bytes: int,
    scope: str, run: str, shape: Shape = PLAIN, secret: str = "", deletes: bool = False,
    verify: Verify | None = None,
) -> Order:  # fmt: skip
    """Make an order for this process and this user: every path, every host but metadata.

    Raises Invalid for a shape that no table can have. `secret`: what columns are hashed with.
    """
    check_shape(shape)
    return Order(
        run=run, attempt=1, scope=scope, fence=time.time_ns() // 1000, source_type=source[0],
        source_input=source[1], destination_type=destination[0],
        destination_input=destination[1], action=action, table=table, key=key,
        failure_threshold=failure_threshold, tenant="default", data_dir="", rejects_dir=".",
        files_roots=None, open_inside=True, egress_allow="", memory_bytes=memory_bytes,
        threads=os.cpu_count() or 1, rejects_max=REJECTS_MAX, shape=shape, deletes=deletes,
        hash_key=hash_key(secret, "default"), verify=verify,
    )  # fmt: skip
