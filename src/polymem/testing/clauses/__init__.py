"""Every clause, by contract: each module here files its own when it is imported."""
