"""Work over whole data sets: reading conversations, copying, measuring."""
