"""Loads into any database that SQLAlchemy speaks: stage, apply in one transaction, count there.

What is quick in one database and unknown in another stays in its own connector: how rows are fed,
and whether a table can be put in another's place by a rename.
"""

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

import sqlalchemy as sa

from headrace.connectors.families import sql
from headrace.connectors.families.paging import page_of
from headrace.contract.chunks import chunks
from headrace.contract.columns import ATTRIBUTES, FILE, Column, decimal_of, literal, quoted
from headrace.contract.destination import NOTE_DAYS, Counts, Load, Page, Rows, Target
from headrace.contract.spec import Config, Spec
from headrace.contract.tools import Tools
from headrace.domain.errors import LostClaim, Misconfigured, NotFound, Refused, Unavailable
from headrace.domain.task import KEYED, Action
from headrace.observe import faults

ROWS_AT_ONCE: Final = 5_000
KEY_CHARACTERS: Final = 255  # of a text in a key where a database wants to know
TOKEN_CHARACTERS: Final = 512
SCOPE_CHARACTERS: Final = 255
NAME_MAX: Final = 63
INDEX: Final = "_headrace_i"  # how the names of our own indexes begin
VERBATIM: Final = {"no_parameters": True}  # a percent sign in a statement is what it is


class Dialect:
    """What one kind of database does in its own way. This one does what most can."""

    grammar: sql.Grammar = sql.STANDARD
    schema_in_transaction: ClassVar[bool] = False  # tables are made and changed in transactions
    renames: ClassVar[bool] = False  # a stage may take a table's place, in a transaction
    renames_outside: ClassVar[bool] = False  # it may, but in no transaction
    long_keys: ClassVar[bool] = False  # a text of any length can be a key
    json_is_text: ClassVar[bool] = True

    def type_of(self, type_: str, *, of_key: bool) -> sa.types.TypeEngine[Any]:
        """Return the type of a column. Raises Misconfigured."""
        if found := decimal_of(type_):
            return sa.Numeric(*found)
        if type_ == "string" and of_key and not self.long_keys:
            return sa.String(KEY_CHARACTERS)
        types: Mapping[str, type[sa.types.TypeEngine[Any]]] = {
            "string": sa.Text, "integer": sa.BigInteger, "float": sa.Double,
            "boolean": sa.Boolean, "json": sa.Text, "date": sa.Date, "time": sa.Time,
            "timestamp": sa.DateTime,
        }  # fmt: skip
        if type_ not in types:
            raise Misconfigured(f"There is no column type for {type_}.", hint="Map it to json.")
        return types[type_]()

    def text_type(self) -> sa.types.TypeEngine[Any]:
        """Return the type of a text of any length."""
        return sa.Text()

    def name_type(self, length: int) -> sa.types.TypeEngine[Any]:
        """Return the type of a short text that is told apart exactly."""
        return sa.String(length)

    def columns(self, con: sa.Connection, table: str) -> list[Column]:
        """Return the columns of a table that is there, in our types."""
        return [
            Column(found["name"], self.ours(found["type"]))
            for found in sa.inspect(con).get_columns(table)
        ]

    def ours(self, type_: sa.types.TypeEngine[Any]) -> str:
        """Return our type of a column's."""
        if isinstance(type_, sa.Numeric) and not isinstance(type_, sa.Float):
            return f"decimal({type_.precision},{type_.scale or 0})" if type_.precision else "string"
        for theirs, ours in (
            (sa.Boolean, "boolean"), (sa.Integer, "integer"), (sa.Float, "float"),
            (sa.DateTime, "timestamp"), (sa.Date, "date"), (sa.Time, "time"), (sa.JSON, "json"),
            (sa.String, "string"), (sa.Uuid, "string"),
        ):  # fmt: skip
            if isinstance(type_, theirs):
                return ours
        return f"native:{type_}"

    def feed(self, con: sa.Connection, stage: sa.Table, rows: Rows) -> int:
        """Insert rows; return how many the database says they are."""
        names = [column.name for column in stage.columns]
        wanted = ", ".join(map(quoted, names))
        found = rows.con.execute(f"select {wanted} from ({rows.sql})")
        insert, landed = sa.insert(stage), 0
        for some in chunks(found, ROWS_AT_ONCE):
            con.execute(insert, [dict(zip(names, row, strict=True)) for row in some])
            landed += len(some)
            faults.reach("child.half_staged")
        return landed

    def has_attribute(self, name: str) -> str:
        """Return SQL that is true where a staged row carries an attribute."""
        text = f'"{name}"'
        for sign in "!%_":
            text = text.replace(sign, f"!{sign}")
        return f"s.{ATTRIBUTES} like {literal(f'%{text}%')} escape '!'"

    def widen(self, con: sa.Connection, table: str, columns: Sequence[Column]) -> None:
        """Make columns hold more, with the rows that are there. Raises Refused where it cannot."""
        raise Refused(
            f"The column {columns[0].name!r} of {table!r} would have to become"
            f" {columns[0].type}; this database is not asked to do that.",
            hint="Map the column to the table's type, or load with replace.",
            field=f"input.mapping.{columns[0].name}",
        )

    def stays(self, con: sa.Connection, table: str) -> bool:
        """Tell whether a rename would lose something that hangs on the table."""
        found = sa.inspect(con)
        return bool(
            [one for one in found.get_indexes(table) if not str(one["name"]).startswith(INDEX)]
            or found.get_foreign_keys(table)
            or found.get_unique_constraints(table)
            or found.get_pk_constraint(table)["constrained_columns"]
        )

    def in_place(self, con: sa.Connection, table: str) -> bool:
        """Tell whether rows must be updated, not deleted: others may refer to them."""
        return bool(sa.inspect(con).get_pk_constraint(table)["constrained_columns"])

    def lock(self, con: sa.Connection, table: str) -> None:
        """Keep others from writing the table until this transaction ends, where that is known."""


