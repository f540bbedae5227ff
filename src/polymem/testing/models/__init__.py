"""Random operations per contract, for the comparison with the memory engine; needs Hypothesis."""
