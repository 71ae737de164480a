"""Concurrency primitives: cancellation, single-flight, batcher, token bucket, descriptor limit."""
