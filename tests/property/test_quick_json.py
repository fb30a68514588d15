"""JSON by the quick way and by the exact one: the same table, the same books, the same rejects."""

import json
import re
import shutil
import tempfile
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from headrace.assembly import sample, work
from headrace.connectors.families import quick_json, quick_streams
from headrace.connectors.sources import json as json_source
from headrace.domain.shape import Shape
from headrace.domain.verification import Verify
from headrace.engine.plan import Stopped
from headrace.native import text as native
from tests.engine import Memory, order

TEXTS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        ["2024-02-29", "2024-02-29 10:11:12", "2024-01-01T00:00:00Z", "1.50", "12", "true", "", "\\", '"', "é😀", "\x00", "\x7f", "a\nb", "-0"]
    ),
)  # fmt: skip
SPELLED = st.sampled_from(
    [
        "1.0", "1.50", "1e5", "1E-2", "-0", "-0.0", "0.1", "123456789012345678", "9223372036854775807", "9223372036854775808",
        "18446744073709551615", "18446744073709551616", "-9223372036854775808", "-9223372036854775809", "1e400", "0.00001",
        "0.1000000000000000055", "123.456", "01", "1.", ".5", "+1", "NaN", "1e", "-", "12345678901234567.25", "true", "nul", "null",
    ]
)  # fmt: skip
SPELLED_TEXTS = st.sampled_from(
    [r'"\u00e9"', r'"\ud83d\ude00"', r'"\ud83d"', r'"\/"', r'"a\tb"', r'"\x"', r'"\u0000"', '"\t"', r'"\u12"', '"open', r'"\\"', r'"\"']
)  # fmt: skip
NESTED = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), TEXTS).map(json.dumps) | SPELLED | SPELLED_TEXTS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda some: "[" + ", ".join(some) + "]"),
        st.lists(st.tuples(st.sampled_from("ab"), inner), max_size=3).map(
            lambda some: "{" + ",".join(f'"{key}" : {value}' for key, value in some) + "}"
        ),
    ),
    max_leaves=3,
)  # fmt: skip
PLAIN = {
    "i": st.integers(-(2**63), 2**63 - 1).map(str), "f": st.floats(allow_nan=False, allow_infinity=False).map(repr),
    "s": TEXTS.map(json.dumps) | TEXTS.map(lambda text: json.dumps(text, ensure_ascii=False)), "b": st.sampled_from(["true", "false"]),
    "o": NESTED,
}  # fmt: skip
SPACE = st.sampled_from(["", "", "", " ", "\t", "  "])
MAPPINGS = st.fixed_dictionaries({}, optional={
    "i": st.sampled_from(["integer", "float", "decimal(38,2)", "string", "json"]),
    "f": st.sampled_from(["float", "decimal(20,4)", "string", "json"]),
    "s": st.sampled_from(["string", "date", "timestamp", "decimal(10,2)", "json", "boolean"]),
    "b": st.sampled_from(["boolean", "string", "json"]), "new": st.sampled_from(["integer", "string", "json", "date"]),
})  # fmt: skip


@st.composite
def records(draw):
    """One record as text: mostly plain."""
    members = []
    for key, plain in PLAIN.items():
        how = draw(st.sampled_from(["plain"] * 12 + ["absent", "absent", "null", "odd", "twice"]))
        if how == "absent":
            continue
        value = {"null": st.just("null"), "odd": st.one_of(SPELLED, SPELLED_TEXTS, NESTED)}.get(
            how, plain
        )
        for _ in range(1 + (how == "twice" and draw(st.booleans()))):
            space = draw(SPACE)
            members.append(f'{space}"{key}"{space}:{space}{draw(value)}{space}')
    if draw(st.integers(0, 30)) == 0:
        members.append(
            draw(st.sampled_from(['"k\\u0065y": 1', '"é": 1', '"": 2', '"a b": null', ""]))
        )
    if draw(st.integers(0, 40)) == 0:
        return draw(
            st.sampled_from(
                ["5", "[1]", "null", "{", "}", '{"i": 1} {"i": 2}', '{"i": 1,}', "{,}", '{"i" 1}']
            )
        )
    return (
        "{"
        + ",".join(draw(st.permutations(members)) if draw(st.integers(0, 5)) == 0 else members)
        + "}"
    )


