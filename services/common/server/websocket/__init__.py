"""WebSocket connections (RFC 6455) on the HTTP server."""
