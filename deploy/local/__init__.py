"""Runs the whole stack as child processes of one supervisor, for a machine without a container engine.

Control flows one way: `__main__` (options) -> `stack` (start, supervise, stop) -> `processes` (one child) -> `die_with_parent`.
`databases` and `programs` define what is started. The services are named by their modules and environment variables only.
"""
