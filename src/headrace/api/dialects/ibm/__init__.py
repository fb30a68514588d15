"""The IBM License Metric Tool dialect: status and start of the data import."""
