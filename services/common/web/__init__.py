"""The web layer of every service: application factory, request middleware, problem responses."""
