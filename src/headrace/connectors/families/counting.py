"""Counting records in the bytes of a text, apart from whoever loads them (DESIGN.md, Books).

Vectorised over chunks that fit the cache: about 0.6 CPU seconds for 766 MB. It answers only where
it can prove its answer: every quoted section begins at a cell's start and ends at a cell's end.
"""

from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 18
_LF, _CR = 10, 13


def count_lines(path: str, *, delimiter: int, quote: int, blanks: bool) -> int | None:
    """Count the records of a file whose records end with newlines, the header included.

    `delimiter` and `quote` are byte values. Blank lines count if `blanks`. None where quotes or
    carriage returns stand anywhere but where a plain CSV has them.
    """
    import numpy as np

    before = np.isin(np.arange(256), (delimiter, _LF, quote))  # may precede an opening quote
    after = np.isin(np.arange(256), (delimiter, _LF, _CR, quote))  # may follow a closing one
    records = inside = 0
    last: Any = np.frombuffer(b"\n\n\n", np.uint8)  # the three bytes before the chunk
    with Path(path).open("rb", buffering=0) as file:
        data = file.read(CHUNK_BYTES)
        data = data.removeprefix(b"\xef\xbb\xbf")
        while data:
            following = file.read(CHUNK_BYTES)
            # Three bytes before and one after, so that neighbours are at hand.
            view = np.concatenate((last, np.frombuffer(data + (following[:1] or b"\n"), np.uint8)))
            body = view[3:-1]
            quotes = np.flatnonzero(body == quote)
            newlines = np.flatnonzero(body == _LF)
            returns = np.flatnonzero(body == _CR)
            if len(quotes):
                opening, closing = quotes[inside::2], quotes[1 - inside :: 2]
                if not before[view[opening + 2]].all() or not after[view[closing + 4]].all():
                    return None
                newlines = newlines[(np.searchsorted(quotes, newlines) & 1) == inside]
                returns = returns[(np.searchsorted(quotes, returns) & 1) == inside]
                inside ^= len(quotes) & 1
            elif inside:
                newlines, returns = newlines[:0], returns[:0]
            if len(returns) and not (view[returns + 4] == _LF).all():
                return None
            records += len(newlines)
            if not blanks:
                previous = view[newlines + 2]
                empty = previous == _LF
                if (after_return := previous == _CR).any():
                    empty |= after_return & (view[newlines + 1] == _LF)
                records -= int(empty.sum())
            last = view[-4:-1]
            data = following
    if inside or last[-1] == _CR:
        return None
    return records + bool(last[-1] != _LF)
