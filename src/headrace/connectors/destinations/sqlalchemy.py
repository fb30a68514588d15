"""Tables in any other database that SQLAlchemy has a driver for."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Final

import msgspec
import sqlalchemy as sa

from headrace.connectors.families import alchemy, sql
from headrace.connectors.families.portable import Dialect, PortableDestination
from headrace.contract.columns import Column, quoted
from headrace.contract.destination import DestinationMaker
from headrace.contract.spec import Config, Spec
from headrace.contract.tools import Tools
from headrace.domain.secret import Secret
from headrace.domain.task import OF_TASKS

IN_TRANSACTION: Final = frozenset({"postgresql", "mssql"})  # tables may be made and changed there

WIDENS: Final = {"postgresql": "type", "mssql": ""}  # what stands before a column's new type


class SqlalchemyConfig(Config, frozen=True, kw_only=True):
    """What a user fills in for any database."""

    url: Annotated[
        Secret,
        msgspec.Meta(title="URL", description="dialect+driver://user:password@host/database"),
    ]
    table: str | None = None


class _Any(Dialect):
    def __init__(self, kind: str) -> None:
        self.schema_in_transaction = kind in IN_TRANSACTION  # type: ignore[misc]  # of this one
        self.grammar = sql.TRANSACT if kind == "mssql" else sql.STANDARD
        self._kind = kind

    def widen(self, con: sa.Connection, table: str, columns: Sequence[Column]) -> None:
        if self._kind not in WIDENS:
            super().widen(con, table, columns)
        for column in columns:
            type_ = self.type_of(column.type, of_key=False).compile(con.dialect)
            con.exec_driver_sql(
                f"alter table {quoted(table)} alter column {quoted(column.name)}"
                f" {WIDENS[self._kind]} {type_}"
            )

    def lock(self, con: sa.Connection, table: str) -> None:
        if self._kind == "postgresql":
            con.exec_driver_sql(f"lock table {quoted(table)} in share row exclusive mode")


class Sqlalchemy(PortableDestination):
    """One database."""

    spec: ClassVar[Spec] = Spec(
        name="sqlalchemy", title="Database (SQLAlchemy)", config=SqlalchemyConfig,
        actions=OF_TASKS, refuses_nul=True, deletes=True,
    )  # fmt: skip

    def __init__(self, config: SqlalchemyConfig, tools: Tools) -> None:
        super().__init__(config, tools)
        self._engine = alchemy.engine_of(config.url, tools)
        self.dialect = _Any(self._engine.dialect.name)


CONNECTOR: Final[DestinationMaker] = Sqlalchemy  # type: ignore[assignment]  # narrower config
