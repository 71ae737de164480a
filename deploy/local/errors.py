"""The errors of the local run. `__main__` prints each as one line on stderr."""


class StackError(Exception):
    """The stack cannot run. The text is one line that names the part and the reason."""


class StopRequested(Exception):
    """A stop was requested by Ctrl-C, SIGTERM or SIGHUP."""
