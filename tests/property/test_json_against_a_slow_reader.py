"""JSON broken at random: counts, quarantine and index must be what a slow, obvious reader says."""

import json
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from headrace.assembly import read_table, work
from headrace.domain.errors import Refused
from headrace.engine.plan import Stopped
from tests.engine import Memory, order

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.sampled_from(["", "x", "é\n", '"}', "[{"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
RECORDS = st.fixed_dictionaries(
    {"id": st.integers(1, 6) | st.sampled_from(["k", "", None, 1.5, True])},
    optional={"n": st.integers(-5, 5) | st.sampled_from([1.7, "5", True, None]), "v": VALUES},
)
NOISE = [b"{", b"}", b'"', b"]", b",", b"\xff", b"5", b"null", b"\\", b" ", b"NaN", b"-Infinity"]


def verdict(text: bytes):
    """Return ("ok", record) or the rule that a record's text breaks."""
    try:
        value = json.loads(text.decode(), parse_constant=int)  # NaN and Infinity are no JSON
    except UnicodeDecodeError:
        return "bad_encoding"
    except ValueError:
        return "broken_json"
    if not isinstance(value, dict):
        return "not_an_object"
    key = value.get("id")
    if key in (None, ""):
        return "missing_key"
    if isinstance(key, bool) or not isinstance(key, int | str):
        return "bad_value"
    n = value.get("n")
    if n is not None and (isinstance(n, bool) or not isinstance(n, int)):
        return "bad_value"
    return ("ok", value)


def expected(texts):
    """Return the index by objectID, and (record, rule) of what was rejected."""
    index, rejected, place = {}, [], {}
    for number, text in enumerate(texts, 1):
        found = verdict(text)
        if isinstance(found, str):
            rejected.append((number, found))
            continue
        key = str(found[1]["id"])
        if key in place:
            rejected.append((place[key], "duplicate_key"))
        place[key] = number
        index[key] = found[1]
    return index, sorted(rejected)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    records=st.lists(RECORDS, min_size=1, max_size=8), array=st.booleans(),
    noise=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 40), st.sampled_from(NOISE)), max_size=2),
)  # fmt: skip
@example([{"id": "a", "n": 1, "v": []}, {"id": "b,}"}], False, [(0, 29, b","), (1, 10, b" ")])
@example([{"id": 1, "v": 5}, {"id": "nan, Inf"}], False, [(0, 15, b"NaN,")])
def test_broken_json_is_read_as_the_slow_reader_reads_it(records, array, noise):
    texts = [json.dumps(record, ensure_ascii=False).encode() for record in records]
    if not array:
        for which, where, what in noise:
            text = texts[which % len(texts)]
            texts[which % len(texts)] = text[:where] + what + text[where:]
    texts = [text for text in texts if text.strip()]
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "data").mkdir()
        path = folder / "in.json"
        path.write_bytes(b"[" + b" ,\n".join(texts) + b"]" if array else b"\n".join(texts))
        if not array and path.read_bytes().lstrip().startswith(b"["):
            return  # noise made it look like an array
        told = order(
            folder, ("json", {"url": str(path), "mapping": {"n": "integer"}}),
            ("search", {"indexName": "i"}), key=("id",), failure_threshold=100,
        )  # fmt: skip
        journal = Memory()
        index, rejected = expected(texts)
        receipt = work(told, journal)
        assert (receipt.books.read, receipt.books.inserted) == (len(texts), len(index))
        found = read_table(told, "i", 100, None).rows
        assert {
            row["objectID"]: {k: v for k, v in row.items() if k != "objectID"} for row in found
        } == index
        kept = [
            json.loads(line)
            for file in (folder / "rejects").glob("*")
            for line in file.read_text().splitlines()
        ]
        assert sorted((row["record"], row["rule"]) for row in kept) == rejected
        for row in kept:
            raw = texts[row["record"] - 1]
            if row["rule"] != "bad_encoding":
                assert json.dumps(row["raw"]) == json.dumps(raw.decode())
                assert path.read_bytes()[row["byte"] :].startswith(raw)
    except Stopped as stopped:
        raise AssertionError(f"{texts!r}: {stopped.error}") from stopped
    finally:
        shutil.rmtree(folder)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=30), cut=st.integers(1, 60))
def test_an_array_that_breaks_off_fails_with_its_offset(data, cut):
    whole = json.dumps([{"id": n, "v": data.hex()} for n in range(3)]).encode()
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "data").mkdir()
        (folder / "in.json").write_bytes(whole[: max(len(whole) - cut, 1)])
        told = order(
            folder, ("json", {"url": str(folder / "in.json")}), ("search", {"indexName": "i"})
        )
        try:
            work(told, Memory())
        except Stopped as stopped:
            assert isinstance(stopped.error, Refused)
            assert "at byte" in stopped.error.message
        else:
            raise AssertionError("a broken array was loaded")
    finally:
        shutil.rmtree(folder)
