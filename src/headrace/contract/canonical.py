"""Canonical texts: SQL by which several databases tell the same value alike, and its digest.

A row's text is that of its values, one behind the other with a comma between, texts behind their
length in bytes, so that no two rows share one. Its digest is the first 60 bits of that text's MD5:
no proof against an enemy, but against chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from headrace.contract.columns import decimal_of

NUMBER: Final = "number"
FLAG: Final = "flag"  # true or false on one side, a number on the other
_FLAG: Final = "case @ when 'true' then '1' when 'false' then '0' else @ end"


def kind_of(type_: str) -> str:
    """Return what a type is compared as: whole numbers and decimals are numbers alike."""
    return NUMBER if type_ == "integer" or decimal_of(type_) else type_


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one database says it. In every template `@` stands for SQL of a value or its text.

    `kinds` are templates over a value's plain text; those of a kind that is not there nor among
    PLAIN cannot be told alike anywhere but in the same database (json) or not at all.
    """

    name: str
    text: str
    size: str
    digest: str
    whole: str  # of a number, divided by `#` and cut off
    rest: str  # of a whole number, divided by `#`: not below zero
    or_joined: bool = True
    kinds: dict[str, str] = field(default_factory=dict)

    def joined(self, parts: Sequence[str]) -> str:
        return " || ".join(parts) if self.or_joined else f"concat({', '.join(parts)})"

    def canonical(self, kind: str, sql: str) -> str | None:
        """Return SQL of a value's canonical text; None where this database cannot say it."""
        template = self.kinds.get(kind, "@" if kind in PLAIN else None)
        return template and template.replace("@", self.text.replace("@", sql))

    def part(self, kind: str, text: str) -> str:
        """Return SQL of what a value is in a row's text; no other value, nor NULL, is the same."""
        if kind in ("string", "json"):  # anything may stand in them
            text = self.joined([self.size.replace("@", text), "':'", text])
        return f"coalesce({text}, 'N')"

    def row(self, parts: Sequence[str]) -> str:
        """Return SQL of the text of several values."""
        return self.joined([part for one in parts for part in (one, "','")])

    def digest_of(self, text: str) -> str:
        """Return SQL of a number, not below zero, of a text."""
        return self.digest.replace("@", text)


PLAIN: Final = frozenset({"string", "boolean", "date", "time", "timestamp", NUMBER})

DUCKDB: Final = Dialect(
    name="duckdb",
    text="(@)::varchar",
    size="strlen(@)::varchar",
    digest="('0x' || left(md5(@), 15))::bigint",
    whole="((@)::bigint // #)",
    rest="(((@)::bigint % # + #) % #)",
    kinds={
        FLAG: _FLAG,
        NUMBER: "case when contains(@, '.') then rtrim(rtrim(@, '0'), '.') else @ end",
        "float": "case when isnan((@)::double) then 'nan'"
        " else lpad(lower(to_hex(((@)::double + 0.0)::bit::bigint)), 16, '0') end",
        "date": "case when contains(@, ' (BC)') then replace(@, ' (BC)', '') || ' BC' else @ end",
        "timestamp": "case when contains(@, ' (BC)') then replace(@, ' (BC)', '') || ' BC'"
        " else @ end",
        "json": "@",
    },
)
POSTGRESQL: Final = Dialect(
    name="postgresql",
    text="(@)::text",
    size="octet_length(@)::text",
    digest="('x' || left(md5(@), 15))::bit(60)::bigint",
    whole="div((@)::numeric, #)",
    rest="(((@)::bigint % # + #) % #)",
    kinds={
        FLAG: _FLAG,
        NUMBER: "trim_scale((@)::numeric)::text",
        "float": "case when (@)::float8 = 'NaN' then 'nan'"
        " else encode(float8send((@)::float8 + 0.0), 'hex') end",
        "timestamp": "replace(@, '+00', '')",  # of one with a zone, which is UTC
        "json": "(@)::jsonb::text",
    },
)
MYSQL: Final = Dialect(
    name="mysql",
    text="convert(@ using utf8mb4)",
    size="length(@)",
    digest="cast(conv(left(md5(@), 15), 16, 10) as unsigned)",
    whole="((@) div #)",
    rest="(((@) % # + #) % #)",
    or_joined=False,
    kinds=dict.fromkeys(
        (NUMBER, "time", "timestamp"),
        "case when locate('.', @) then trim(trailing '.' from trim(trailing '0' from @))"
        " else @ end",
    )
    | {FLAG: _FLAG},
)
