"""Builds the real parts and introduces them to each other."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from headrace.connectors import registry
from headrace.contract.destination import Page
from headrace.domain.books import Receipt
from headrace.domain.errors import Invalid
from headrace.domain.task import Action
from headrace.engine.plan import Journal, Plan
from headrace.service.orders import Order, build, make_destination, tools_for


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


def work(order: Order, journal: Journal) -> Receipt:
    """Do one run. Raises what engine.execute raises, and OwnerErrors of the set-up."""
    from headrace.engine.execute import RejectsTo, execute

    with spooled(Path(order.data_dir) / "spool" / "work" if order.data_dir else None) as spool:
        tools = tools_for(order, spool, journal)
        built = build(order, tools)
        spec = registry.destination(order.destination_type).spec
        plan = Plan(
            run=order.run,
            scope=order.scope,
            fence=order.fence,
            token=f"{order.run}/{built.table}",
            table=built.table,
            action=Action(order.action),
            key=built.key,
            documents=spec.documents,
            refuses_nul=spec.refuses_nul,
            failure_threshold=order.failure_threshold,
            rejects_max=order.rejects_max,
            memory_bytes=order.memory_bytes,
            threads=order.threads,
            spool=spool,
        )
        rejects = RejectsTo(Path(order.rejects_dir), f"{order.run}-{order.attempt}.jsonl")
        try:
            return execute(plan, built.source, built.destination, journal, rejects)
        finally:
            built.source.close()
            built.destination.close()


def read_table(order: Order, table: str, limit: int, cursor: str | None) -> Page:
    """Read a page of the order's destination back."""
    if not 1 <= limit <= 10_000:  # noqa: PLR2004  # rows in a page
        raise Invalid("limit must be a number from 1 to 10000.", field="limit")
    with spooled() as spool:
        ends = make_destination(
            order.destination_type, order.destination_input, tools_for(order, spool)
        )
        try:
            return ends.read(table, limit, cursor)
        finally:
            ends.close()
