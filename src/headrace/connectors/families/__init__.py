"""What several connectors share: files, record texts, SQL."""
