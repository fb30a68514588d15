"""A table, view or query of PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, ClassVar, Final

import msgspec
import psycopg

from headrace.connectors.families import postgres
from headrace.connectors.families.postgres_table import PostgresSnapshot
from headrace.connectors.families.table_source import Snapshot, TableConfig, TableSource
from headrace.contract.source import SourceMaker
from headrace.contract.spec import Spec
from headrace.domain.secret import Secret


class PostgresqlConfig(TableConfig, frozen=True, kw_only=True):
    """What a user fills in for a table of PostgreSQL."""

    url: Annotated[
        Secret, msgspec.Meta(title="URL", description="postgresql://user:password@host/database")
    ]
    schema: Annotated[str, msgspec.Meta(min_length=1, max_length=63)] = "public"


class Postgresql(TableSource):
    """One table, view or query."""

    spec: ClassVar[Spec] = Spec(
        name="postgresql", title="PostgreSQL", config=PostgresqlConfig, ranges=True, deletes=True,
    )  # fmt: skip
    _config: PostgresqlConfig

    @property
    def _name(self) -> str:
        return f"{self._config.schema}.{self._config.table}" if self._config.table else "query"

    @contextmanager
    def _snapshot(self, threads: int) -> Iterator[Snapshot]:
        with postgres.told("source"), self._connected() as con:
            con.execute("set timezone = 'UTC'")
            config = self._config
            yield PostgresSnapshot(
                con, config.schema, config.table, config.query, self._tools, self._connected,
                threads,
            )  # fmt: skip

    @contextmanager
    def _connected(self) -> Iterator[postgres.Connection]:
        """Connect for reading in one snapshot."""
        with postgres.connect(self._config.url, self._tools) as con:
            con.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            con.read_only = True
            yield con


CONNECTOR: Final[SourceMaker] = Postgresql  # type: ignore[assignment]  # its config is narrower
