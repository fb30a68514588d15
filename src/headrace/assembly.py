"""Builds the real parts and introduces them to each other."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headrace.connectors import registry
from headrace.contract.columns import Column
from headrace.contract.destination import Page
from headrace.domain.books import Receipt
from headrace.domain.errors import Invalid
from headrace.domain.task import Action
from headrace.engine.plan import REJECTS_MAX, Journal, Plan
from headrace.service.orders import Order, build, make_destination, make_source, tools_for


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


def preview_rows(
    kind: str, given: dict[str, Any], limit: int
) -> tuple[list[Column], list[dict[str, Any]]]:
    """Return columns with their types and the first rows that fit. Loads nothing."""
    import duckdb

    from headrace.connectors.families.paging import plain
    from headrace.engine.stage import lay_out

    with spooled() as spool:
        order = local_order(
            source=(kind, given), destination=("", {}), action=Action.APPEND, table=None, key=(),
            failure_threshold=100, memory_bytes=512 << 20, scope="", run="",
        )  # fmt: skip
        source = make_source(kind, given, tools_for(order, spool))
        with duckdb.connect() as con:
            scans = list(source.scans(con))
            plan = Plan(
                run="", scope="", fence=0, token="", table="", action=Action.APPEND, key=(),
                documents=False, refuses_nul=False, failure_threshold=100, rejects_max=0,
                memory_bytes=order.memory_bytes, threads=order.threads, spool=spool,
            )  # fmt: skip
            fitted = lay_out(plan, scans[:1], con)[0]
            sql = fitted.rows(fitted.scan.files[:1], with_file=False)
            found = con.execute(f"{sql} limit {limit}").fetchall()
            names = [column.name for column in fitted.columns]
            rows = [dict(zip(names, map(plain, row), strict=True)) for row in found]
        source.close()
    return list(fitted.columns), rows


def local_order(
    *, source: tuple[str, dict[str, Any]], destination: tuple[str, dict[str, Any]], action: str,
    table: str | None, key: tuple[str, ...], failure_threshold: float, memory_bytes: int,
    scope: str, run: str,
) -> Order:  # fmt: skip
    """Make an order for this process and this user: every path, every host but metadata."""
    return Order(
        run=run, attempt=1, scope=scope, fence=time.time_ns() // 1000, source_type=source[0],
        source_input=source[1], destination_type=destination[0],
        destination_input=destination[1], action=action, table=table, key=key,
        failure_threshold=failure_threshold, tenant="default", data_dir="", rejects_dir=".",
        files_roots=None, open_inside=True, egress_allow="", memory_bytes=memory_bytes,
        threads=os.cpu_count() or 1, rejects_max=REJECTS_MAX,
    )  # fmt: skip
