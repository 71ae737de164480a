"""What media files say of themselves: containers read without I/O, with guards against hostile bytes."""
