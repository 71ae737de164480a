"""The service that writes files."""
