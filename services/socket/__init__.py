"""Keeps connections. Their sids are shared over Redis, so any service pushes to any browser, on whichever replica it is."""
