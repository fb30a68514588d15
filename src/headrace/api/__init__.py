"""The HTTP doors: one app, one router a dialect."""
