"""What lies between a store and its engine and changes meaning: compression, encryption."""
