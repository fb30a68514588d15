"""The pool of children: which of them does the next run."""

from types import SimpleNamespace

from headrace.runtime.pool import Pool


def test_who_was_free_the_longest_does_the_next_run(tmp_path):
    """Who has just ended one is still making ready for the next."""
    pool = Pool(3, tmp_path)
    pool._workers = [
        SimpleNamespace(name=name, busy=busy, heard_at=heard_at, runs=0, alive=True)
        for name, busy, heard_at in (
            ("new", False, 9.0),
            ("at work", True, 1.0),
            ("old", False, 5.0),
        )
    ]
    assert [pool.take().name for _ in range(2)] == ["old", "new"]
    assert pool.free() == 0
