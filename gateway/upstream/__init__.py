"""Upstreams: pools and load balancing, connections, discovery, health checks."""
