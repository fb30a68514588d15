"""The Celonis dialect: data jobs in pools, their executions and logs."""
