"""Which bytes of a Parquet file hold some of its columns: told by its footer alone."""

from collections.abc import Callable, Sequence
from typing import Final

MAGIC: Final = b"PAR1"
TAIL_BYTES: Final = 64 << 10  # a first guess at the footer
GAP_BYTES: Final = 256 << 10  # between two parts that are asked for as one
WORTH: Final = 0.8  # more of a file than this is asked for whole

Read = Callable[[int, int], bytes]  # from, to
Parts = list[tuple[int, int]]


def parts_of(
    size: int, read: Read, needs: Callable[[Sequence[str]], Sequence[str]]
) -> Parts | None:
    """Return the parts of a file of so many bytes that hold what is needed; None: all of it.

    `needs` says of all columns which those are. What is no Parquet file is asked for whole: its
    reader says what is wrong with it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tail = read(max(0, size - TAIL_BYTES), size)
    if size < 2 * TAIL_BYTES or tail[-4:] != MAGIC:
        return None
    footer = int.from_bytes(tail[-8:-4], "little") + 8
    if footer > size:
        return None
    if footer > len(tail):
        tail = read(size - footer, size)
    try:
        metadata = pq.read_metadata(pa.BufferReader(tail))
    except (pa.ArrowInvalid, OSError):
        return None
    names = list(dict.fromkeys(field.name for field in metadata.schema.to_arrow_schema()))
    wanted = set(needs(names))
    found = [(0, len(MAGIC)), (size - footer, size)]
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for place in range(group.num_columns):
            chunk = group.column(place)
            if chunk.path_in_schema.partition(".")[0] in wanted:
                start = chunk.dictionary_page_offset or chunk.data_page_offset
                start = min(start, chunk.data_page_offset)
                found.append((start, start + chunk.total_compressed_size))
    merged = _merged(sorted(found))
    return None if sum(end - start for start, end in merged) > WORTH * size else merged


def _merged(parts: Parts) -> Parts:
    found = parts[:1]
    for start, end in parts[1:]:
        if start <= found[-1][1] + GAP_BYTES:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found
