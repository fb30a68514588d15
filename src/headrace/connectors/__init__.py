"""How rows come in and go out: one file a source or destination, named after it."""
