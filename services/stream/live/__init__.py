"""Lists, initialisation segments and segments of live streams."""
