"""Fault points: named steps at which a test stops or kills the process.

`HEADRACE_FAULT=name` kills it with SIGKILL the first time it gets there, `name:stop` stops it with
SIGSTOP, `name:hog` has it take a lot of memory and stay. Costs one look-up in a dict where the
variable is not set.
"""

import os
import signal
import time
from pathlib import Path
from typing import Final

HOG_BYTES: Final = 2 << 30

POINTS: Final = (
    # in the server
    "server.run_queued", "server.claimed", "server.submitted", "server.before_advance",
    "server.after_advance", "server.before_finish", "server.after_finish",
    # in the child
    "child.started", "child.fence_raised", "child.fetched", "child.half_staged", "child.staged",
    "child.rejects_written", "child.before_commit", "child.in_commit", "child.committed",
    "child.advanced",
)  # fmt: skip

PUSH_POINTS: Final = ("server.push_kept",)  # on the way of a push only
TRIGGER_POINTS: Final = ("server.triggered",)  # after a cause has started its thing
UPLOAD_POINTS: Final = ("server.chunk_written", "server.upload_started")  # of an upload only

_NAME, _, _DEED = os.environ.get("HEADRACE_FAULT", "").partition(":")


def reach(point: str) -> None:
    """Say that `point` is reached; a test may end the process here.

    With HEADRACE_FAULT_ONCE=PATH it happens once: whoever makes that file first.
    """
    if point != _NAME:
        return
    if once := os.environ.get("HEADRACE_FAULT_ONCE"):
        try:
            with Path(once).open("x") as marker:
                marker.write(f"{os.getpid()}\n")
        except FileExistsError:
            return
    if _DEED == "hog":
        held = b"x" * HOG_BYTES
        while held:
            time.sleep(1)
    os.kill(os.getpid(), signal.SIGSTOP if _DEED == "stop" else signal.SIGKILL)
