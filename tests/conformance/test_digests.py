"""Digests in the receipt: of the files as they came, and of what landed."""

import gzip
import hashlib
import os
import threading

import pytest

from headrace.assembly import work
from headrace.domain.errors import Cancelled, Unavailable
from headrace.engine import execute
from headrace.engine.digests import Digests
from headrace.engine.plan import Stopped
from tests.engine import Memory, Rig, order
from tests.serving import send, website

CSV = "id,name,n\n1,Ann,2.5\n2,,3\n3,Cy,\n"


def digest_of(receipt):
    return receipt.as_dict()["tables"][0].get("digest")


@pytest.fixture
def rig(tmp_path):
    return Rig("duckdb", tmp_path, "")


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_is_told_as_sha256sum_tells_it(rig, packed):
    body = gzip.compress(CSV.encode()) if packed else CSV.encode()
    (rig.folder / "a.csv").write_bytes(body)
    [file] = rig.load("a.csv", None).as_dict()["files"]
    assert file["sha256"] == hashlib.sha256(body).hexdigest()


def test_each_of_several_files_is_told(rig):
    (rig.folder / "in").mkdir()
    for number in range(3):
        (rig.folder / f"in/{number}.csv").write_text(CSV + f"{number},x,1\n")
    found = rig.load("in/*.csv", None).as_dict()["files"]
    assert [file["sha256"] for file in found] == [
        hashlib.sha256((CSV + f"{number},x,1\n").encode()).hexdigest() for number in range(3)
    ]


def test_what_came_over_http(tmp_path):
    body = gzip.compress(CSV.encode())
    end = ("duckdb", {"path": str(tmp_path / "o.duckdb")})
    with website(lambda request: send(request, body)) as url:
        receipt = work(order(tmp_path, ("csv", {"url": f"{url}/a.csv.gz"}), end), Memory())
    assert receipt.files[0].sha256 == hashlib.sha256(body).hexdigest()


def test_bad_rows_and_cleaned_copies_do_not_change_it(rig):
    text = CSV + '4,"a"b,1\n5,x\n'
    [file] = rig.load("a.csv", text, failure_threshold=90).as_dict()["files"]
    assert file["sha256"] == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("kind", ["duckdb", "parquet", "postgresql"])
def test_what_landed_has_a_digest_that_any_change_of_a_value_changes(tmp_path, kind, fresh):
    rig = Rig(kind, tmp_path, fresh(kind))
    if kind == "postgresql":  # which reads the table once more for it
        assert digest_of(rig.load("a.csv", CSV)) is None
        rig.end[1]["digest"] = True
    first = digest_of(rig.load("a.csv", CSV))
    assert digest_of(rig.load("a.csv", CSV)) == first
    others = [
        CSV.replace("2.5", "2.6"),
        CSV.replace("2,,", '2,"",'),
        CSV.replace("Cy", "cy"),
        CSV + "4,,\n",
    ]
    found = [digest_of(rig.load("a.csv", other)) for other in others]
    assert len({first, *found}) == 5


def test_the_order_of_rows_does_not_matter(rig):
    lines = CSV.splitlines(keepends=True)
    first = digest_of(rig.load("a.csv", CSV))
    assert digest_of(rig.load("a.csv", "".join([lines[0], *reversed(lines[1:])]))) == first


def test_a_value_that_moves_to_another_column_is_a_change(rig):
    first = digest_of(rig.load("a.csv", "a,b\nx,y\n"))
    assert digest_of(rig.load("a.csv", "a,b\ny,x\n")) != first


@pytest.mark.parametrize("change", ["grows", "is cut", "is replaced by none", "has other columns"])
def test_a_file_that_changes_while_it_is_read_is_to_be_read_again(rig, monkeypatch, change):
    """Whatever fails because of it: a server tries again, as the file may be whole then."""
    path, real = rig.folder / "a.csv", execute.lay_out

    def late(*args, **more):
        if change == "grows":
            with path.open("a") as out:
                out.write("9,late,1\n")
        elif change == "is cut":
            os.truncate(path, 20)
        elif change == "is replaced by none":
            path.unlink()
        else:
            (rig.folder / "b.csv").write_text("when,what\nx,y,z,zz\n" * 9)
            (rig.folder / "b.csv").rename(path)
        return real(*args, **more)

    monkeypatch.setattr(execute, "lay_out", late)
    with pytest.raises(Stopped, match="has changed while it was read") as stopped:
        rig.load("a.csv", CSV)
    assert isinstance(stopped.value.error, Unavailable)


def test_what_fails_of_itself_is_not_blamed_on_a_file(rig):
    with pytest.raises(Stopped) as stopped:
        rig.load("a.csv", "id,n\n1,x,y,z\n" * 50)
    assert not isinstance(stopped.value.error, Unavailable)


def test_a_file_that_is_rewritten_in_place_fails_the_run(rig, monkeypatch):
    """The same length, another content: no count could tell."""
    (rig.folder / "a.csv").write_text(CSV)
    os.utime(rig.folder / "a.csv", (1, 1))
    real = execute.lay_out

    def slow(*args, **more):
        (rig.folder / "a.csv").write_text(CSV.replace("Ann", "Eve"))
        return real(*args, **more)

    monkeypatch.setattr(execute, "lay_out", slow)
    with pytest.raises(Stopped, match="has changed while it was read"):
        rig.load("a.csv", None)


def test_a_file_that_goes_away_while_it_is_read_fails_the_run(rig, monkeypatch):
    """Its rows are staged already; only its digest is not."""
    (rig.folder / "a.csv").write_text(CSV)
    gone = threading.Event()
    digest, stage = Digests._run, execute.Stager.stage

    def late(self):
        gone.wait(30)
        digest(self)

    def staged(self, fitted):
        found = stage(self, fitted)
        (rig.folder / "a.csv").unlink()
        gone.set()
        return found

    monkeypatch.setattr(Digests, "_run", late)
    monkeypatch.setattr(execute.Stager, "stage", staged)
    with pytest.raises(Stopped, match="has changed while it was read"):
        rig.load("a.csv", None)


def test_a_cancel_does_not_wait_for_digests(tmp_path, monkeypatch):
    """A digest that never ends: the cancel does, and so does its thread."""
    monkeypatch.setattr(Digests, "_run", lambda self: self._stop.wait())

    class Cancelling(Memory):
        def told(self, phase, **more):
            if phase == "digesting":
                self.cancel.set()
            super().told(phase, **more)

    (tmp_path / "a.csv").write_text(CSV)
    end = ("duckdb", {"path": str(tmp_path / "o.duckdb")})
    with pytest.raises(Cancelled):
        work(order(tmp_path, ("csv", {"url": str(tmp_path / "a.csv")}), end), Cancelling())
    assert not [one for one in threading.enumerate() if "_run" in one.name]
