"""Everything in this process's memory: the executable specification of every contract."""
