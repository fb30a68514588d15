"""Filters over records in the words of search services, as SQL over a JSON text `body`.

brand:Acme AND (price < 10 OR NOT onSale:true) AND year:1990 TO 1999
"""

import re
from collections.abc import Sequence
from typing import Any, Final

from headrace.domain.errors import Invalid

_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<paren>[()])|(?P<op><=|>=|!=|=|<|>)|(?P<colon>:)"""
    r"""|"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<word>[^\s():<>=!"']+))"""
)
DEPTH_MAX: Final = 50
LENGTH_MAX: Final = 10_000
_TEXT: Final = (
    "case type when 'true' then 'true' when 'false' then 'false' else cast(value as text) end"
)

Sql = tuple[str, list[Any]]  # a condition with ?, and its values


def path_of(attribute: str) -> str:
    """Return the JSON path of an attribute; a dot goes into an object."""
    steps = attribute.split(".")
    return "$" + "".join('."' + step.replace('"', "") + '"' for step in steps)


def facet(attribute: str, value: str) -> Sql:
    """Return SQL that is true where an attribute, or an element of it, has this value."""
    return (
        f"exists (select 1 from json_each(body, ?) where {_TEXT} = ? collate nocase)",
        [path_of(attribute), value],
    )


def number(attribute: str, operator: str, value: str) -> Sql:
    """Return SQL that compares an attribute with a number. Raises Invalid."""
    try:
        limit = float(value)
    except ValueError:
        raise _wrong(f"{value!r} is not a number") from None
    sql = (
        "exists (select 1 from json_each(body, ?) where type in ('integer', 'real')"
        f" and value {operator} ?)"
    )
    return sql, [path_of(attribute), limit]


def either(conditions: Sequence[Sql], word: str) -> Sql:
    """Join conditions with AND or OR."""
    if not conditions:
        return "true", []
    return (
        "(" + f" {word} ".join(sql for sql, _ in conditions) + ")",
        [value for _, values in conditions for value in values],
    )


def facet_filters(given: Any) -> Sql:  # Any: JSON: a string, or lists of them, AND of ORs
    """Return the SQL of `facetFilters`. Raises Invalid."""
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, list):
        raise Invalid("facetFilters must be a list of texts or of lists.", field="facetFilters")
    groups = []
    for group in given:
        members = group if isinstance(group, list) else [group]
        groups.append(either([_one_facet(member) for member in members], "or"))
    return either(groups, "and")


def _one_facet(given: Any) -> Sql:  # Any: JSON
    if not isinstance(given, str) or ":" not in given:
        raise Invalid("facetFilters are written attribute:value.", field="facetFilters")
    attribute, _, value = given.partition(":")
    sql, values = facet(attribute, value.removeprefix("-"))
    return (f"not {sql}", values) if value.startswith("-") else (sql, values)


def _wrong(what: str) -> Invalid:
    return Invalid(
        f"filters: {what}.", hint="Write brand:Acme AND price < 10 OR NOT sold:true.",
        field="filters",
    )  # fmt: skip


class _Parser:
    def __init__(self, text: str) -> None:
        if len(text) > LENGTH_MAX:
            raise _wrong(f"it has more than {LENGTH_MAX:,} characters")
        self._tokens: list[tuple[str, str]] = []
        at = 0
        text = text.rstrip()
        while at < len(text):
            found = _TOKEN.match(text, at)
            if not found or found.end() == at:
                raise _wrong(f"{text[at : at + 20]!r} cannot be read")
            kind = str(found.lastgroup)
            self._tokens.append((kind, found[kind]))
            at = found.end()
        self._at = 0

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _take(self) -> tuple[str, str]:
        token = self._peek()
        self._at += 1
        return token

    def whole(self) -> Sql:
        found = self._any(0)
        if self._peek()[0] != "end":
            raise _wrong(f"{self._peek()[1]!r} is not expected there")
        return found

    def _any(self, depth: int) -> Sql:
        return self._joined("OR", depth)

    def _joined(self, word: str, depth: int) -> Sql:
        def part() -> Sql:
            return self._joined("AND", depth) if word == "OR" else self._single(depth)

        parts = [part()]
        while self._peek() == ("word", word):
            self._take()
            parts.append(part())
        return parts[0] if len(parts) == 1 else either(parts, word.lower())

    def _single(self, depth: int) -> Sql:
        if depth > DEPTH_MAX:
            raise _wrong("it is nested too deep")
        kind, text = self._take()
        if (kind, text) == ("word", "NOT"):
            sql, values = self._single(depth + 1)
            return f"not {sql}", values
        if (kind, text) == ("paren", "("):
            found = self._any(depth + 1)
            if self._take() != ("paren", ")"):
                raise _wrong("a parenthesis is not closed")
            return found
        if kind not in ("word", "double", "single"):
            raise _wrong("an attribute is missing")
        return self._compared(text)

    def _compared(self, attribute: str) -> Sql:
        kind, operator = self._take()
        if kind == "op":
            return number(attribute, operator, self._value())
        if kind != "colon":
            raise _wrong(f"{attribute!r} is compared with nothing")
        value = self._value()
        if self._peek() == ("word", "TO"):
            self._take()
            low, high = number(attribute, ">=", value), number(attribute, "<=", self._value())
            return either([low, high], "and")
        return facet(attribute, value)

    def _value(self) -> str:
        kind, text = self._take()
        if kind not in ("word", "double", "single"):
            raise _wrong("a value is missing")
        return text


def filters(text: str) -> Sql:
    """Return the SQL of a filter. Raises Invalid, telling where it cannot be read."""
    return _Parser(text).whole() if text.strip() else ("true", [])
