"""Holds the WebSocket connections of browsers and delivers events to them. Sessions are shared over Redis among all replicas."""
