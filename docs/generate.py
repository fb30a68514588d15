"""Remake the generated reference: docs/cli.md from --help, docs/settings.md from settings.py."""

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMMANDS = (
    "", "serve", "ingest", "preview", "run", "runs", "logs", "cancel", "retry", "tasks", "pools", "jobs", "jobs add",
    "jobs start", "executions", "executions show", "triggers", "triggers add", "limits", "limits set", "keys", "keys add", "servers", "backup", "restore", "migrate",
)  # fmt: skip


def cli() -> str:
    parts = ["# The command line", "", "Made from `--help` by `make docs`.", ""]
    for command in COMMANDS:
        words = [sys.executable, "-m", "headrace", *command.split(), "--help"]
        env = os.environ | {"COLUMNS": "100", "TERM": "dumb"}
        done = subprocess.run(words, capture_output=True, text=True, check=True, env=env)
        shown = done.stdout.replace("__main__.py", "headrace").replace(
            "python -m headrace", "headrace"
        )
        text = "\n".join(line.rstrip() for line in shown.strip().splitlines())
        parts += [f"## headrace {command}".rstrip(), "", "```", text, "```", ""]
    return "\n".join(parts)


def settings() -> str:
    source = (HERE.parent / "src" / "headrace" / "settings.py").read_text()
    rows = re.findall(
        r"    (\w+): [^=\n]+ = (.+?)  # (HEADRACE_\w+)(?:[:,]? ?(.*))?$", source, re.MULTILINE
    )
    lines = [
        "# Settings",
        "",
        "Made from `settings.py` by `make docs`.",
        "",
        "| variable | what | default |",
    ]
    lines.append("|---|---|---|")
    for _, given, name, told in rows:
        default = {
            "1 << 30": "1GB",
            "8 << 20": "8MB",
            "Rate()": "",
            "Rate(10, 1)": "10/1",
            "Rate(200, 1)": "200/1",
        }.get(given, given)
        shown = "" if default.startswith("field") or default in ('""', "()") else f"`{default}`"
        lines.append(f"| `{name}` | {told} | {shown} |")
    lines += [
        "", "`HEADRACE_URL` and `HEADRACE_ADMIN_KEY` (or `HEADRACE_KEY`) tell the commands that ask a",
        "server which one. `HEADRACE_DEBUG=1` shows tracebacks.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    stale = []
    for name, text in (("cli.md", cli()), ("settings.md", settings())):
        path = HERE / name
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(text)
    if stale and "--check" in sys.argv:
        sys.exit(f"stale: {', '.join(stale)}; run `make docs`")


if __name__ == "__main__":
    main()
