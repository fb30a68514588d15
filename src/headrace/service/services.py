"""All services of one server, as the doors are handed them."""

from collections.abc import Callable
from dataclasses import dataclass

from headrace.contract.destination import Page
from headrace.domain.ids import TenantId
from headrace.service.access import Access
from headrace.service.catalog import Catalog
from headrace.service.runs import Runs
from headrace.settings import Settings

ReadTable = Callable[[TenantId, str, str, int, str | None], Page]


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """`read_table(tenant, destination, table, limit, cursor)` reads back what landed."""

    settings: Settings
    access: Access
    catalog: Catalog
    runs: Runs
    read_table: ReadTable
    ready: Callable[[], str | None]  # why the server takes no work, or None
