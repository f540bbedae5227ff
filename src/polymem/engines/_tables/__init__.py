"""Key-value records in tables of this process's memory: what the engines share that hold all their data there."""
