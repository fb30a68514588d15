"""Pages: by number for the dialects that count, and sorted the same way every time."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from headrace.store.database import Tx


@dataclass(frozen=True, slots=True)
class Order:
    """Sort by `column`; the id decides between equals."""

    column: str
    descending: bool = True


@dataclass(frozen=True, slots=True)
class Window:
    """Which rows of the sorted whole."""

    limit: int
    offset: int = 0


def page(
    tx: Tx, query: sa.Select[Any], table: sa.Table, order: Order, window: Window,
    total: int | None = None,
) -> tuple[list[Any], int]:  # fmt: skip
    """Return the rows of one page and how many the whole has, where that is not known: `total`."""
    if total is None:
        counted = query.with_only_columns(sa.func.count(), maintain_column_froms=True)
        total = tx.con.execute(counted).scalar_one()
    column, tie = table.c[order.column], table.c.id
    keys = (column.desc(), tie.desc()) if order.descending else (column.asc(), tie.asc())
    return tx.all(query.order_by(*keys).limit(window.limit).offset(window.offset)), total
