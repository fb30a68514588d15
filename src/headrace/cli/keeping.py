"""`headrace backup`, `restore` and `migrate`: keeping the store."""

import sys
from pathlib import Path

from headrace.cli import show
from headrace.store.backup import backup as write
from headrace.store.backup import restore as read


def backup(data_dir: Path, file: Path, *, as_json: bool) -> None:
    """Write a backup, with a bar where somebody looks."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=show.console(),
        transient=True, disable=not sys.stderr.isatty(),
    )  # fmt: skip
    with bar:
        line = bar.add_task("looking", total=None)
        made = write(
            data_dir, file,
            lambda what, done, total: bar.update(
                line, description=what, completed=done, total=total
            ),
        )  # fmt: skip
    if as_json:
        show.print_json({"file": str(file), "bytes": made.bytes, "leftOut": list(made.left_out)})
        return
    out = show.console()
    out.print(f"{file}: {made.files} files, {made.bytes / 2**20:,.1f} MiB; only you can read it.")
    if (data_dir / "master.key").exists():
        out.print("It holds the master key: who has it can open every secret in it.")
    if made.left_out:
        names = " and ".join(f"{data_dir / name}" for name in made.left_out)
        out.print(f"Not in it: {names}. Copy what is there after this, not before.")


def restore(file: Path, data_dir: Path, *, as_json: bool) -> None:
    """Make a data folder of a backup."""
    from headrace.store.migrate import NEWEST

    made = read(file, data_dir, NEWEST)
    if as_json:
        show.print_json({"dataDir": str(data_dir), "bytes": made.bytes})
        return
    show.console().print(
        f"{data_dir}: {made.files} files. Start it: headrace serve --data-dir {data_dir}"
    )


def migrate(database: str, *, as_json: bool) -> None:
    """Bring a store up to this version's tables."""
    from headrace.store.database import Database
    from headrace.store.migrate import NEWEST
    from headrace.store.migrate import migrate as bring

    opened = Database(database)
    try:
        bring(opened)
    finally:
        opened.close()
    if as_json:
        show.print_json({"revision": NEWEST})
    else:
        show.console().print(f"The store has the tables of this version (revision {NEWEST}).")
