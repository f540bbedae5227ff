"""One folder per database."""
