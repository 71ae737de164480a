"""HTTP endpoints of the live service."""
