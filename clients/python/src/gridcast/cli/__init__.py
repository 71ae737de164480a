"""The command line `gridcast`: `main` is its entry point."""
