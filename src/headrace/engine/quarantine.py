"""Writing rejected rows: one JSON object a line, durable before the commit that they belong to."""

import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Final

import msgspec

from headrace.domain.rejected import Rejected
from headrace.engine.plan import Segment

RAW_BYTES_OF_A_RUN: Final = 256 << 20  # after which raw texts are cut short
SHORT_RAW: Final = 1024


def write_segment(folder: Path, name: str, rejects: Iterable[Rejected]) -> Segment | None:
    """Write rejected rows as `folder/name`; return None, and write nothing, for no rows."""
    path = folder / name
    encode = msgspec.json.Encoder().encode
    rows = written = 0
    file = None
    try:
        for reject in rejects:
            if file is None:
                folder.mkdir(parents=True, exist_ok=True)
                file = path.open("wb")
            row = asdict(reject)
            if written > RAW_BYTES_OF_A_RUN and len(row["raw"]) > SHORT_RAW:
                row["raw"], row["raw_cut"] = row["raw"][:SHORT_RAW], True
            rows += 1
            written += file.write(encode(row) + b"\n")
        if file is None:
            return None
        file.flush()
        os.fsync(file.fileno())
    finally:
        if file is not None:
            file.close()
    return Segment(name=name, rows=rows, bytes=written)
