"""Sizes in bytes that tests share. They state the stored format, so they do not come from the product's code."""

MIB = 1024 * 1024
CHUNK_SIZE = 255 * 1024
"""Of a GridFS chunk, and of a block that the stream service reads."""
BATCH_SIZE = 8 * CHUNK_SIZE
"""What the upload service writes to MongoDB with one command."""
