"""Bringing the store to this version's tables (Alembic), safely when several servers start."""

from pathlib import Path
from typing import Final

import sqlalchemy as sa

from headrace.domain.errors import Misconfigured
from headrace.store.database import CLAIM_LOCK, Database
from headrace.store.tables import metadata

FOLDER: Final = Path(__file__).parent / "migrations"
NEWEST: Final = "0001"  # the newest revision there is; a store that has it needs no Alembic


def migrate(database: Database) -> None:
    """Bring the store up to date. Safe to repeat.

    Raises Misconfigured for a newer store, and for a database that others use.
    """
    if _is_current(database):
        return  # Alembic takes an eighth of a second to import
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    script = ScriptDirectory.from_config(config)
    with database.engine.begin() as con:
        if not database.is_sqlite:
            con.execute(sa.text(f"select pg_advisory_xact_lock({CLAIM_LOCK + 1})"))
        current = MigrationContext.configure(con).get_current_revision()
        if current is not None and current not in {r.revision for r in script.walk_revisions()}:
            raise Misconfigured(
                "This store was made by a newer headrace.",
                hint="Start the version that made it, or a newer one.",
                field="--database",
            )

        if current is None and (theirs := _tables_of(con) & set(metadata.tables)):
            raise Misconfigured(
                f"The database has tables that this store needs, and is no store of headrace:"
                f" {', '.join(sorted(theirs)[:5])}.",
                hint="Give it a database, or a schema (search_path), of its own.",
                field="--database",
            )

        def upgrade(revision: object, _context: object) -> object:
            return script._upgrade_revs("head", revision)  # type: ignore[arg-type]  # noqa: SLF001  # Alembic's own commands do the same

        with EnvironmentContext(config, script) as environment:
            environment.configure(connection=con, target_metadata=metadata, fn=upgrade)
            environment.run_migrations()


def _tables_of(con: sa.Connection) -> set[str]:
    return set(sa.inspect(con).get_table_names())


def _is_current(database: Database) -> bool:
    """Tell whether a store is of this very version."""
    with database.read() as tx:
        if not sa.inspect(tx.con).has_table("alembic_version"):
            return False
        return [
            tuple(row) for row in tx.all(sa.text("select version_num from alembic_version"))
        ] == [(NEWEST,)]
