"""A row that did not fit, as it is kept in the quarantine."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

RAW_BYTES_MAX: Final = 65_536  # of one row's text; a longer one is cut and says so


class Rule(StrEnum):
    """Why a row was rejected."""

    BAD_VALUE = "bad_value"
    TOO_FEW_CELLS = "too_few_cells"
    TOO_MANY_CELLS = "too_many_cells"
    BAD_ENCODING = "bad_encoding"
    BAD_QUOTING = "bad_quoting"
    UNTERMINATED_QUOTE = "unterminated_quote"
    TOO_LONG = "too_long"
    BROKEN_JSON = "broken_json"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_KEY = "missing_key"
    DUPLICATE_KEY = "duplicate_key"
    EXPRESSION = "expression"  # of a column; it could not be computed for this row
    UNKNOWN_COLUMN = "unknown_column"  # the table is frozen, and does not have it
    BAD_FILE = "bad_file"  # a whole file that cannot be read
    TRANSFORMATION = "transformation"  # its code threw an error for this row
    NOT_APPLIED = "not_applied"  # it was pushed, and its run ended before it was its turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """One row in the quarantine.

    `record` counts records of its file from 1 (a header is not a record), `line` physical lines
    from 1, `byte` from 0. `raw` is the row as it stood in the file, at most RAW_BYTES_MAX of it.
    """

    table: str
    file: str
    record: int
    line: int | None
    byte: int | None
    column: str | None
    rule: Rule
    message: str
    raw: str
    raw_cut: bool = False
