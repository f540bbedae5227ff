"""One human-readable JSON file: small data that people want to read and to keep under version control."""
