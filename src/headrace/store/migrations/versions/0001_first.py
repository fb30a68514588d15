"""The first tables."""

from alembic import op

from headrace.store.tables import metadata

revision = "0001"
down_revision = None


def upgrade() -> None:
    # Until the first release the first revision is the tables as they are declared.
    metadata.create_all(op.get_bind())
    for name in ("fence", "push"):
        op.execute(f"insert into counter (name, value) values ('{name}', 0)")
    if op.get_bind().dialect.name == "postgresql":
        # What changes all the time is cleaned, and counted anew, long before a fifth of it has.
        for name in ("run", "counter", "inbox", "event_count", "run_count", "execution"):
            op.execute(
                f"alter table {name} set (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02,"
                " autovacuum_analyze_scale_factor = 0.02)"
            )
