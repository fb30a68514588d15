"""A table, view or query of MySQL or MariaDB."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, ClassVar, Final

import msgspec

from headrace.connectors.families import mysql, mysql_table
from headrace.connectors.families.mysql_table import MysqlSnapshot
from headrace.connectors.families.table_source import Snapshot, TableConfig, TableSource
from headrace.contract.source import SourceMaker
from headrace.contract.spec import Spec
from headrace.domain.secret import Secret

CONNECTIONS_MAX: Final = 4
BEGIN: Final = (
    "set session transaction isolation level repeatable read",
    "set session time_zone = '+00:00'",
    f"set session net_write_timeout = {mysql.SILENT_S}",
    "start transaction with consistent snapshot, read only",
)


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
        config = self._config
        with mysql.told(), ExitStack() as stack:

            def connected() -> mysql.Connection:
                con = mysql.connect(config.url, self._tools)
                stack.callback(con._force_close)  # noqa: SLF001  # rows that still come are nobody's
                return con

            con = connected()
            split = ""
            cons = [con]
            if threads > 1 and config.table:
                split = mysql_table.split_by(con, config.table)
            if split:
                cons += [connected() for _ in range(min(threads, CONNECTIONS_MAX) - 1)]
            with mysql_table.held(connected, config.table if split else "") as alike:
                while len(cons) > 1 and not alike:
                    cons.pop()._force_close()  # noqa: SLF001
                for one in cons:
                    for statement in BEGIN:
                        one.query(statement)
            yield MysqlSnapshot(cons, config.table, config.query, self._tools, split)


CONNECTOR: Final[SourceMaker] = Mysql  # type: ignore[assignment]  # its config is narrower
