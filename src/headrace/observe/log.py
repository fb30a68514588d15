"""The log: one JSON object a line on stderr, or coloured text on a terminal."""

import logging
import sys

# structlog would import rich for its tracebacks: a quarter of a second at every start.
_hidden = "rich" not in sys.modules
if _hidden:
    sys.modules["rich"] = None  # type: ignore[assignment]  # an import of it fails, which it expects
import structlog  # noqa: E402

if _hidden:
    del sys.modules["rich"]


def set_up(level: str = "info", *, json: bool | None = None) -> None:
    """Configure structlog for this process; safe to repeat."""
    as_json = not sys.stderr.isatty() if json is None else json
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def logger() -> structlog.typing.FilteringBoundLogger:
    """Return the logger."""
    return structlog.get_logger()  # type: ignore[no-any-return]  # structlog gives a lazy proxy
