"""Work that is done again and again beside other work."""

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def meanwhile(work: Callable[[], bool], every_s: float, name: str) -> Iterator[None]:
    """Do some work every so often, in a thread of its own, while a block runs.

    It must not raise; once it returns False it is done no more. Nothing of it goes on behind the
    block.
    """
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(every_s) and work():
            pass

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
