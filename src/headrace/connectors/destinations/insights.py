"""User events for Algolia's Insights service, sent by its own client.

Events are sent in batches and cannot be taken back. The ledger remembers the batches that arrived:
an attempt after a kill sends the others. Only the one batch that was under way when the kill came
may arrive twice.
"""

import hashlib
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final

import msgspec

from headrace.connectors.families.attributes import excluded
from headrace.connectors.families.index_form import AccountConfig
from headrace.connectors.families.ledger import Ledger
from headrace.connectors.families.service_load import Sent, ServiceLoad, sent_bytes
from headrace.contract.destination import (
    Counts,
    DestinationMaker,
    DocumentRules,
    Load,
    Page,
    Target,
)
from headrace.contract.spec import Spec
from headrace.contract.tools import Tools
from headrace.domain.errors import HeadraceError, Refused
from headrace.domain.rejected import Rule
from headrace.domain.task import Action
from headrace.observe import faults

BATCH_EVENTS: Final = 1_000
BATCH_BYTES_MAX: Final = 1_900_000  # the service takes 2 MB
EVENT_TYPES: Final = ("click", "conversion", "view")
OBJECTS_MAX: Final = 20
OBJECTS_SHOWN_MAX: Final = 1_000  # of an event of type view


class InsightsConfig(AccountConfig, frozen=True, kw_only=True):
    """What a user fills in for a stream of events; `indexName` is that of events without one."""


class _Event(msgspec.Struct):
    event_type: str = msgspec.field(name="eventType")
    event_name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] = msgspec.field(
        name="eventName"
    )
    user_token: Annotated[str, msgspec.Meta(pattern=r"^[a-zA-Z0-9_=/+-]{1,129}$")] = msgspec.field(
        name="userToken"
    )
    object_ids: list[str] | None = msgspec.field(default=None, name="objectIDs")
    filters: list[str] | None = None


_event: Final = msgspec.json.Decoder(_Event).decode


def fault(document: str) -> tuple[Rule, str] | None:
    """Return why the service would refuse an event, and the whole batch with it."""
    try:
        event = _event(document)
    except msgspec.ValidationError as error:
        return Rule.BAD_VALUE, f"It is no event: {error}."
    if event.event_type not in EVENT_TYPES:
        return Rule.BAD_VALUE, f"eventType must be one of {', '.join(EVENT_TYPES)}."
    if not event.object_ids and not event.filters:
        return Rule.BAD_VALUE, "An event needs objectIDs or filters."
    most = OBJECTS_SHOWN_MAX if event.event_type == "view" else OBJECTS_MAX
    if len(event.object_ids or ()) > most:
        return Rule.BAD_VALUE, f"An event of type {event.event_type} has at most {most} objectIDs."
    return None


class Insights:
    """The events of one application."""

    spec: ClassVar[Spec] = Spec(
        name="insights", title="Algolia Insights", config=InsightsConfig,
        actions=frozenset({Action.APPEND}), documents=True, local=True,
    )  # fmt: skip

    def __init__(self, config: InsightsConfig, tools: Tools) -> None:
        self._config = config
        self._tools = tools
        exclude = excluded(config.attributes_to_exclude)
        self.document_rules = DocumentRules(shaped=exclude, suspect="true", why=fault)

    def check(self) -> None:
        """Raise unless there are credentials: the service has no call that tells more."""
        self._credentials()

    def _credentials(self) -> tuple[str, str]:
        from headrace.connectors.families.algolia_service import checked  # a slow import

        return checked(self._config.app_id, self._config.api_key, "algoliaInsights")

    def table_for(self, wanted: str | None, stream: str) -> str:
        return self._config.index_name

    def exclusive(self) -> str | None:
        return None

    def load(self, target: Target) -> Load:
        from algoliasearch.insights.client import InsightsClientSync
        from algoliasearch.insights.config import InsightsConfig as ServiceConfig

        from headrace.connectors.families.algolia_service import Service

        config = ServiceConfig(*self._credentials())
        service = Service(config, "insights", self._tools)
        client = InsightsClientSync.create_with_config(config)

        def send(events: list[dict[str, Any]]) -> None:
            service.call(lambda: client.push_events_with_http_info({"events": events}))

        ledger = Ledger(self._tools.data_dir, f"insights\n{self._config.app_id}", target)
        return InsightsLoad(send, ledger, self._config.index_name, self._tools)

    def read(self, table: str, limit: int, cursor: str | None) -> Page:
        raise Refused("Events that were sent cannot be read back.")

    def close(self) -> None:
        pass


class InsightsLoad(ServiceLoad):
    """One load of events."""

    def __init__(
        self, send: Callable[[list[dict[str, Any]]], None], ledger: Ledger, index: str, tools: Tools
    ) -> None:
        super().__init__(ledger, tools)
        self._send = send
        self._index = index
        self._counts = Counts()

    def begin(self) -> str | None:
        return self._ledger.begin()

    def commit(self, sign: Callable[[Counts], str]) -> Counts:
        try:
            # What is put before an event, its index, is sent with it.
            room = BATCH_BYTES_MAX - BATCH_EVENTS * (sent_bytes(self._index) + len('"index":"",'))
            for batch in self.batches("''", BATCH_EVENTS, room):
                self._send_batch(batch)
        except HeadraceError as error:
            if self._sent:
                error.message += f" {self._sent:,} events were sent before that."
            raise
        note = sign(self._counts)
        self._ledger.commit(note)
        return self._counts

    def _send_batch(self, batch: list[Sent]) -> None:
        digest = hashlib.sha256(repr((self._sent, batch)).encode()).hexdigest()
        if not self._ledger.said([digest]):
            self._send([{"index": self._index} | msgspec.json.decode(text) for _, text, _ in batch])
            faults.reach("child.in_commit")
            self._ledger.say([(digest, "sent")])
        for _, _, path in batch:
            self._counts.inserted[path] = self._counts.inserted.get(path, 0) + 1
        self.told("sending events", len(batch))


CONNECTOR: Final[DestinationMaker] = Insights  # type: ignore[assignment]  # narrower config
