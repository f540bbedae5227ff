"""Redis, single, by Sentinel or a Cluster: key-value records, conversation turns, optimistic transactions."""
