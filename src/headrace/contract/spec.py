"""A connector's spec: its name, what a user fills in, and what it can do."""

from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec

from headrace.domain.errors import Invalid
from headrace.domain.secret import Secret
from headrace.domain.task import Action


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What a user fills in. A subclass's fields are the form; a Secret is never shown again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What the product knows of a connector without starting it.

    `actions` is empty for a source. `documents`: it stores whole JSON documents, not columns.
    `refuses_nul`: its texts cannot hold the character U+0000. `local`: what it writes, or its
    notes of it, lie on the server's own disk. `ranges`: a part of a source can be read by its
    cursor, or by when its files were changed. `deletes`: a source can tell which rows are gone; a
    destination can remove them. `verifies`: its tables can be compared with a source.
    """

    name: str
    title: str
    config: type[Config]
    actions: frozenset[Action] = frozenset()
    documents: bool = False
    refuses_nul: bool = False
    local: bool = False
    ranges: bool = False
    deletes: bool = False
    verifies: bool = False


C = TypeVar("C", bound=Config)


def _decode(type_: type, value: Any) -> Any:  # Any: msgspec's hook signature
    if type_ is Secret and isinstance(value, str):
        return Secret(value)
    raise NotImplementedError


def filled_in(config: type[C], given: object, where: str = "input") -> C:
    """Check `given` against a connector's form. Raises Invalid, naming the field."""
    try:
        return msgspec.convert(given, config, dec_hook=_decode)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        field = where + path.rstrip("`") if path else where
        raise Invalid(f"{field}: {message}.", field=field) from error


def from_text(config: type[Config], name: str, text: str) -> Any:  # Any: JSON
    """Read a setting that somebody typed: text, unless the form wants another type there."""
    if text[:1] in ("[", "{"):
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise Invalid(f"{name} is not JSON: {error}.", field=name) from error
    types = {field.encode_name: field.type for field in msgspec.structs.fields(config)}
    try:
        found = msgspec.convert(text, types.get(name, str), strict=False, dec_hook=_decode)
    except msgspec.ValidationError:
        return text  # `filled_in` tells what it should have been
    return found if isinstance(found, int | float) else text


HttpUrl = Annotated[str, msgspec.Meta(min_length=1, max_length=8192)]
