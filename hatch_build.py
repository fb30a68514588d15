"""Builds src/headrace/native/libheadrace.so with the C compiler that the ziglang wheel brings."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = (
    "-std=c11",
    "-O3",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fPIC",
    "-fvisibility=hidden",
    "-mcpu=baseline",
)  # a wheel runs on other machines than the one that built it


LINK = ("-dynamiclib", "-undefined", "dynamic_lookup") if sys.platform == "darwin" else ("-shared",)


class NativeBuild(BuildHookInterface):
    """Compiles before a wheel is made, the editable one too."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and tell the builder that the wheel is bound to its platform."""
        folder = Path(self.root, "src", "headrace", "native")
        cache = str(Path(self.root, ".zig-cache"))
        subprocess.run(  # noqa: S603  # nothing here comes from outside
            [sys.executable, "-m", "ziglang", "cc", *FLAGS, *LINK, "-o", folder / "libheadrace.so",
             *sorted(folder.glob("*.c"))],
            check=True,
            env=os.environ | {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache},
        )  # fmt: skip
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["artifacts"].append("src/headrace/native/libheadrace.so")
