"""A table, view or query of MySQL or MariaDB."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, ClassVar, Final

import msgspec

from headrace.connectors.families import mysql
from headrace.connectors.families.mysql_table import MysqlSnapshot
from headrace.connectors.families.table_source import Snapshot, TableConfig, TableSource
from headrace.contract.source import SourceMaker
from headrace.contract.spec import Spec
from headrace.domain.secret import Secret


class MysqlConfig(TableConfig, frozen=True, kw_only=True):
    """What a user fills in for a table of MySQL or MariaDB."""

    url: Annotated[
        Secret,
        msgspec.Meta(
            title="URL",
            description="mysql://user:password@host/database?ssl-mode=verify-identity",
        ),
    ]


class Mysql(TableSource):
    """One table, view or query."""

    spec: ClassVar[Spec] = Spec(
        name="mysql", title="MySQL, MariaDB", config=MysqlConfig, ranges=True, deletes=True,
    )  # fmt: skip
    _config: MysqlConfig

    @contextmanager
    def _snapshot(self, threads: int) -> Iterator[Snapshot]:
        with mysql.told():
            con = mysql.connect(self._config.url, self._tools)
            try:
                for statement in (
                    "set session transaction isolation level repeatable read",
                    "set session time_zone = '+00:00'",
                    f"set session net_write_timeout = {mysql.SILENT_S}",
                    "start transaction with consistent snapshot, read only",
                ):
                    con.query(statement)
                yield MysqlSnapshot(con, self._config.table, self._config.query, self._tools)
            finally:
                con._force_close()  # noqa: SLF001  # the rows that still come are nobody's


CONNECTOR: Final[SourceMaker] = Mysql  # type: ignore[assignment]  # its config is narrower
