"""PostgreSQL 16 and later."""
