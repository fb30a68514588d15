"""How rows move: fitted, staged, counted, committed. Knows no connector and no store."""
