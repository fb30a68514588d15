"""A table, view or query on a connection of DuckDB, read in one transaction."""

from collections.abc import Sequence
from pathlib import Path

import duckdb

from headrace.connectors.families.table_source import moment_of, number_of, selected
from headrace.contract.canonical import DUCKDB
from headrace.contract.chunks import VECTOR_ROWS
from headrace.contract.columns import decimal_of, literal, ours_of, quoted, text_of
from headrace.contract.side import CursorKind, TableColumn
from headrace.contract.source import Stream
from headrace.contract.tools import Tools
from headrace.domain.errors import Refused


class DuckdbSnapshot:
    """One connection in a transaction."""

    def __init__(
        self, con: duckdb.DuckDBPyConnection, relation: str, name: str, tools: Tools
    ) -> None:
        """`relation`: SQL of a table, or of a query in brackets; `name`: what people call it."""
        self.relation = relation
        self.dialect = DUCKDB
        self._con = con
        self._name = name
        self._tools = tools

    def quoted(self, name: str) -> str:
        return quoted(name)

    def columns(self) -> Sequence[TableColumn]:
        try:
            found = self._con.execute(f"describe select * from {self.relation} as t").fetchall()
        except duckdb.CatalogException as error:
            raise Refused(
                f"There is no table {self._name}: {str(error).partition(chr(10))[0][:200]}",
                hint="Check schema and table.", field="input.table",
            ) from error  # fmt: skip
        columns = []
        for name, type_, *_ in found:
            column = f"t.{quoted(name)}"
            ours, _ = ours_of(type_, column)
            columns.append(
                TableColumn(
                    name=name, type=ours, sql=text_of(type_, column), native=type_,
                    cursor=_kind(ours),
                )
            )  # fmt: skip
        return columns

    def streams(self) -> Sequence[Stream]:
        rows = self._con.execute(
            "select t.table_name, t.schema_name, 'table', coalesce(any_value("
            "c.constraint_column_names), []), any_value(t.estimated_size) from duckdb_tables() as t"
            " left join duckdb_constraints() as c on c.table_oid = t.table_oid"
            " and c.constraint_type = 'PRIMARY KEY' where not t.internal group by all"
            " union all select view_name, schema_name, 'view', [], null from duckdb_views()"
            " where not internal order by 2, 1"
        ).fetchall()
        return [
            Stream(name=name, schema=schema, kind=kind, key=key, rows=count)
            for name, schema, kind, key, count in rows
            if not name.startswith("_headrace_")
        ]

    def copy(
        self, columns: Sequence[TableColumn], conditions: Sequence[str], path: Path, *, whole: bool
    ) -> int:
        return self.pour(selected(self.relation, columns, conditions, quoted), path)

    def pour(self, query: str, path: Path) -> int:
        import pyarrow.csv as arrow_csv

        reader = self._con.execute(query).to_arrow_reader(VECTOR_ROWS)
        plain = arrow_csv.WriteOptions(include_header=False)
        rows = 0
        with (
            path.open("ab") as out,
            arrow_csv.CSVWriter(out, reader.schema, write_options=plain) as to,
        ):
            for batch in reader:
                to.write_batch(batch)
                rows += batch.num_rows
                self._tools.told(f"reading {self._name}", done=rows)
        return rows

    def value(self, query: str) -> str | None:
        found = self._con.execute(f"select v.v::varchar from ({query}) as v(v)").fetchone()
        return None if found is None else found[0]

    def literal(self, column: TableColumn, text: str) -> str:
        if column.cursor == "number":
            return f"{number_of(column, text):f}"
        moment = moment_of(column, text)
        if column.cursor == "day":
            return f"date '{moment.date()}'"
        return f"{literal(moment.isoformat(' '))}::{column.native}"

    def before(self, column: TableColumn, text: str, overlap: int) -> str:
        if not overlap:
            return self.literal(column, text)
        if column.cursor == "number":
            return f"{number_of(column, text) - overlap:f}"
        if column.cursor == "day":
            return f"({self.literal(column, text)} - {-(-overlap // 86_400)})"
        return f"({self.literal(column, text)} - interval '{overlap} seconds')"


def _kind(ours: str) -> CursorKind | None:
    if ours == "integer" or decimal_of(ours):
        return "number"
    kinds: dict[str, CursorKind] = {"date": "day", "timestamp": "moment"}
    return kinds.get(ours)