def index_of(table: str) -> str:
    """Return the name of our own index of a table's key."""
    return f"{INDEX}{hashlib.sha256(table.encode()).hexdigest()[:16]}"


class PortableDestination:
    """One database. Subclasses name their spec, their engine, and what their driver says."""

    spec: ClassVar[Spec]
    document_rules = None
    dialect: Dialect
    _engine: sa.Engine

    def __init__(self, config: Config, tools: Tools) -> None:
        self._config: Any = config
        self._tools = tools

    def told(self) -> contextlib.AbstractContextManager[None]:
        """Translate what the driver says."""
        return told(self.spec.title)

    def check(self) -> None:
        with self.told(), self._engine.connect() as con:
            con.execute(sa.text("select 1"))

    def table_for(self, wanted: str | None, stream: str) -> str:
        return wanted or self._config.table or stream

    def exclusive(self) -> str | None:
        return None

    def load(self, target: Target) -> Load:
        judge_name(target.table, "table")
        if target.table.startswith(("_headrace_", "__headrace_")):
            raise Misconfigured(f"{target.table!r} cannot be a table's name.", field="table")
        with self.told():
            return PortableLoad(self._engine.connect, self.dialect, target, self.told)

    def read(self, table: str, limit: int, cursor: str | None) -> Page:
        start = int(cursor) if cursor and cursor.isdecimal() else 0
        with self.told(), self._engine.connect() as con:
            there = sa.inspect(con)
            if not there.has_table(table):
                raise NotFound(f"There is no table {table!r} yet.", hint="Has a run succeeded?")
            key = there.get_pk_constraint(table)["constrained_columns"]
            order = [sa.text(quoted(name)) for name in key] or [sa.text("1")]
            # Without types: SQLAlchemy would make decimals of doubles.
            named = sa.select(sa.text("*")).select_from(sa.table(table)).order_by(*order)
            found = con.execute(named.limit(limit + 1).offset(start))
            names = list(found.keys())
            rows = [(start + at, *row) for at, row in enumerate(found.fetchall())]
        return page_of(names, rows, limit)

    def close(self) -> None:
        self._engine.dispose()


