"""A hard cap on the memory of a process and all that it starts: a cgroup, where one can be made."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from headrace.runtime.pool import memory_of

ROOT = Path("/sys/fs/cgroup")


class Cap:
    """A group of processes. `within` begins the command that is to belong to it."""

    def __init__(self, group: Path | None) -> None:
        self.group = group
        # What it starts belongs to it, too.
        self.within = (
            ("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh") if group else ()
        )

    def killed(self) -> int:
        """Return how many processes the kernel has killed for want of memory."""
        if self.group is None:
            return 0
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError):
                told = dict(
                    line.split()[:2] for line in (self.group / name).read_text().splitlines()
                )
                return int(told.get("oom_kill", 0))
        return 0


@contextlib.contextmanager
def capped(limit: int) -> Iterator[Cap]:
    """Make a group that may hold so many bytes; one without a cap where none can be made."""
    group = made(limit)
    try:
        yield Cap(group)
    finally:
        until = time.monotonic() + 10
        while group is not None and time.monotonic() < until:
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.1)


def made(limit: int) -> Path | None:
    name = f"headrace-{time.time_ns()}"
    for root, file in ((ROOT / "memory", "memory.limit_in_bytes"), (ROOT, "memory.max")):
        group = root / name
        try:
            if not (root / "cgroup.procs").exists():
                continue
            group.mkdir()
            (group / file).write_text(str(limit))
            if file == "memory.max":
                with contextlib.suppress(OSError):
                    (group / "memory.swap.max").write_text("0")
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
        else:
            return group
    return None


def tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    found = [pid]
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                found += tree(int(child))
    return found


class Watch:
    """Looks again and again at what a process and all below it hold; `peak` in MiB."""

    def __init__(self, pid: int) -> None:
        self.peak = 0.0
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._done.wait(0.05):
            held = sum(memory_of(str(one)) for one in tree(self._pid))
            self.peak = max(self.peak, held / (1 << 20))

    def stop(self) -> float:
        self._done.set()
        self._thread.join()
        return self.peak
