"""The control store: SQLAlchemy Core on SQLite and PostgreSQL; one module a noun."""
