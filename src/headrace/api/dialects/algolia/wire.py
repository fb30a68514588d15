"""Algolia's words, field for field. What the contract lacks is not emitted."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

Json = dict[str, Any]
Percent = Annotated[int, Meta(ge=0, le=100)]
ActionName = Literal["replace", "save", "partial", "partialNoCreate", "append"]


class Given(Struct, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """What a client sends."""


class Shown(Struct, rename="camel", omit_defaults=False, kw_only=True):
    """What the server answers."""


class Pagination(Shown):
    nb_pages: int
    page: int
    nb_items: int
    items_per_page: int


class Window(Shown):
    start_date: str
    end_date: str


# Authentications.


class AuthenticationCreate(Given):
    type: str
    name: str
    input: Json
    platform: Literal["bigcommerce", "commercetools", "shopify"] | None = None


class AuthenticationUpdate(Given):
    name: str | None = None
    input: Json | None = None
    type: str | None = None  # of the older edition
    platform: str | None = None  # of the older edition


class Authentication(Shown):
    authentication_id: str = field(name="authenticationID")
    type: str
    name: str
    platform: str | None
    input: Json
    created_at: str
    updated_at: str


# Sources.


class SourceInput(Given):
    """csv and json; `mapping` and `delimiter` are csv's."""

    url: Annotated[str, Meta(min_length=1)]
    unique_id_column: str | UnsetType = field(default=UNSET, name="uniqueIDColumn")
    mapping: dict[str, Literal["string", "integer", "float", "boolean", "json"]] | UnsetType = UNSET
    method: Literal["GET", "POST"] | UnsetType = UNSET
    delimiter: str | UnsetType = UNSET


class SourceCreate(Given):
    type: str
    name: str
    input: SourceInput
    authentication_id: str | None = field(default=None, name="authenticationID")


class SourceUpdate(Given):
    name: str | None = None
    input: SourceInput | None = None
    authentication_id: str | None = field(default=None, name="authenticationID")


class Source(Shown):
    source_id: str = field(name="sourceID")
    type: str
    name: str
    input: Json
    authentication_id: str | None = field(name="authenticationID")
    created_at: str
    updated_at: str


# Destinations.


class DestinationInput(Given):
    index_name: str | UnsetType = UNSET
    index_prefix: str | UnsetType = UNSET  # of the older edition
    record_type: Literal["product", "variant", "collection"] | UnsetType = UNSET


class DestinationCreate(Given):
    type: str
    name: str
    input: DestinationInput
    authentication_id: str | None = field(default=None, name="authenticationID")


class DestinationUpdate(Given):
    name: str | None = None
    input: DestinationInput | None = None
    authentication_id: str | None = field(default=None, name="authenticationID")
    type: str | None = None  # of the older edition


class Destination(Shown):
    destination_id: str = field(name="destinationID")
    type: str
    name: str
    input: Json
    authentication_id: str | None = field(name="authenticationID")
    created_at: str
    updated_at: str


# Tasks.


class Trigger(Given):
    type: Literal["onDemand", "schedule", "subscription", "streaming"]
    cron: str | UnsetType = UNSET


class TaskCreate(Given):
    """Of version 2."""

    source_id: str = field(name="sourceID")
    destination_id: str = field(name="destinationID")
    action: ActionName
    subscription_action: ActionName | UnsetType = UNSET
    cron: str | UnsetType | None = UNSET
    enabled: bool = True
    failure_threshold: Percent = 0
    input: Json | UnsetType = UNSET
    cursor: str | UnsetType = UNSET
    notifications: Json | UnsetType = UNSET
    policies: Json | UnsetType = UNSET


class TaskCreateV1(Given):
    source_id: str = field(name="sourceID")
    destination_id: str = field(name="destinationID")
    trigger: Trigger
    action: ActionName
    enabled: bool = True
    failure_threshold: Percent = 0
    input: Json | UnsetType = UNSET
    cursor: str | UnsetType = UNSET


class TaskUpdate(Given):
    """Of both versions: `trigger` is version 1's, `cron` version 2's."""

    destination_id: str | UnsetType = field(default=UNSET, name="destinationID")
    subscription_action: ActionName | UnsetType = UNSET
    trigger: Json | UnsetType = UNSET
    cron: str | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET
    failure_threshold: Percent | UnsetType = UNSET
    input: Json | UnsetType = UNSET
    notifications: Json | UnsetType = UNSET
    policies: Json | UnsetType = UNSET


class Task(Shown):
    """Of version 2; members without a value are left out."""

    task_id: str = field(name="taskID")
    source_id: str = field(name="sourceID")
    destination_id: str = field(name="destinationID")
    action: str
    enabled: bool
    failure_threshold: int
    created_at: str
    updated_at: str
    last_run: str | UnsetType = UNSET
    subscription_action: str | UnsetType = UNSET
    input: Json | UnsetType = UNSET
    cursor: str | UnsetType = UNSET
    notifications: Json | UnsetType = UNSET
    policies: Json | UnsetType = UNSET


class TaskV1(Shown):
    task_id: str = field(name="taskID")
    source_id: str = field(name="sourceID")
    destination_id: str = field(name="destinationID")
    trigger: Json
    action: str
    enabled: bool
    failure_threshold: int
    created_at: str
    updated_at: str
    input: Json | UnsetType = UNSET
    cursor: str | UnsetType = UNSET


# Runs and events.


class RunGiven(Given):
    run_metadata: Json | None = None


class Run(Shown):
    run_id: str = field(name="runID")
    app_id: str = field(name="appID")
    task_id: str = field(name="taskID")
    status: Literal["created", "started", "finished", "skipped"]
    type: Literal["reindex"]
    created_at: str
    failure_threshold: int
    progress: Json | UnsetType = UNSET
    outcome: Literal["success", "failure"] | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    reason_code: str | UnsetType = UNSET
    started_at: str | UnsetType = UNSET
    finished_at: str | UnsetType = UNSET


class Event(Shown):
    event_id: str = field(name="eventID")
    run_id: str = field(name="runID")
    status: str | None
    type: Literal["fetch", "record", "log", "transform"]
    batch_size: int
    data: Json | None
    published_at: str
