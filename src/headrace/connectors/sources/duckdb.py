"""A table, view or query of a DuckDB file."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, ClassVar, Final

import duckdb
import msgspec

from headrace.connectors.families import files
from headrace.connectors.families.duckdb_file import opened
from headrace.connectors.families.duckdb_table import DuckdbSnapshot
from headrace.connectors.families.table_source import Snapshot, TableConfig, TableSource
from headrace.contract.columns import quoted
from headrace.contract.source import SourceMaker
from headrace.contract.spec import Spec
from headrace.domain.errors import Refused


class DuckdbConfig(TableConfig, frozen=True, kw_only=True):
    """What a user fills in for a table of a DuckDB file."""

    path: Annotated[str, msgspec.Meta(min_length=1, title="File")]
    schema: Annotated[str, msgspec.Meta(min_length=1)] = "main"


class Duckdb(TableSource):
    """One table, view or query."""

    spec: ClassVar[Spec] = Spec(
        name="duckdb", title="DuckDB file", config=DuckdbConfig, ranges=True, deletes=True,
    )  # fmt: skip
    _config: DuckdbConfig

    @contextmanager
    def _snapshot(self, threads: int) -> Iterator[Snapshot]:
        path = files.one_file(self._config.path, self._tools)
        with opened(path, self._tools, read_only=True) as con:
            try:
                con.execute("set timezone = 'UTC'")
                # A query and a view are their author's; the files of this machine are not.
                con.execute("set enable_external_access = false")
                con.execute("set lock_configuration = true")
                con.execute("begin transaction")
                config = self._config
                table = f"{quoted(config.schema)}.{quoted(config.table)}"
                relation = f"({config.query})" if config.query else table
                yield DuckdbSnapshot(con, relation, self._name, self._tools)
            except duckdb.Error as error:
                line = str(error).partition("\n")[0][:300]
                raise Refused(f"DuckDB refused: {line}", field="input") from error


CONNECTOR: Final[SourceMaker] = Duckdb  # type: ignore[assignment]  # its config is narrower
