"""What people type as SRC and DEST: paths, URLs and database URIs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from headrace.connectors import registry
from headrace.contract.spec import from_text
from headrace.domain.errors import Invalid

Ends = tuple[str, dict[str, Any]]  # connector's name and its settings
_SOURCES = {
    "csv": "csv", "tsv": "csv", "txt": "csv", "json": "json", "jsonl": "json", "ndjson": "json",
    "parquet": "parquet", "xlsx": "excel", "xlsm": "excel", "xlsb": "excel", "xls": "excel",
    "ods": "excel", "avro": "avro",
}  # fmt: skip
_DATABASES = {
    "postgresql": "postgresql", "postgres": "postgresql", "mysql": "mysql", "mariadb": "mysql",
    "sqlite": "sqlite", "duckdb": "duckdb",
}  # fmt: skip
_PACKED = ("gz", "zst", "zstd", "zip")


def source_of(
    text: str, kind: str | None, options: Mapping[str, Any], pairs: Sequence[str]
) -> Ends:
    """Return the source that `text` names; `kind` overrides what its ending says.

    `options` and NAME=VALUE `pairs` are settings of it that were given beside.
    """
    kind, settings = _named_by(text, kind)
    settings |= {**options, **_set_by(kind, pairs)}
    if "table" in settings and not (settings["table"] or "query" in settings):
        raise Invalid(
            "Which table? The URL names none.",
            hint="Put #TABLE, or #SCHEMA.TABLE, behind the URL, or --set query='select …'.",
            field="SRC",
        )  # fmt: skip
    return kind, settings


def _named_by(text: str, kind: str | None) -> Ends:
    if (scheme := urlsplit(text).scheme) in _DATABASES or _is_database(scheme):
        return _table_of(text)
    path = urlsplit(text).path if "://" in text else text
    endings = [part.lower() for part in Path(path).name.split(".")[1:]]
    while endings and endings[-1] in _PACKED:
        endings.pop()
    ending = endings[-1] if endings else ""
    found = kind or _SOURCES.get(ending)
    if found is None:
        raise Invalid(
            f"{_shown(text)} does not tell its format.",
            hint="Name it with --format csv, json, parquet, avro or excel.",
            field="SRC",
        )
    settings: dict[str, Any] = {"url": text}
    if found == "csv" and ending == "tsv":
        settings["delimiter"] = "\t"
    return found, settings


def _is_database(scheme: str) -> bool:
    """Tell whether a URL is one of SQLAlchemy's: mssql+pymssql://…."""
    return "+" in scheme


def _table_of(text: str) -> Ends:
    """Return the table that stands behind the # of a database's URL."""
    url, _, name = text.partition("#")
    parts = urlsplit(url)
    kind = _DATABASES.get(parts.scheme, "sqlalchemy")
    if kind == "sqlalchemy":
        schema, _, table = unquote(name).rpartition(".")
        return kind, {"url": url, "table": table, "schema": schema or None}
    if kind == "postgresql":
        schema, _, table = unquote(name).rpartition(".")
        return kind, {"url": url, "table": table, "schema": schema or "public"}
    if kind == "mysql":
        return kind, {"url": url, "table": unquote(name)}
    # sqlite:///file is relative, sqlite:////file absolute, as SQLAlchemy has it.
    return kind, {"path": unquote(parts.path.removeprefix("/")), "table": unquote(name)}


def _shown(text: str) -> str:
    """Return a URL without its password."""
    parts = urlsplit(text)
    return text.replace(f":{parts.password}@", ":…@", 1) if parts.password else text


def _set_by(kind: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a source of a kind that NAME=VALUE pairs give."""
    form = registry.source(kind).spec.config
    found = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not (name and sign):
            raise Invalid("--set wants NAME=VALUE.", field="--set")
        found[name] = from_text(form, name, value)
    return found


def destination_of(text: str, table: str | None) -> Ends:
    """Return the destination that `text` names."""
    whole = urlsplit(text).scheme
    scheme = whole.partition("+")[0]
    if _is_database(whole) and scheme not in _DATABASES:
        return "sqlalchemy", {"url": text, "table": table}
    if scheme in ("postgresql", "postgres"):
        return "postgresql", {"url": text, "table": table}
    if scheme == "duckdb":
        # duckdb:///file is relative, duckdb:////file absolute, as SQLAlchemy has it.
        return "duckdb", {"path": text.partition("://")[2].removeprefix("/"), "table": table}
    if scheme in ("mysql", "mariadb"):
        return "mysql", {"url": text, "table": table}
    if scheme == "sqlite":
        return "sqlite", {"path": text.partition("://")[2].removeprefix("/"), "table": table}
    path = text.removeprefix("file://")
    if "://" in path:
        raise Invalid(
            f"Nothing can be loaded into {scheme}:// yet.",
            hint="Use postgresql://…, mysql://…, sqlite:///FILE, FILE.duckdb, or a folder for"
            " Parquet.",
            field="DEST",
        )
    if path.endswith((".duckdb", ".db", ".ddb")):
        return "duckdb", {"path": path, "table": table}
    if path.endswith((".sqlite", ".sqlite3")):
        return "sqlite", {"path": path, "table": table}
    if path.endswith(("/", ".parquet")) or Path(path).is_dir():
        return "parquet", {"path": path, "table": table}
    raise Invalid(
        f"{text} does not tell what kind of destination it is.",
        hint="Use FILE.duckdb, FILE.sqlite, postgresql://USER:PASSWORD@HOST/DATABASE, mysql://…,"
        " or FOLDER/ for Parquet.",
        field="DEST",
    )
