"""One transaction at a time, on a fork of the touched tables; committing swaps the state."""

from polymem.engines._tables.transactions import TableTransactions


class MemoryTransactions(TableTransactions):
    """Transactions over every contract; a commit is the swap and nothing else."""
