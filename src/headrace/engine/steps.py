"""No-code transformations: a list of steps, made into the same JavaScript that people write.

So they run in the same place, under the same limits, and reject records the same way. A path names
an attribute by its dots (`price.amount`); what is not there is passed over.
"""

from importlib import resources
from typing import Annotated, Final, Literal

import msgspec

from headrace.domain.errors import Misconfigured

Path = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
Paths = Annotated[list[Path], msgspec.Meta(min_length=1)]
Value = str | float | int | bool | list[object] | dict[str, object] | None
Operator = Literal["=", "!=", ">", ">=", "<", "<=", "contains", "exists", "missing"]


class _Step(msgspec.Struct, forbid_unknown_fields=True, tag_field="type", rename="camel"):
    pass


class Keep(_Step, tag="keep"):
    """Only these attributes stay; objectID always does."""

    attributes: Paths


class Remove(_Step, tag="remove"):
    """These attributes go."""

    attributes: Paths


class Rename(_Step, tag="rename"):
    """An attribute gets another name."""

    from_: Path = msgspec.field(name="from")
    to: Path


class Copy(_Step, tag="copy"):
    """An attribute's value stands in another one too."""

    from_: Path = msgspec.field(name="from")
    to: Path


class Set(_Step, tag="set"):
    """An attribute gets a value, whatever it had."""

    attribute: Path
    value: Value


class Default(_Step, tag="default"):
    """An attribute that is missing or null gets a value."""

    attribute: Path
    value: Value


class Convert(_Step, tag="convert"):
    """A value changes its type. One that cannot rejects the record."""

    attribute: Path
    to: Literal["string", "number", "boolean"]


class Case(_Step, tag="case"):
    """Texts are written in small or capital letters, or lose the blanks around them."""

    attributes: Paths
    to: Literal["lower", "upper", "trim"]


class Replace(_Step, tag="replace"):
    """Every place of a text in a text becomes another."""

    attribute: Path
    find: Annotated[str, msgspec.Meta(min_length=1)]
    by: str


class Split(_Step, tag="split"):
    """A text becomes a list."""

    attribute: Path
    separator: Annotated[str, msgspec.Meta(min_length=1)]


class Join(_Step, tag="join"):
    """A list becomes a text."""

    attribute: Path
    separator: str


class Filter(_Step, tag="filter"):
    """Only records of which this is true go on."""

    attribute: Path
    operator: Operator
    value: Value = None


Step = (
    Keep | Remove | Rename | Copy | Set | Default | Convert | Case | Replace | Split | Join | Filter
)
KINDS: Final = (
    Keep, Remove, Rename, Copy, Set, Default, Convert, Case, Replace, Split, Join, Filter,
)  # fmt: skip


def code_of(steps: object) -> str:
    """Return the JavaScript of steps. Raises Misconfigured, naming the step that is none."""
    if not isinstance(steps, list):
        raise Misconfigured("input.steps must be a list.", field="input.steps")
    for place, step in enumerate(steps):
        try:
            msgspec.convert(step, Step)
        except msgspec.ValidationError as error:
            known = ", ".join(str(kind.__struct_config__.tag) for kind in KINDS)
            raise Misconfigured(
                f"input.steps[{place}] is no step: {error}.",
                hint=f"There are the types {known}.",
                field=f"input.steps[{place}]",
            ) from error
    text = msgspec.json.encode(steps).decode()
    code = resources.files("headrace.engine").joinpath("steps.js").read_text()
    return f"const steps = {text};\n{code}"
