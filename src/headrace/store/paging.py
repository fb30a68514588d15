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


@dataclass(frozen=True, slots=True)
class Listing:
    """What lists a table: a query of how many there are, and one of the rows of a page."""

    counted: sa.Select[Any]
    rows: sa.Select[Any]

    def where(self, *tests: sa.ColumnElement[bool]) -> "Listing":
        return Listing(self.counted.where(*tests), self.rows.where(*tests))


def listing(query: sa.Select[Any], table: sa.Table, order: Order) -> Listing:
    """Return a query as a listing in that order. It is worth keeping."""
    column, tie = table.c[order.column], table.c.id
    keys = (column.desc(), tie.desc()) if order.descending else (column.asc(), tie.asc())
    return Listing(
        query.with_only_columns(sa.func.count(), maintain_column_froms=True),
        query.order_by(*keys)
        .limit(sa.bindparam("page_limit", type_=sa.BigInteger))
        .offset(sa.bindparam("page_offset", type_=sa.BigInteger)),
    )


def page(
    tx: Tx, of: Listing, window: Window, total: int | None = None, **bound: Any
) -> tuple[list[Any], int]:
    """Return the rows of one page and how many the whole has, where that is not known: `total`."""
    if total is None:
        total = tx.con.execute(of.counted, bound).scalar_one()
    rows = tx.all(of.rows, **bound, page_limit=window.limit, page_offset=window.offset)
    return rows, total
