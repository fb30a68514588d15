"""Counting records fast gives the exact reader's number, or none."""

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.connectors.families import counting
from headrace.connectors.families.csv_text import CsvText

PIECES = [b'"', b",", b"\n", b"\r\n", b"a", b'"x"', b'"x\ny"', b'""', b'"a""b"', b" ", b"\r"]


@settings(max_examples=600, deadline=None)
@given(
    pieces=st.lists(st.sampled_from(PIECES), max_size=14),
    chunk=st.integers(1, 9),
    bom=st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
def test_what_is_counted_fast_is_what_the_exact_reader_counts(tmp_path_factory, pieces, chunk, bom):
    path = tmp_path_factory.getbasetemp() / "counted.csv"
    path.write_bytes(bom + b"h,i\n" + b"".join(pieces))
    whole, counting.CHUNK_BYTES = counting.CHUNK_BYTES, 3 + chunk
    try:
        fast = counting.count_lines(str(path), delimiter=44, quote=34, blanks=False)
    finally:
        counting.CHUNK_BYTES = whole
    exact = list(CsvText(",", '"').records(str(path), 2))
    if fast is not None and not any(record.fault for record in exact):
        assert fast == len(exact)


def test_a_plain_file_is_always_counted_fast(tmp_path):
    path = tmp_path / "plain.csv"
    path.write_bytes(b'a,b\n1,"x ""y"" z"\n\n2,"l1\nl2"\n3,"z"\r\n\r\n4,5')
    assert counting.count_lines(str(path), delimiter=44, quote=34, blanks=False) == 5
    assert counting.count_lines(str(path), delimiter=44, quote=34, blanks=True) == 7


def test_a_stray_quote_makes_the_fast_way_give_up(tmp_path):
    path = tmp_path / "stray.csv"
    path.write_bytes(b'a,b\n1"\n,1"\n')
    assert counting.count_lines(str(path), delimiter=44, quote=34, blanks=False) is None
