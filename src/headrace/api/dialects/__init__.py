"""The dialects: each translates between its vendor's words and the service, and decides nothing."""
