"""Clocks and workers: the dispatcher that claims, and the child processes that work."""
