"""The Lucidum API v2 dialect: data ingestion jobs."""
