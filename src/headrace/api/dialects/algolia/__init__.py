"""The Algolia Ingestion API (page of 2024, spec of 2026), as far as it drives the main job."""
