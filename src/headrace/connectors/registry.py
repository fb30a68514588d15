"""Finding connectors by name: a connector's name is its module's name."""

import importlib
import pkgutil
from functools import cache

from headrace.connectors import destinations, sources
from headrace.contract.destination import DestinationMaker
from headrace.contract.source import SourceMaker
from headrace.domain.errors import Invalid


@cache
def source_names() -> tuple[str, ...]:
    return tuple(module.name for module in pkgutil.iter_modules(sources.__path__))


@cache
def destination_names() -> tuple[str, ...]:
    return tuple(module.name for module in pkgutil.iter_modules(destinations.__path__))


def source(name: str) -> SourceMaker:
    """Return a source's class. Raises Invalid for a name that no connector has."""
    if name not in source_names():
        raise Invalid(
            f"There is no source connector {name!r}.",
            hint=f"There are: {', '.join(source_names())}.",
            field="type",
        )
    module = importlib.import_module(f"{sources.__name__}.{name}")
    return module.CONNECTOR  # type: ignore[no-any-return]  # each module declares its type


def destination(name: str) -> DestinationMaker:
    """Return a destination's class. Raises Invalid for a name that no connector has."""
    if name not in destination_names():
        raise Invalid(
            f"There is no destination connector {name!r}.",
            hint=f"There are: {', '.join(destination_names())}.",
            field="type",
        )
    module = importlib.import_module(f"{destinations.__name__}.{name}")
    return module.CONNECTOR  # type: ignore[no-any-return]  # each module declares its type
