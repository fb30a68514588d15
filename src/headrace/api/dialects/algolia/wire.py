"""Algolia's words, field for field. What the contract lacks is not emitted."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

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
    owner: None = None


# Sources: one form a type.

CsvType = Literal["string", "integer", "float", "boolean", "json"]
Text = Annotated[str, Meta(min_length=1)]


class CsvInput(Given):
    url: Text
    unique_id_column: str | UnsetType = field(default=UNSET, name="uniqueIDColumn")
    mapping: dict[str, CsvType] | UnsetType = UNSET
    method: Literal["GET", "POST"] | UnsetType = UNSET
    delimiter: str | UnsetType = UNSET


class JsonInput(Given):
    url: Text
    unique_id_column: str | UnsetType = field(default=UNSET, name="uniqueIDColumn")
    method: Literal["GET", "POST"] | UnsetType = UNSET


class BigqueryInput(Given):
    project_id: Text = field(name="projectID")
    dataset_id: Text = field(name="datasetID")
    data_type: Literal["ga4", "ga360"] | UnsetType = UNSET
    table: str | UnsetType = UNSET
    table_prefix: str | UnsetType = UNSET
    custom_sql_request: str | UnsetType = field(default=UNSET, name="customSQLRequest")
    unique_id_column: str | UnsetType = field(default=UNSET, name="uniqueIDColumn")


class Ga4BigqueryExportInput(Given):
    project_id: Text = field(name="projectID")
    dataset_id: Text = field(name="datasetID")
    table_prefix: Text


class CommercetoolsCustomFields(Given):
    inventory: list[str] | UnsetType | None = UNSET
    price: list[str] | UnsetType | None = UNSET
    category: list[str] | UnsetType | None = UNSET


class CommercetoolsInput(Given):
    url: Text
    project_key: Text
    store_keys: list[str] | UnsetType = UNSET
    locales: list[Annotated[str, Meta(pattern="^[a-z]{2}(-[A-Z]{2})?$")]] | UnsetType = UNSET
    fallback_is_in_stock_value: bool | UnsetType = UNSET
    product_query_predicate: str | UnsetType = UNSET
    use_images_objects: bool | UnsetType = UNSET
    custom_fields: CommercetoolsCustomFields | UnsetType = UNSET


class BigcommerceChannel(Given):
    id: int
    currencies: list[str] | UnsetType = UNSET


class Metafield(Given):
    namespace: str
    key: str


class BigcommerceInput(Given):
    store_hash: Text
    channel: BigcommerceChannel | UnsetType = UNSET
    custom_fields: list[str] | UnsetType = UNSET
    product_metafields: list[Metafield] | UnsetType = UNSET
    variant_metafields: list[Metafield] | UnsetType = UNSET


class DockerInput(Given):
    image: Text
    configuration: Json
    image_type: Literal["singer", "custom", "airbyte"] | UnsetType = UNSET  # older edition
    registry: Literal["dockerhub", "ghcr"] | UnsetType = UNSET  # older edition
    version: str | UnsetType = UNSET  # older edition


class ShopifyInput(Given):
    shop_url: Text = field(name="shopURL")
    feature_flags: Json | UnsetType = UNSET


class AlgoliaIndexInput(Given):
    index_name: Text
    filters: str | UnsetType = UNSET


SOURCE_FORMS: dict[str, type[Given]] = {
    "algoliaIndex": AlgoliaIndexInput, "bigcommerce": BigcommerceInput,
    "bigquery": BigqueryInput, "commercetools": CommercetoolsInput, "csv": CsvInput,
    "docker": DockerInput, "ga4BigqueryExport": Ga4BigqueryExportInput, "json": JsonInput,
    "shopify": ShopifyInput,
}  # fmt: skip
# Types of which a PATCH names only what changes; of the others it brings the whole input.
MERGED = frozenset({"algoliaIndex", "bigcommerce", "commercetools", "docker", "shopify"})
# What a PATCH cannot change.
FIXED = {"commercetools": ("projectKey",), "shopify": ("shopURL",), "bigcommerce": ("storeHash",)}


class SourceCreate(Given):
    type: str
    name: str
    input: Json | None = None
    authentication_id: str | None = field(default=None, name="authenticationID")


class SourceUpdate(Given):
    name: str | None = None
    input: Json | None = None
    authentication_id: str | None = field(default=None, name="authenticationID")


class Source(Shown):
    source_id: str = field(name="sourceID")
    type: str
    name: str
    created_at: str
    updated_at: str
    owner: None = None
    authentication_id: str | UnsetType = field(default=UNSET, name="authenticationID")
    input: Json | UnsetType = UNSET


# Destinations.


class DestinationInput(Given):
    index_name: Annotated[str, Meta(min_length=1, max_length=256)] | UnsetType = UNSET
    index_prefix: str | UnsetType = UNSET  # of the older edition
    record_type: Literal["product", "variant", "collection"] | UnsetType = UNSET
    attributes_to_exclude: list[str] | UnsetType = UNSET


class DestinationCreate(Given):
    type: str
    name: str
    input: DestinationInput
    authentication_id: str | None = field(default=None, name="authenticationID")
    transformation_ids: list[str] = field(default_factory=list, name="transformationIDs")


class DestinationUpdate(Given):
    name: str | None = None
    input: DestinationInput | None = None
    authentication_id: str | None = field(default=None, name="authenticationID")
    transformation_ids: list[str] | None = field(default=None, name="transformationIDs")
    type: str | None = None  # of the older edition


class Destination(Shown):
    destination_id: str = field(name="destinationID")
    type: str
    name: str
    input: Json
    created_at: str
    updated_at: str
    owner: None = None
    authentication_id: str | UnsetType = field(default=UNSET, name="authenticationID")
    transformation_ids: list[str] | UnsetType = field(default=UNSET, name="transformationIDs")


# Transformations.


class Code(Given):
    code: str


class Steps(Given):
    steps: list[Json]


class TransformationCreate(Given):
    name: str
    type: Literal["code", "noCode"] | None = None
    input: Json | None = None
    code: str | None = None  # of the older edition
    description: str | None = None
    authentication_ids: list[str] | None = field(default=None, name="authenticationIDs")


class Transformation(Shown):
    transformation_id: str = field(name="transformationID")
    code: str
    type: str
    input: Json
    name: str
    created_at: str
    updated_at: str
    owner: None = None
    description: str | UnsetType = UNSET
    authentication_ids: list[str] = field(default_factory=list, name="authenticationIDs")


class TransformationTry(Given):
    sample_record: Json
    type: Literal["code", "noCode"] | None = None
    input: Json | None = None
    code: str | None = None  # of the older edition
    authentications: list[AuthenticationCreate] = field(default_factory=list)


# Tasks.


class Trigger(Given):
    type: Literal["onDemand", "schedule", "subscription", "streaming"]
    cron: str | UnsetType = UNSET


class TriggerUpdate(Given):
    cron: str
    type: Literal["schedule"] | UnsetType = UNSET


class EmailNotifications(Given):
    enabled: bool = True


class Notifications(Given):
    email: EmailNotifications


class Policies(Given):
    critical_threshold: Annotated[int, Meta(ge=1, le=10)] | UnsetType = UNSET


class FieldDirective(Given):
    field_key: str
    value: Json


class MappingAction(Given):
    enabled: bool
    trigger: str
    field_directives: list[FieldDirective]
    id: str | UnsetType = UNSET


class Mapping(Given):
    format: Literal["mappingkit/v1"]
    actions: list[MappingAction]


class MappingTaskInput(Given):
    mapping: Mapping


class Stream(Given):
    name: str
    sync_mode: Literal["incremental", "fullTable"]
    properties: list[str] | UnsetType = UNSET


class StreamsTaskInput(Given):
    streams: list[Stream]


class ShopifyMetafield(Given):
    namespace: str
    key: str
    value: str


class ShopifyMarket(Given):
    countries: list[str]
    currencies: list[str]
    locales: list[str]


class ShopifyTaskInput(Given):
    metafields: list[ShopifyMetafield]
    market: ShopifyMarket


class DatesTaskInput(Given):
    """Of the older edition, as the next one."""

    start_date: str
    end_date: str


class TimeframeTaskInput(Given):
    timeframe: Annotated[int, Meta(ge=1, le=30)]  # days


TASK_INPUTS: dict[str, type[Given]] = {  # by the member that tells it apart
    "mapping": MappingTaskInput, "streams": StreamsTaskInput, "metafields": ShopifyTaskInput,
    "market": ShopifyTaskInput, "startDate": DatesTaskInput, "endDate": DatesTaskInput,
    "timeframe": TimeframeTaskInput,
}  # fmt: skip


class TaskCreate(Given):
    """Of version 2."""

    source_id: str = field(name="sourceID")
    destination_id: str = field(name="destinationID")
    action: ActionName
    subscription_action: ActionName | UnsetType = UNSET
    cron: str | UnsetType | None = UNSET
    enabled: bool = True
    failure_threshold: Percent = 0
    input: Json | UnsetType | None = UNSET
    cursor: str | UnsetType | None = UNSET
    notifications: Notifications | UnsetType | None = UNSET
    policies: Policies | UnsetType | None = UNSET


class TaskReplace(Given):
    """Of version 2: what is left out goes back to its default."""

    destination_id: str = field(name="destinationID")
    action: ActionName
    subscription_action: ActionName | UnsetType = UNSET
    cron: str | UnsetType | None = UNSET
    enabled: bool = True
    failure_threshold: Percent = 0
    input: Json | UnsetType | None = UNSET
    cursor: str | UnsetType | None = UNSET
    notifications: Notifications | UnsetType | None = UNSET
    policies: Policies | UnsetType | None = UNSET


class TaskCreateV1(Given):
    source_id: str = field(name="sourceID")
    destination_id: str = field(name="destinationID")
    trigger: Trigger
    action: ActionName
    enabled: bool = True
    failure_threshold: Percent = 0
    input: Json | UnsetType | None = UNSET
    cursor: str | UnsetType | None = UNSET


class TaskUpdate(Given):
    """Of version 2."""

    destination_id: str | UnsetType = field(default=UNSET, name="destinationID")
    subscription_action: ActionName | UnsetType = UNSET
    cron: str | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET
    failure_threshold: Percent | UnsetType = UNSET
    input: Json | UnsetType | None = UNSET
    notifications: Notifications | UnsetType | None = UNSET
    policies: Policies | UnsetType | None = UNSET


class TaskUpdateV1(Given):
    destination_id: str | UnsetType = field(default=UNSET, name="destinationID")
    trigger: TriggerUpdate | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    failure_threshold: Percent | UnsetType = UNSET
    input: Json | UnsetType | None = UNSET


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
    owner: None = None
    cron: str | UnsetType = UNSET
    last_run: str | UnsetType = UNSET
    next_run: str | UnsetType = UNSET
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
    notifications: Json | UnsetType = UNSET
    policies: Json | UnsetType = UNSET


# Pushes.

PushAction = Literal[
    "addObject", "updateObject", "partialUpdateObject", "partialUpdateObjectNoCreate",
    "deleteObject", "delete", "clear",
]  # fmt: skip


class AuthenticationIDs(Given):
    authentication_ids: list[str] = field(name="authenticationIDs")


class SourceIDs(Given):
    source_ids: list[str] = field(name="sourceIDs")


class DestinationIDs(Given):
    destination_ids: list[str] = field(name="destinationIDs")


class TransformationIDs(Given):
    transformation_ids: list[str] = field(name="transformationIDs")


class TaskIDs(Given):
    task_ids: list[str] = field(name="taskIDs")


class PushGiven(Given):
    action: PushAction
    records: Raw


class Identified(Struct):
    """A record, of which only the objectID is looked at."""

    object_id: str = field(name="objectID")


class Watch(Shown, omit_defaults=True):
    run_id: str = field(name="runID")
    event_id: str | UnsetType = field(default=UNSET, name="eventID")
    data: list[Json] | UnsetType = UNSET
    events: list["Event"] | UnsetType = UNSET
    message: str | UnsetType = UNSET
    created_at: str | UnsetType = UNSET


class RunSourceGiven(Given):
    index_to_include: list[str] | UnsetType = UNSET
    index_to_exclude: list[str] | UnsetType = UNSET
    entity_ids: list[str] | UnsetType = field(default=UNSET, name="entityIDs")
    entity_type: Literal["product", "collection"] | UnsetType = UNSET
    run_metadata: Json | None = None


# Runs and events.


class RunGiven(Given):
    run_metadata: Json | None = None


class Run(Shown):
    run_id: str = field(name="runID")
    app_id: str = field(name="appID")
    task_id: str = field(name="taskID")
    status: Literal["created", "started", "finished", "skipped"]
    type: str
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