def outcome(path, mapping, key, *, quick, sample=10_000, many=False):
    """Return everything that a user would see of a load, and how the quick way went.

    `sample`: how many records tell a column's type, and are glimpsed at. `many`: several files go
    by as few streams as there are threads.
    """
    folder = Path(tempfile.mkdtemp())
    (folder / "data").mkdir()
    ways = []
    real = json_source.JsonScan.quick

    def chosen(self, *given, **more):
        return real(self, *given, **more) if quick else None

    patch = pytest.MonkeyPatch()
    patch.setattr(json_source, "SMALL_BYTES", 0)
    if not quick:
        patch.setattr(json_source, "look", lambda *_, **__: None)
    patch.setattr(json_source, "are_many", lambda files: many and len(files) > 1)
    patch.setattr(json_source, "SAMPLE_RECORDS", sample)
    patch.setattr(json_source, "GLIMPSE_RECORDS", 1)
    patch.setattr(quick_streams, "PIECE_BYTES_MIN", 20)
    patch.setattr(native, "MARK_BYTES", 40)
    patch.setattr(native, "CHUNK_BYTES", 64)
    patch.setattr(json_source.JsonScan, "quick", chosen)
    for kind in (quick_json.QuickJson, quick_json.QuickJsonFiles):

        def closed(self, close=kind.close):
            ways.append(self.complete())
            close(self)

        patch.setattr(kind, "close", closed)
    try:
        told = order(
            folder, ("json", {"url": str(path), "mapping": mapping}), ("duckdb", {"path": str(folder / "o.duckdb")}),
            failure_threshold=100, key=key,
        )  # fmt: skip
        try:
            receipt = work(told, Memory())
        except Stopped as stopped:
            return str(stopped.error), ways
        with duckdb.connect(str(folder / "o.duckdb"), read_only=True) as con:
            columns = con.execute("describe t").fetchall()
            rows = sorted(map(str, con.execute("select * from t").fetchall()))
        rejects = [
            json.loads(line) for file in (folder / "rejects").glob("*") for line in file.read_text().split("\n")[:-1]
        ]  # fmt: skip
        return (columns, rows, receipt.books, receipt.rules, rejects), ways
    finally:
        patch.undo()
        shutil.rmtree(folder)


def signless(found):
    """DuckDB's files forget the sign of a zero that stands beside another zero, or keep it."""
    if isinstance(found, str):
        return found
    columns, rows, *rest = found
    return (columns, sorted(re.sub(r"(?<![\w.])-0\.0(?![\d])", "0.0", row) for row in rows), *rest)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    texts=st.lists(records(), min_size=1, max_size=7), array=st.booleans(), mapping=MAPPINGS,
    end=st.sampled_from(["\n", "\r\n", "\n\n", " \n"]), bom=st.booleans(), keyed=st.booleans(),
    sample=st.sampled_from([1, 2, 4, 10_000]), files=st.sampled_from([1, 1, 2, 3]), many=st.booleans(),
)  # fmt: skip
@example(
    texts=['{"i":1}', '{"i":"x"}'], array=True, mapping={}, end="\n", bom=True, keyed=False,
    sample=9, files=1, many=False,
)  # fmt: skip
@example(
    texts=['{"i":1,"o":{"a": 1.50, "b":"\\u00e9"}}'],
    array=False,
    mapping={},
    end="\n",
    bom=False,
    keyed=True,
    sample=9,
    files=1,
    many=False,
)
def test_both_ways_lead_to_the_same(texts, array, mapping, end, bom, keyed, sample, files, many):
    folder = Path(tempfile.mkdtemp())
    for number in range(files):
        some = texts[number::files]
        body = f"[{end}{(',' + end).join(some)}{end}]" if array else end.join(some) + end
        bytes_ = b"\xef\xbb\xbf" * bom + body.encode(errors="surrogatepass")
        (folder / f"{number}.json").write_bytes(bytes_)
    path = folder / "*.json"
    try:
        key = ("i",) if keyed and any('"i"' in text for text in texts) else ()
        exact, none = outcome(path, mapping, key, quick=False, sample=sample)
        found, _ = outcome(path, mapping, key, quick=True, sample=sample, many=many)
        assert none == []
        assert signless(found) == signless(exact)
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("array", [False, True])
def test_what_programs_write_goes_the_quick_way(tmp_path, array):
    """Cut into pieces, with everything that plain JSON has."""
    some = [
        {"id": n, "name": f'n "{n}" é\n', "price": n / 8, "ok": n % 2 == 0, "none": None, "tags": ["a", {"b": [1.5]}] * (n % 3)}
        | ({"late": n} if n > 50 else {})
        for n in range(200)
    ]  # fmt: skip
    text = json.dumps(some, indent=2) if array else "\n".join(map(json.dumps, some))
    path = tmp_path / "x.json"
    path.write_text(text)
    found, ways = outcome(path, {}, (), quick=True)
    exact, _ = outcome(path, {}, (), quick=False)
    assert ways == [True]
    assert found == exact
    assert found[2].inserted == 200


