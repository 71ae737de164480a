"""The one front: it routes, and knows nothing of media, MongoDB or Redis."""
