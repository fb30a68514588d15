"""Logs, and the points where a test may break a process on purpose."""
