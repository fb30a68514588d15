"""Of a Parquet file on a web server only the columns come that are asked for, where it lets them."""

import random
import re

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.assembly import work
from headrace.connectors.families.parquet_parts import parts_of
from headrace.domain.errors import Unavailable
from headrace.domain.shape import Shape
from headrace.engine.plan import Stopped
from tests.engine import Memory, order
from tests.serving import send, website

ROWS = 30_000
FEW = Shape(select=("id", "n"))


def made(seed=1):
    noise = random.Random(seed)
    texts = [noise.randbytes(40).hex() for _ in range(ROWS)]
    sink = pa.BufferOutputStream()
    table = pa.table({"id": list(range(ROWS)), "text": texts, "n": [seed] * ROWS})
    pq.write_table(table, sink, row_group_size=7_000)
    return sink.getvalue().to_pybytes()


class Site:
    """A server of one file. `ranges`: it gives parts; `etag` names its state."""

    def __init__(self, body):
        self.body, self.etag, self.ranges = body, '"one"', True
        self.sent = 0
        self.change_after = None

    def __call__(self, request):
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        told = {"ETag": self.etag} if self.etag else {}
        if not found or not self.ranges:
            self.sent += len(self.body)
            send(request, self.body, **told)
            return
        if self.change_after is not None:
            self.change_after -= 1
            if self.change_after < 0:
                self.etag = '"two"'
        if request.headers.get("If-Match", self.etag) != self.etag:
            send(request, b"", 412)
            return
        start, end = int(found[1]), int(found[2]) + 1
        part = self.body[start:end]
        self.sent += len(part)
        told["Content-Range"] = f"bytes {start}-{end - 1}/{len(self.body)}"
        send(request, part, 206, **told)


@pytest.fixture
def site():
    found = Site(made())
    with website(found) as found.url:
        yield found


def load(site, folder, shape=FEW, **more):
    (folder / "data").mkdir(exist_ok=True)
    source = "parquet", {"url": f"{site.url}/x.parquet"}
    end = "duckdb", {"path": str(folder / "o.duckdb")}
    return work(order(folder, source, end, shape=shape, **more), Memory())


def rows(folder, what="count(*), sum(id), sum(n)"):
    with duckdb.connect(str(folder / "o.duckdb"), read_only=True) as con:
        return con.execute(f"select {what} from t").fetchall()


def test_only_what_is_needed_comes(site, tmp_path):
    receipt = load(site, tmp_path)
    assert rows(tmp_path) == [(ROWS, sum(range(ROWS)), ROWS)]
    assert site.sent < len(site.body) / 4
    assert receipt.files[0].bytes < len(site.body) / 4
    assert receipt.files[0].version == '"one"'
    assert receipt.files[0].sha256 == ""


@pytest.mark.parametrize("what", ["no parts", "no state", "a weak state", "all columns"])
def test_it_comes_whole_where_parts_cannot_be_had(site, tmp_path, what):
    site.ranges = what != "no parts"
    site.etag = {"no state": "", "a weak state": 'W/"one"'}.get(what, site.etag)
    shape = Shape() if what == "all columns" else FEW
    receipt = load(site, tmp_path, shape)
    assert rows(tmp_path) == [(ROWS, sum(range(ROWS)), ROWS)]
    assert receipt.files[0].bytes == len(site.body)
    assert receipt.files[0].sha256


def test_a_file_that_changes_in_between_is_no_mixture(site, tmp_path):
    site.change_after = 3
    with pytest.raises(Stopped) as stopped:
        load(site, tmp_path)
    assert isinstance(stopped.value.error, Unavailable)
    assert "changed while it was read" in stopped.value.error.message


def test_what_is_no_parquet_is_told_by_its_reader(tmp_path):
    with website(Site(b"<html>" + b"x" * 300_000)) as url:
        site = Site(b"")
        site.url = url
        with pytest.raises(Stopped, match="web page"):
            load(site, tmp_path)


def test_a_footer_that_lies_is_asked_for_whole():
    body = made()
    for broken in (
        body[:-8] + (2**31 - 1).to_bytes(4, "little") + b"PAR1",  # longer than the file
        body[:-60_000] + b"\0" * 59_992 + (50_000).to_bytes(4, "little") + b"PAR1",  # no footer
        b"PAR1",
    ):
        read = lambda start, end, broken=broken: broken[start:end]  # noqa: E731
        assert parts_of(len(broken), read, lambda names: names[:1]) is None
