"""The native API under /v1: everything, in our own words."""
