"""What storage can do, never how: one file per contract, each with its driver interface and its API class."""
