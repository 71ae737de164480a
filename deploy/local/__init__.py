"""The whole stack as child processes of one runner, for a machine without a container engine.

One way through: `__main__` (what was asked) -> `stack` (start, watch, stop) -> `processes` (one child) -> `leash`.
What is started is said in `servers` and `replicas`. Knows the services by their module names and variables only.
"""
