"""headrace: a self-hosted data-ingestion server whose books always balance."""

__version__ = "0.1.0"