@pytest.mark.parametrize("native_", [True, False])
@pytest.mark.parametrize("nested", ["json", "columns"])
def test_each_of_several_arrays_is_looked_at(tmp_path, monkeypatch, nested, native_):
    """What only the last file's records have is a column, and no file is read in another's place."""
    if not native_:
        monkeypatch.setattr(native, "available", lambda: False)
    (tmp_path / "data").mkdir()
    for number in range(4):
        more = {"tags": 7} if number == 3 else {}
        (tmp_path / f"{number}.json").write_text(json.dumps([{"id": number}, {"id": 9} | more]))
    told = order(
        tmp_path, ("json", {"url": str(tmp_path / "*.json"), "nested": nested}),
        ("duckdb", {"path": str(tmp_path / "o.duckdb")}),
    )  # fmt: skip
    receipt = work(told, Memory())
    assert [(Path(one.name).name, one.books.read) for one in receipt.files] == [
        (f"{n}.json", 2) for n in range(4)
    ]
    with duckdb.connect(str(tmp_path / "o.duckdb"), read_only=True) as con:
        found = con.execute("select id, tags from t order by all").fetchall()
    nine = [(9, 7), (9, None), (9, None), (9, None)]
    assert found == [*((n, None) for n in range(4)), *nine]


@pytest.mark.parametrize("key", [(), ("id",)])
def test_lines_and_arrays_together_go_the_quick_way_too(tmp_path, key):
    for number in range(6):
        some = [{"id": n, "of": number} for n in range(number, number + 20)]
        body = json.dumps(some) if number % 2 else "\n".join(map(json.dumps, some))
        (tmp_path / f"{number}.json").write_text(body)
    found, ways = outcome(tmp_path / "*.json", {}, key, quick=True, many=True)
    exact, _ = outcome(tmp_path / "*.json", {}, key, quick=False)
    assert found == exact
    assert ways == [True]


@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize("key", [(), ("id",)])
def test_many_files_go_by_few_streams_with_books_a_file(tmp_path, array, key):
    """Odd records, an empty file and a late member are among them; the late twin of a key wins."""
    for number in range(30):
        some = [{"id": n, "of": number, "text": f"é{n}"} for n in range(number, number + 20)]
        some[3] |= {"tags": [number, {"a": None}]} if number == 20 else {}
        some[5] |= {"id": "odd"} if number == 7 and not array and not key else {}
        lines = list(map(json.dumps, some))
        body = f"[{', '.join(lines)}]" if array else "\n".join(lines)
        body = ("[]" if array else "") if number == 11 else body
        (tmp_path / f"{number:02}.json").write_text(body)
    path = tmp_path / "*.json"
    found, ways = outcome(path, {}, key, quick=True, sample=50, many=True)
    exact, _ = outcome(path, {}, key, quick=False, sample=50)
    assert found == exact
    assert ways[-1]
    assert found[2].inserted == (49 if key else 580 - (not array))
    assert len(found[0]) == 4


LINES = "".join(f'{{"id": {n}, "name": "n{n}"}}\n' for n in range(200))


@pytest.mark.parametrize(
    ("body", "ways", "columns", "rejected"),
    [
        (LINES, [True], "id name", 0),
        (LINES + '{"id": "x", "name": "odd"}\n{broken\n', [True], "id name", 2),
        (LINES + '{"id": 1, "late": true}\n', [False, True], "id name late", 0),
        # What does not fit hides a member that nobody knows.
        (LINES + '{"id": "x", "late": true}\n', [True, True], "id name late", 1),
        (
            '{"id": null}\n' * 9 + LINES,
            [True],
            "id name",
            0,
        ),  # all was looked at in the first place
        (LINES + "\n \n\t\n" + LINES, [True], "id name", 0),
        ("5\n{}\n" * 9 + LINES, [True], "id name", 9),
    ],
)
def test_a_file_that_was_glimpsed_at_is_loaded_again_when_it_holds_more(
    tmp_path, body, ways, columns, rejected
):
    path = tmp_path / "x.json"
    path.write_text(body)
    found, gone = outcome(path, {}, (), quick=True, sample=5)
    exact, _ = outcome(path, {}, (), quick=False, sample=5)
    assert gone == ways
    assert found == exact
    assert [name for name, *_ in found[0]] == columns.split()
    assert found[2].rejected == rejected


