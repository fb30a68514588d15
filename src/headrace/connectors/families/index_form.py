"""What a user fills in for an index, wherever it is kept."""

from typing import Annotated, Literal

import msgspec

from headrace.connectors.families.attributes import excluded
from headrace.contract.spec import Config
from headrace.domain.errors import Invalid
from headrace.domain.secret import Secret


class IndexConfig(Config, frozen=True, kw_only=True):
    """An index by name."""

    index_name: Annotated[str, msgspec.Meta(min_length=1, max_length=256, title="Index")]
    index_prefix: str | None = None
    attributes_to_exclude: tuple[str, ...] = ()
    record_type: Literal["product", "variant", "collection"] | None = None

    def __post_init__(self) -> None:
        try:
            excluded(self.attributes_to_exclude)
        except Invalid as error:
            raise ValueError(str(error)) from None


class AccountConfig(IndexConfig, frozen=True, kw_only=True):
    """An index of an application of Algolia's."""

    app_id: Annotated[str | None, msgspec.Meta(title="Application id")] = msgspec.field(
        default=None, name="appID"
    )
    api_key: Secret | None = None
