"""The service that reads files."""
