"""The gateway: a reverse proxy for HTTP and WebSocket. It imports no driver."""
