"""Avro files, which become Parquet in the spool: the same types, and read the same way.

Records are counted from the headers of the file's blocks. A column whose type no table has (a union
of several types, a type that holds itself) comes as JSON text.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final
from uuid import UUID

import msgspec

from headrace.connectors.families import files
from headrace.connectors.families.parquet_files import ParquetConfig, ParquetFiles
from headrace.contract.source import File, SourceMaker
from headrace.contract.spec import Spec
from headrace.domain.errors import Refused

if TYPE_CHECKING:
    import pyarrow as pa

Schema = Any  # JSON of an Avro schema: a name, a union, or an object


class AvroConfig(ParquetConfig, frozen=True, kw_only=True):
    """What a user fills in for Avro files."""


class Avro(ParquetFiles):
    """Avro files."""

    spec: ClassVar[Spec] = Spec(name="avro", title="Avro files", config=AvroConfig, ranges=True)

    def _files(self) -> Iterator[File]:
        found = files.gather(self._config, self._tools, text=False)
        yield from files.prepared(found, self._tools, self._read)

    def _read(self, file: File) -> File:
        import fastavro

        files.refuse_html(file)
        try:
            return self._as_parquet(file)
        except (ValueError, EOFError, IndexError, KeyError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise Refused(
                f"{file.name} is not an Avro file that can be read: {str(error)[:200]}.",
                hint="Check the URL.", field="input.url",
            ) from error  # fmt: skip
        except fastavro.schema.SchemaParseException as error:
            raise Refused(f"{file.name}: its schema cannot be read: {error}") from error

    def _as_parquet(self, file: File) -> File:
        import fastavro
        import pyarrow as pa
        import pyarrow.parquet as pq

        target = files.new_spool_file(self._tools, ".parquet")
        with open(file.path, "rb") as source:
            schema = fastavro.block_reader(source).writer_schema
            if not isinstance(schema, dict) or schema.get("type") != "record":
                raise Refused(f"{file.name} does not hold records.", field="input.url")
            source.seek(0)
            names: dict[str, Schema] = {}
            _collect(schema, names)
            types = {one["name"]: _arrow(one["type"], names, ()) for one in schema["fields"]}
            made = pa.schema([(name, type_ or pa.string()) for name, type_ in types.items()])
            count = 0
            with pq.ParquetWriter(target, made) as out:
                for block in fastavro.block_reader(source):
                    rows: list[Any] = list(block)
                    columns = [
                        pa.array(_values([row[name] for row in rows], type_), made.field(name).type)
                        for name, type_ in types.items()
                    ]
                    out.write_batch(pa.record_batch(columns, schema=made))
                    count += block.num_records
                    self._tools.told(f"reading {file.name}", done=source.tell(), total=file.bytes)
        return replace(file, path=str(target), known=count)


def _values(values: list[Any], type_: "pa.DataType | None") -> list[Any]:
    if type_ is not None:
        return [str(value) if isinstance(value, UUID) else value for value in values]
    return [
        None if value is None else msgspec.json.encode(value, enc_hook=str).decode()
        for value in values
    ]


def _collect(schema: Schema, names: dict[str, Schema]) -> None:
    """Find the types that have names."""
    if isinstance(schema, list):
        for one in schema:
            _collect(one, names)
    elif isinstance(schema, dict):
        if "name" in schema and "type" in schema:
            names[schema["name"]] = schema
        for key in ("type", "items", "values"):
            if isinstance(schema.get(key), dict | list):
                _collect(schema[key], names)
        for field in schema.get("fields", ()):
            _collect(field["type"], names)


def _arrow(
    schema: Schema, names: Mapping[str, Schema], inside: tuple[str, ...], *, nested: bool = False
) -> Any:  # fmt: skip
    """Return Arrow's type for one of Avro's; None where it has none."""
    import pyarrow as pa

    if isinstance(schema, list):
        some = [one for one in schema if one != "null"]
        return _arrow(some[0], names, inside, nested=nested) if len(some) == 1 else None
    if isinstance(schema, str):
        schema = names.get(schema, {"type": schema})
    kind, logical = schema["type"], schema.get("logicalType")
    if isinstance(kind, dict | list):
        return _arrow(kind, names, inside, nested=nested)
    if logical == "uuid" and nested:
        return None  # it comes as an object, which only a column of its own can hold
    if logical == "decimal":
        return pa.decimal128(schema["precision"], schema.get("scale", 0))
    if kind == "array":
        items = _arrow(schema["items"], names, inside, nested=True)
        return items and pa.list_(items)
    if kind == "map":
        values = _arrow(schema["values"], names, inside, nested=True)
        return values and pa.map_(pa.string(), values)
    if kind == "record":
        if schema["name"] in inside:
            return None
        inside = (*inside, schema["name"])
        fields = [
            (one["name"], _arrow(one["type"], names, inside, nested=True))
            for one in schema["fields"]
        ]
        return pa.struct(fields) if fields and all(type_ for _, type_ in fields) else None
    plain = {
        "int": pa.int64(), "long": pa.int64(), "float": pa.float32(), "double": pa.float64(),
        "boolean": pa.bool_(), "string": pa.string(), "enum": pa.string(), "bytes": pa.binary(),
        "fixed": pa.binary(), "null": pa.null(),
    }  # fmt: skip
    moments = {
        "date": pa.date32(), "time-millis": pa.time64("us"), "time-micros": pa.time64("us"),
        "timestamp-millis": pa.timestamp("us", "UTC"), "local-timestamp-millis": pa.timestamp("us"),
        "timestamp-micros": pa.timestamp("us", "UTC"), "local-timestamp-micros": pa.timestamp("us"),
    }  # fmt: skip
    return moments.get(logical or "") or plain.get(kind)


CONNECTOR: Final[SourceMaker] = Avro  # type: ignore[assignment]  # its config is narrower
