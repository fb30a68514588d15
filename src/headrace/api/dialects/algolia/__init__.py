"""The Algolia Ingestion API, as far as it drives the main job (contract: page of 2024, spec of 2026)."""
