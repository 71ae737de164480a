"""The WebSocket tunnel: handshake and relay."""
