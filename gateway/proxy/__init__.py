"""The HTTP reverse proxy: requests, headers, timeouts."""
