"""Models that Polymem can call: embeddings."""
