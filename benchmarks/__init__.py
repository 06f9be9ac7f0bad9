"""One question per file; each prints a table, and JSON with `--json FILE`."""
