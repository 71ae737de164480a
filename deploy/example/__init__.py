"""Files of an example: a service of one's own that pushes from a container."""
