"""Books and the receipt: the counts of a run, and the proof that they balance.

Invariant 2: read + expanded = inserted + updated + unchanged + deleted + rejected + filtered.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """Counts of rows. `replaced_out` (rows that a replace dropped) stands outside the equation."""

    read: int = 0
    expanded: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    rejected: int = 0
    filtered: int = 0
    replaced_out: int = 0
    duplicates: int = 0  # of the rejected: rows with the key of a later row; never a failure

    @property
    def imbalance(self) -> int:
        """Rows in less rows accounted for; zero when the books balance."""
        out = self.inserted + self.updated + self.unchanged + self.deleted
        return self.read + self.expanded - out - self.rejected - self.filtered

    @property
    def failures(self) -> int:
        """Rejected rows that count towards the failure threshold."""
        return self.rejected - self.duplicates

    def __add__(self, other: Self) -> Self:
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return replace(self, **sums)

    def as_dict(self) -> dict[str, int]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def total(cls, many: Iterable[Self]) -> Self:
        result = cls()
        for one in many:
            result = result + one
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class FileBooks:
    """What happened to the rows of one file of one table. `bytes` as they were read."""

    name: str
    table: str
    bytes: int
    counted: str  # "counted": read independently of the load; "derived": it could not be
    books: Books
    sha256: str = ""  # of the file as it came
    version: str = ""  # of the file as it was read: a change at its source changes it


@dataclass(frozen=True, slots=True, kw_only=True)
class TableBooks:
    """What happened to one table; `rows_after` is the destination's own count of it."""

    name: str
    books: Books
    rows_after: int | None
    digest: str = ""  # of what landed, where the destination tells one


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The signed-off counts of a finished run."""

    tables: tuple[TableBooks, ...]
    files: tuple[FileBooks, ...]
    rules: Mapping[str, int] = field(default_factory=dict)  # rejected rows by rule
    passed: Mapping[str, str] = field(default_factory=dict)  # versions of files passed over
    verification: Mapping[str, Any] | None = None  # of a run that compared: Verification.as_dict

    @property
    def books(self) -> Books:
        return Books.total(t.books for t in self.tables)

    def with_more(self, more: "Receipt") -> "Receipt":
        """Return the sum of two commits to the same tables."""
        tables = {table.name: table for table in self.tables}
        for table in more.tables:
            old = tables.get(table.name)
            books = old.books + table.books if old else table.books
            tables[table.name] = replace(table, books=books)
        files = {(file.name, file.table): file for file in self.files}
        for file in more.files:
            known = files.get((file.name, file.table))
            files[file.name, file.table] = (
                replace(file, bytes=known.bytes + file.bytes, books=known.books + file.books)
                if known
                else file
            )
        rules = dict(self.rules)
        for rule, rows in more.rules.items():
            rules[rule] = rules.get(rule, 0) + rows
        return Receipt(tables=tuple(tables.values()), files=tuple(files.values()), rules=rules)

    def quarrel(self) -> str | None:
        """Return why the books do not balance, or None.

        Judged per table, per file, and per table against the sum of its files.
        """
        parts: tuple[TableBooks | FileBooks, ...] = (*self.tables, *self.files)
        for part in parts:
            if part.books.imbalance:
                return f"{part.name}: {part.books.imbalance:+d} rows are not accounted for"
        for table in self.tables:
            summed = Books.total(f.books for f in self.files if f.table == table.name)
            for name in ("read", "rejected"):
                if getattr(summed, name) != getattr(table.books, name):
                    return f"{table.name}: its files and its books differ in {name}"
        return None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON and the store."""
        return {
            "books": self.books.as_dict(),
            "balanced": self.quarrel() is None,
            "tables": [
                {
                    "name": t.name,
                    "rowsAfter": t.rows_after,
                    **({"digest": t.digest} if t.digest else {}),
                    **t.books.as_dict(),
                }
                for t in self.tables
            ],
            "files": [
                {
                    "name": f.name,
                    "table": f.table,
                    "bytes": f.bytes,
                    "read_is": f.counted,
                    **({"sha256": f.sha256} if f.sha256 else {}),
                    **({"version": f.version} if f.version else {}),
                    **f.books.as_dict(),
                }
                for f in self.files
            ],
            "rules": dict(self.rules),
            **({"passed": dict(self.passed)} if self.passed else {}),
            **({"verification": dict(self.verification)} if self.verification else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Undo `as_dict`."""

        def books(row: Mapping[str, Any]) -> Books:
            return Books(**{f.name: row[f.name] for f in fields(Books)})

        return cls(
            tables=tuple(
                TableBooks(
                    name=t["name"],
                    rows_after=t["rowsAfter"],
                    books=books(t),
                    digest=t.get("digest", ""),
                )
                for t in data["tables"]
            ),
            files=tuple(
                FileBooks(
                    name=f["name"],
                    table=f["table"],
                    bytes=f["bytes"],
                    counted=f["read_is"],
                    books=books(f),
                    sha256=f.get("sha256", ""),
                    version=f.get("version", ""),
                )
                for f in data["files"]
            ),
            rules=dict(data["rules"]),
            passed=dict(data.get("passed", {})),
            verification=data.get("verification"),
        )
