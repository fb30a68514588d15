"""Which local files may be read and written: those whose real path lies below a root."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.domain.errors import Denied


@dataclass(frozen=True, slots=True)
class Roots:
    """`folders` None allows every path (the CLI, which runs as its user)."""

    folders: Sequence[Path] | None

    def found(self, pattern: str) -> list[Path]:
        """Return the files that a path or glob names, sorted; real paths below a root."""
        paths = sorted(glob.glob(pattern, recursive=True))
        if not paths and os.path.isfile(pattern):
            paths = [pattern]  # a name that only looks like a glob
        if not paths and glob.escape(pattern) == pattern:
            self._judge(Path(pattern))
        return [real for path in paths if (real := self._judge(Path(path))).is_file()]

    def target(self, path: str) -> Path:
        """Return the real path of something that is to be written."""
        return self._judge(Path(path))

    def _judge(self, path: Path) -> Path:
        real = Path(os.path.realpath(path))
        if self.folders is None or any(
            real.is_relative_to(os.path.realpath(root)) for root in self.folders
        ):
            return real
        raise Denied(
            f"{path} is outside the folders that this server may use.",
            hint="Put it below <data-dir>/files, or add its folder to HEADRACE_FILES_ROOTS.",
            field="input",
        )
