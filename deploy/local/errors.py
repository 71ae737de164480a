"""The errors of the local run. Each becomes one line on stderr; knows nothing of what failed."""


class StackError(Exception):
    """The stack cannot run; the text is one line that says which part and why."""


class StopRequested(Exception):
    """Somebody asked for the end, by Ctrl-C or by signal."""
