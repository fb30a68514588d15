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
