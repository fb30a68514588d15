"""The Amperity dialect: ingest jobs with their counts, and the workflows that ran them."""
