"""Parquet files by URL, path or glob."""

from typing import ClassVar, Final

from headrace.connectors.families.parquet_files import ParquetConfig, ParquetFiles
from headrace.contract.source import SourceMaker
from headrace.contract.spec import Spec


class Parquet(ParquetFiles):
    """Parquet files."""

    spec: ClassVar[Spec] = Spec(
        name="parquet", title="Parquet files", config=ParquetConfig, ranges=True
    )


CONNECTOR: Final[SourceMaker] = Parquet  # type: ignore[assignment]  # its config is narrower
