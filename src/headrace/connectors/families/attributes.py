"""Dropping attributes from JSON documents by path.

`foo.bar` drops a nested attribute, also in each element of an array on the way; `foo.[0].bar` in
that element only, `foo.[*].bar` in all.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from headrace.domain.errors import Invalid

Exclude = Callable[[str], str]
_ELEMENT: Final = re.compile(r"\[(\d+|\*)\]")
FIELD: Final = "input.attributesToExclude"


def excluded(paths: Sequence[str]) -> Exclude | None:
    """Return what drops the attributes from a document's text, or None if there are none.

    Raises Invalid for a path that cannot be read.
    """
    steps = [_steps(path) for path in paths]
    if not steps:
        return None
    decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode

    def exclude(text: str) -> str:
        document = decode(text)
        for path in steps:
            _drop(document, path)
        return encode(document).decode()

    return exclude


def _steps(path: str) -> tuple[str, ...]:
    steps = tuple(path.split("."))
    if not all(steps) or _ELEMENT.fullmatch(steps[0]) or _ELEMENT.fullmatch(steps[-1]):
        raise Invalid(
            f"{FIELD}: {path[:80]!r} is not a path.",
            hint="Write foo.bar, foo.[0].bar or foo.[*].bar.",
            field=FIELD,
        )
    return steps


def _drop(value: Any, steps: tuple[str, ...]) -> None:  # Any: JSON
    step, rest = steps[0], steps[1:]
    if element := _ELEMENT.fullmatch(step):
        if isinstance(value, list):
            number = element[1]
            chosen = value if number == "*" else value[int(number) : int(number) + 1]
            for one in chosen:
                _drop(one, rest)
    elif isinstance(value, list):
        for one in value:
            _drop(one, steps)
    elif isinstance(value, dict) and not rest:
        value.pop(step, None)
    elif isinstance(value, dict) and step in value:
        _drop(value[step], rest)
