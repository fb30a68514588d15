"""All services of one server, as the doors are handed them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from headrace.contract.destination import Page
from headrace.domain.ids import TenantId
from headrace.domain.principal import Principal
from headrace.engine.javascript import Tried
from headrace.service.access import Access
from headrace.service.aliases import Aliases
from headrace.service.auditing import Audit
from headrace.service.catalog import Catalog
from headrace.service.hooks import Hooks
from headrace.service.indexes import Indexes
from headrace.service.jobs import Jobs
from headrace.service.pools import Pools
from headrace.service.runs import Runs
from headrace.service.servers import Servers
from headrace.service.triggers import Triggers
from headrace.service.uploads import Uploads
from headrace.settings import Settings

ReadTable = Callable[[Principal, str, str, int, str | None], Page]
Sample = Callable[[TenantId, str, Mapping[str, Any], str | None], list[dict[str, Any]]]
TrySource = Callable[[TenantId, str], list[dict[str, Any]]]
AskOwner = Callable[[Principal, str, str, Mapping[str, Any] | None], Any]
TryTransformation = Callable[[str, Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]], Tried]


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """`read_table(caller, destination, table, limit, cursor)` reads back what landed.

    `ask_owner(caller, index, path, body)` is what the server answers that has an embedded index;
    None if this one does. `sample(tenant, type, input, authentication)` returns the first records
    of a source that is not kept, `try_source(tenant, id)` those of one that is;
    `streams(tenant, id)` what else there is to read where one reads;
    `try_transformation(type, input, secrets, record)` what becomes of one record.
    """

    settings: Settings
    access: Access
    catalog: Catalog
    runs: Runs
    pools: Pools
    jobs: Jobs
    uploads: Uploads
    hooks: Hooks
    triggers: Triggers
    aliases: Aliases
    audit: Audit
    servers: Servers
    indexes: Indexes
    read_table: ReadTable
    ask_owner: AskOwner
    sample: Sample
    try_source: TrySource
    streams: TrySource
    try_transformation: TryTransformation
    ready: Callable[[], str | None]  # why the server takes no work, or None
