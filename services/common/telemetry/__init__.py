"""Access log, log writer and metrics."""