def judge_name(name: str, field: str) -> None:
    """Raise Misconfigured for what is no name in some database."""
    if not name or len(name) > NAME_MAX or "\0" in name:
        raise Misconfigured(
            f"{name[:80]!r} cannot be a name here: it has 1 to {NAME_MAX} characters.", field=field
        )


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Translate what SQLAlchemy says of a database."""
    try:
        yield
    except sa.exc.IntegrityError as error:
        raise Refused(
            f"A constraint of the table refuses the rows: {line_of(error)}",
            hint="Look at its keys, its unique indexes and its checks; nothing was published.",
        ) from error
    except sa.exc.OperationalError as error:
        raise Unavailable(f"{what} does not answer: {line_of(error)}", end="destination") from error
    except sa.exc.DBAPIError as error:
        if error.connection_invalidated:
            raise Unavailable(
                f"{what} does not answer: {line_of(error)}", end="destination"
            ) from error
        raise Refused(f"{what} refused: {line_of(error)}") from error
    except sa.exc.SQLAlchemyError as error:
        raise Refused(f"{what}: {str(error).splitlines()[0][:300]}") from error


def line_of(error: sa.exc.DBAPIError) -> str:
    """Return the first line of what a driver says, without the statement."""
    return (str(error.orig).splitlines() or ["nothing"])[0][:300]


class PortableLoad:
    """One load into one table."""

    stages = False
    stage = ""
    temporary = False
    con: Any = None  # of DuckDB: it has none

    def __init__(
        self, connect: Callable[[], sa.Connection], dialect: Dialect, target: Target,
        told: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:  # fmt: skip
        self._connect = connect
        self._con = connect()
        self._dialect = dialect
        self._target = target
        self._told = told
        scope = hashlib.sha256(target.scope.encode()).hexdigest()[:16]
        self._stages = f"_headrace_s{scope}_"
        self._stage = f"{self._stages}{target.fence}"
        self._keys_name = f"_headrace_k{scope}_{target.fence}"
        self._columns: list[Column] = []
        self._internal: list[str] = []
        self._staged: sa.Table | None = None
        self._keys: Sequence[Column] | None = None
        self._landed = 0
        self._by_file: dict[str, int] = {}
        own = sa.MetaData()
        text, name = dialect.text_type(), dialect.name_type
        self._fences = sa.Table(
            sql.FENCES, own,
            sa.Column("scope", name(SCOPE_CHARACTERS), primary_key=True),
            sa.Column("fence", sa.BigInteger, nullable=False, autoincrement=False),
        )  # fmt: skip
        self._commits = sa.Table(
            sql.COMMITS, own,
            sa.Column("token", name(TOKEN_CHARACTERS), primary_key=True),
            sa.Column("fence", sa.BigInteger, nullable=False, autoincrement=False),
            sa.Column("note", text, nullable=False),
            sa.Column("committed_at", sa.DateTime, server_default=sa.func.current_timestamp()),
        )  # fmt: skip

    def begin(self) -> str | None:
        with self._told():
            self._set_up()
            con, target = self._con, self._target
            with con.begin():
                commits = self._commits
                found = con.execute(
                    sa.select(commits.c.note).where(commits.c.token == target.token)
                ).scalar()
                if found is not None:
                    return str(found)
                self._raise_fence()
            self._sweep()
        return None

    def _set_up(self) -> None:
        with self._con.begin():
            there = sa.inspect(self._con)
            missing = [
                one for one in (self._fences, self._commits) if not there.has_table(one.name)
            ]
        for table in missing:
            try:
                with self._con.begin():
                    table.create(self._con)
            except sa.exc.DBAPIError:  # another load has made it just now
                with self._con.begin():
                    if not sa.inspect(self._con).has_table(table.name):
                        raise

    def _raise_fence(self) -> None:
        con, fences, target = self._con, self._fences, self._target
        there = con.execute(
            sa.select(fences.c.fence).where(fences.c.scope == target.scope).with_for_update()
        ).scalar()
        if there is None:
            con.execute(sa.insert(fences).values(scope=target.scope, fence=target.fence))
        else:
            self._judge_fence(there)
            con.execute(
                sa.update(fences).where(fences.c.scope == target.scope).values(fence=target.fence)
            )

    def _judge_fence(self, there: int) -> None:
        if there > self._target.fence:
            raise LostClaim("A newer attempt loads this table.", fence=there)

    def _check_fence(self) -> None:
        fences = self._fences
        there = self._con.execute(
            sa.select(fences.c.fence).where(fences.c.scope == self._target.scope).with_for_update()
        ).scalar()
        self._judge_fence(there or 0)

    def _sweep(self) -> None:
        """Drop what earlier attempts have left; one that is still at work keeps its own."""
        with self._con.begin():
            names = sa.inspect(self._con).get_table_names()
        keys = self._keys_name.rpartition("_")[0] + "_"
        for name in names:
            found = re.fullmatch(
                f"(?:{re.escape(self._stages)}|{re.escape(keys)})(\\d+)(?:_old)?", name
            )
            if found and int(found[1]) <= self._target.fence:
                self._drop(name)

    def _drop(self, name: str) -> None:
        with contextlib.suppress(sa.exc.DBAPIError), self._con.begin():
            self._con.execute(sa.schema.DropTable(sa.Table(name, sa.MetaData()), if_exists=True))

    def columns(self) -> Sequence[Column] | None:
        with self._told(), self._con.begin():
            return self._there() or None

    def _there(self) -> list[Column]:
        if not sa.inspect(self._con).has_table(self._target.table):
            return []
        return self._dialect.columns(self._con, self._target.table)

    def write(self, rows: Rows) -> dict[str, int]:
        with self._told():
            if self._staged is None:
                self._columns = list(rows.columns)
                self._internal = [FILE] * rows.with_file + [ATTRIBUTES] * rows.with_attributes
                self._staged = self._make(self._stage, rows.columns, self._internal)
            with self._con.begin():
                landed = self._dialect.feed(self._con, self._staged, rows)
                total = self._counted(with_file=rows.with_file)
            self._landed += landed
            if sum(total.values()) != self._landed:
                raise Refused("The database counts other rows in the stage than were sent.")
            before, self._by_file = self._by_file, total
            return {file: count - before.get(file, 0) for file, count in total.items()}

    def _counted(self, *, with_file: bool, query: sql.Query | None = None) -> dict[str, int]:
        query, stage = query or self._query, quoted(self._stage)
        if not with_file:
            return {"": query(f"select count(*) from {stage}")[0][0]}
        return dict(query(f"select {FILE}, count(*) from {stage} group by {FILE}"))

    def _make(self, name: str, columns: Sequence[Column], internal: Sequence[str] = ()) -> sa.Table:
        """Make a table; of a keyed load with an index that its key is found by."""
        for column in columns:
            judge_name(column.name, f"column {column.name}")
        key = [one.casefold() for one in self._target.key]
        made = sa.Table(
            name, sa.MetaData(),
            *(
                sa.Column(
                    column.name,
                    self._dialect.type_of(column.type, of_key=column.name.casefold() in key),
                    quote=True,
                )
                for column in columns
            ),
            *(sa.Column(one, self._dialect.text_type()) for one in internal),
            quote=True,
        )  # fmt: skip
        indexed = [made.c[column.name] for column in columns if column.name.casefold() in key]
        if len(indexed) == len(key) > 0:
            sa.Index(index_of(name), *indexed)
        inside = self._con.in_transaction()
        with contextlib.nullcontext() if inside else self._con.begin():
            made.create(self._con)
        return made

    def keep(self, rows: Rows) -> None:
        with self._told():
            self._drop(self._keys_name)
            made = self._make(self._keys_name, rows.columns)
            with self._con.begin():
                self._dialect.feed(self._con, made, rows)
            self._keys = rows.columns

    def commit(self, sign: Callable[[Counts], str]) -> Counts:
        with self._told():
            target = self._target
            if self._dialect.renames_outside and self._replaces_all():
                return self._renamed(sign)
            if not self._dialect.schema_in_transaction:
                with self._con.begin():
                    self._prepare()
            with self._con.begin():
                self._check_fence()
                if self._dialect.schema_in_transaction:
                    self._prepare()
                counts = self._applied()
                if self._keys is not None:
                    counts.removed = sql.remove_others(
                        self._query, quoted(target.table), quoted(self._keys_name), target.key,
                        target.within, self._dialect.grammar, target.among,
                    )  # fmt: skip
                there = sa.inspect(self._con).has_table(target.table)
                counts.rows_after = self._count(target.table) if there else 0
                note = sign(counts)
                if target.tidies:
                    self._tidy()
                self._con.execute(
                    sa.insert(self._commits).values(
                        token=target.token, fence=target.fence, note=note
                    )
                )
            self._drop(self._stage)
            self._drop(self._keys_name)
            self._con.close()
        return counts

    def _replaces_all(self) -> bool:
        """Tell whether the stage may be the table from now on."""
        target = self._target
        if target.action is not Action.REPLACE or target.within or target.keeps_columns:
            return False
        with self._con.begin():
            there = sa.inspect(self._con).has_table(target.table)
            return not there or not self._dialect.stays(self._con, target.table)

    def _renamed(self, sign: Callable[[Counts], str]) -> Counts:
        """Put the stage in the table's place where a rename ends every transaction.

        One connection holds the fence and another renames. Killed in between, the table is new and
        no note tells of it: the next attempt replaces it again, by the same rows.
        """
        target, stage, table = self._target, quoted(self._stage), quoted(self._target.table)
        old = f"{self._stage}_old"
        with self._con.begin(), self._connect() as other:

            def query(text: str) -> list[tuple[Any, ...]]:
                found = other.exec_driver_sql(text, execution_options=VERBATIM)
                rows = [tuple(row) for row in found.fetchall()] if found.returns_rows else []
                other.commit()
                return rows

            self._check_fence()
            exists = sa.inspect(other).has_table(target.table)
            other.commit()
            counts = Counts(inserted=self._counted(with_file=FILE in self._internal, query=query))
            if exists:
                counts.replaced_out = int(query(f"select count(*) from {table}")[0][0])
            counts.rows_after = int(query(f"select count(*) from {stage}")[0][0])
            note = sign(counts)
            for name in self._internal:
                query(f"alter table {stage} drop column {quoted(name)}")
            faults.reach("child.in_commit")
            away = f"{table} to {quoted(old)}, " if exists else ""
            query(f"rename table {away}{stage} to {table}")
            if target.tidies:
                self._tidy()
            self._con.execute(
                sa.insert(self._commits).values(token=target.token, fence=target.fence, note=note)
            )
        self._drop(old)
        self._drop(self._keys_name)
        self._con.close()
        return counts

    def _tidy(self) -> None:
        """Forget the oldest notes: none is asked for after so long."""
        now = self._con.execute(sa.select(sa.func.current_timestamp())).scalar()
        if hasattr(now, "timestamp"):
            import datetime as dt

            old = now.replace(tzinfo=None) - dt.timedelta(days=NOTE_DAYS)  # type: ignore[union-attr]  # a moment
            self._con.execute(sa.delete(self._commits).where(self._commits.c.committed_at < old))

    def _query(self, text: str) -> list[tuple[Any, ...]]:
        found = self._con.exec_driver_sql(text, execution_options=VERBATIM)
        return [tuple(row) for row in found.fetchall()] if found.returns_rows else []

    def _count(self, table: str) -> int:
        return int(self._query(f"select count(*) from {quoted(table)}")[0][0])

    def _prepare(self) -> None:
        """Make the table, or give it what it lacks; no row changes."""
        con, target = self._con, self._target
        there = self._there()
        self._exists = bool(there)
        self._nulls: frozenset[str] = frozenset()
        if not there:
            if target.action in sql.NEED_A_TABLE or self._dialect.renames:
                return
            self._make(target.table, self._columns)
            self._exists = True
            return
        if target.action is Action.DELETE or self._swaps():
            return
        if target.action in KEYED:
            self._index_key()
        types = {column.name.casefold(): column.type for column in there}
        coming = [
            Column(one.name, "string") if one.type == "json" and self._dialect.json_is_text else one
            for one in self._columns
        ]
        found = sql.evolution(target.table, types, coming, self._is_empty)
        self._nulls = found.nulls
        for column in found.add:
            judge_name(column.name, f"column {column.name}")
            type_ = self._dialect.type_of(column.type, of_key=False).compile(con.dialect)
            self._query(f"alter table {quoted(target.table)} add {quoted(column.name)} {type_}")
        if found.widen:
            self._dialect.widen(con, target.table, found.widen)

    def _index_key(self) -> None:
        """Have the table's rows found by their key: each would be looked for in all of them."""
        con, table = self._con, self._target.table
        found = sa.inspect(con)
        key = {name.casefold() for name in self._target.key}
        indexes = [list(one["column_names"]) for one in found.get_indexes(table)]
        indexes.append(list(found.get_pk_constraint(table)["constrained_columns"]))
        if any({str(n).casefold() for n in one[: len(key)]} == key for one in indexes):
            return
        names = ", ".join(map(quoted, self._target.key))
        with contextlib.suppress(sa.exc.DBAPIError), con.begin_nested():
            # Of a text of any length some databases have none.
            self._query(f"create index {index_of(table)} on {quoted(table)} ({names})")

    def _swaps(self) -> bool:
        """Tell whether the stage may take the table's place."""
        target = self._target
        return (
            self._dialect.renames
            and target.action is Action.REPLACE
            and not target.within
            and not target.keeps_columns
            and not self._dialect.stays(self._con, target.table)
        )

    def _is_empty(self, name: str) -> bool:
        return not self._query(f"select count({quoted(name)}) from {quoted(self._stage)}")[0][0]

    def _applied(self) -> Counts:
        target, dialect = self._target, self._dialect
        with_file = FILE in self._internal
        if not self._exists and target.action in sql.NEED_A_TABLE:
            return sql.without_table(target.action, self._counted(with_file=with_file))
        if dialect.renames and (not self._exists or self._swaps()):
            return self._swap(with_file=with_file)
        dialect.lock(self._con, target.table)
        there = [column.name for column in self._there()]
        columns = [column.name for column in self._columns]
        folded = {name.casefold() for name in columns}
        return sql.Apply(
            query=self._query, table=quoted(target.table), stage=quoted(self._stage),
            columns=columns, key=target.key, with_file=with_file, nulls=self._nulls,
            in_place=target.action is Action.SAVE and dialect.in_place(self._con, target.table),
            others=[name for name in there if name.casefold() not in folded],
            has_attribute=dialect.has_attribute if ATTRIBUTES in self._internal else None,
            within=target.within, grammar=dialect.grammar,
        ).run(target.action)  # fmt: skip

    def _swap(self, *, with_file: bool) -> Counts:
        """Put the stage in the table's place: no row is written again."""
        counts = Counts(inserted=self._counted(with_file=with_file))
        for name in self._internal:
            self._query(f"alter table {quoted(self._stage)} drop column {quoted(name)}")
        table = quoted(self._target.table)
        if self._exists:
            counts.replaced_out = self._count(self._target.table)
            self._query(f"drop table {table}")
        faults.reach("child.in_commit")
        self._query(f"alter table {quoted(self._stage)} rename to {table}")
        return counts

    def abort(self) -> None:
        self._columns, self._internal, self._staged = [], [], None
        self._landed, self._by_file, self._keys = 0, {}, None
        if self._con.closed:
            return
        with contextlib.suppress(sa.exc.SQLAlchemyError):
            self._con.rollback()
            self._drop(self._stage)
            self._drop(self._keys_name)

    def close(self) -> None:
        """Let go of the connection."""
        with contextlib.suppress(sa.exc.SQLAlchemyError):
            self._con.close()
