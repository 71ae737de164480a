"""What the client does, without I/O: each operation is a generator that yields effects and receives their results."""
