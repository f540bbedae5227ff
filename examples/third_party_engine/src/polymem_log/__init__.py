"""Key-value records in one append-only file: an engine that lives outside Polymem."""
