"""The query strings of Algolia's lists: paging, sorting, filters."""

from collections.abc import Mapping, Sequence
from typing import Final

from headrace.api.auth import AnyRequest
from headrace.api.dialects.algolia import wire
from headrace.domain.clock import Millis, now_ms, parse_rfc3339
from headrace.domain.errors import Invalid
from headrace.store.paging import Order, Window

ITEMS_MAX: Final = 100
ITEMS: Final = 10


class Query:
    """The query of a list: paging, sorting, filters. Unknown keys are ignored."""

    def __init__(self, request: AnyRequest) -> None:
        self._params = request.query_params
        self.items = self._number("itemsPerPage", ITEMS, ITEMS_MAX)
        self.page = self._number("page", 1, 1_000_000)

    def _number(self, name: str, default: int, high: int) -> int:
        text = self._params.get(name)
        if text is None:
            return default
        if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= high:
            raise Invalid(f"{name} must be a number from 1 to {high}.", field=name)
        return int(text)

    @property
    def window(self) -> Window:
        return Window(self.items, (self.page - 1) * self.items)

    def order(self, columns: Mapping[str, str], default: str) -> Order:
        """Return the order that `sort` and `order` ask for."""
        sort = self._params.get("sort", default)
        if sort not in columns:
            raise Invalid(f"sort must be one of {', '.join(columns)}.", field="sort")
        order = self._params.get("order", "desc")
        if order not in ("asc", "desc"):
            raise Invalid("order must be asc or desc.", field="order")
        return Order(columns[sort], descending=order == "desc")

    def many(self, name: str) -> list[str] | None:
        """Return a list filter: comma-joined, repeated, or both."""
        given = self._params.getall(name, None)
        if not given:
            return None
        return [part for value in given for part in value.split(",") if part]

    def one_of(self, name: str, known: Sequence[str]) -> list[str] | None:
        """Return a list filter of an enum. Raises Invalid for a value that is not in it."""
        found = self.many(name)
        for value in found or ():
            if value not in known:
                raise Invalid(f"{name} must be one of {', '.join(known)}.", field=name)
        return found

    def flag(self, name: str) -> bool | None:
        text = self._params.get(name)
        if text is None:
            return None
        if text not in ("true", "false"):
            raise Invalid(f"{name} must be true or false.", field=name)
        return bool(text == "true")

    def text(self, name: str) -> str | None:
        return self._params.get(name)

    def span(self, back_ms: int) -> tuple[Millis, Millis]:
        """Return the window of moments, by default `back_ms` until now."""
        end = self._moment("endDate") or now_ms()
        start = self._moment("startDate") or Millis(end - back_ms)
        if start > end:
            raise Invalid("startDate must not be after endDate.", field="startDate")
        return start, end

    def _moment(self, name: str) -> Millis | None:
        text = self._params.get(name)
        try:
            return None if text is None else parse_rfc3339(text.replace(" ", "+"))
        except ValueError:
            raise Invalid(f"{name} must be an RFC 3339 date.", field=name) from None

    def pagination(self, total: int) -> wire.Pagination:
        return wire.Pagination(
            nb_pages=max(-(-total // self.items), 1), page=self.page, nb_items=total,
            items_per_page=self.items,
        )  # fmt: skip


def asked(request: AnyRequest) -> Query:
    """Hand a list's query to a route."""
    return Query(request)
