"""Live video as values: fragments, segments, epochs, the file's header and the playlist. Pure."""