@pytest.mark.parametrize("late", ["key", "select"])
def test_a_column_that_somebody_names_may_come_late(tmp_path, monkeypatch, late):
    monkeypatch.setattr(json_source, "SAMPLE_RECORDS", 5)
    (tmp_path / "data").mkdir()
    path = tmp_path / "x.json"
    path.write_text(LINES + '{"id": 200, "late": "1"}\n')
    more = {
        "key": {"key": ("late",), "failure_threshold": 100},
        "select": {"shape": Shape(select=("id", "late"))},
    }
    end = ("duckdb", {"path": str(tmp_path / "o.duckdb")})
    told = work(order(tmp_path, ("json", {"url": str(path)}), end, **more[late]), Memory())
    assert told.books.inserted == (1 if late == "key" else 201)


def test_a_glimpse_is_told_from_a_look_at_every_record(tmp_path):
    """A guess that nobody checks would lose a column: it is caught."""
    path = tmp_path / "x.json"
    path.write_text(LINES + '{"id": "x", "late": true}\n')
    patch = pytest.MonkeyPatch()
    patch.setattr(json_source.JsonScan, "knows", lambda self, left: True)
    try:
        found, _ = outcome(path, {}, (), quick=True, sample=5)
    finally:
        patch.undo()
    exact, _ = outcome(path, {}, (), quick=False, sample=5)
    assert found != exact


def test_who_does_not_load_guesses_nothing(tmp_path, monkeypatch):
    """A verification and a preview know every column, however late it comes."""
    monkeypatch.setattr(json_source, "SMALL_BYTES", 0)
    monkeypatch.setattr(json_source, "SAMPLE_RECORDS", 5)
    (tmp_path / "data").mkdir()
    path = tmp_path / "x.json"
    path.write_text(LINES + '{"id": 200, "late": true}\n')
    given = ("json", {"url": str(path)})
    end = ("duckdb", {"path": str(tmp_path / "o.duckdb")})
    work(order(tmp_path, given, end), Memory())
    told = work(order(tmp_path, given, end, action="append", verify=Verify()), Memory())
    assert (told.verification["same"], told.verification["columns"]) == (True, 3)
    page = sample(order(tmp_path, given, ("", {})), 10)
    assert list(page.columns) == ["id", "name", "late"]


def test_a_file_that_is_no_object_a_line_is_not_surveyed(tmp_path):
    for body in (
        "[",
        "[1]",
        "[{}",
        "[{}]x",
        '{"a":1} 5',
        '{"a":1}{"a":2}',
        '{"a":\n1}',
        "[{},]",
        "[,{}]",
        "[{}{}]",
        '{"\\u0061":1}',
    ):
        (tmp_path / "x").write_text(body)
        lines = not body.startswith("[")
        assert native.Surveying(str(tmp_path / "x"), lines=lines, sample=9).run() is None, body
    (tmp_path / "x").write_text(' \n[ {"b":null , "a":[1]} ,\n{"a":"x"}, {} ]\n ')
    found = native.Surveying(str(tmp_path / "x"), lines=False, sample=1).run()
    assert found.records == 3
    assert [(one.name, one.sampled, one.kinds) for one in found.members] == [
        (b"b", {"NULL"}, {"NULL"}), (b"a", {"OBJECT"}, {"OBJECT", "VARCHAR"}),
    ]  # fmt: skip


@pytest.mark.parametrize("said", ["-0", "-0.0", "-0e0", "0", "-0.5", "-01", "-"])
def test_a_zero_below_zero_is_the_same_both_ways(tmp_path, said):
    path = tmp_path / "x.json"
    path.write_text(f'{{"f":1.5,"i":1}}\n{{"f":{said},"i":2}}\n')
    exact, _ = outcome(path, {"f": "float"}, (), quick=False)
    found, ways = outcome(path, {"f": "float"}, (), quick=True)
    assert ways
    assert found == exact
