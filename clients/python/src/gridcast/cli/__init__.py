"""The command line `gridcast`: `main` is its entry point."""

import sys


def main() -> None:
    """Run the command line and exit with its code. Without the extra `cli` it says how to install that."""
    try:
        import click  # noqa: F401, PLC0415  # an extra
    except ModuleNotFoundError:
        sys.stderr.write('the command line is not installed: pip install "gridcast[cli]"\n')
        sys.exit(1)
    from gridcast.cli.app import run  # noqa: PLC0415  # it needs click

    sys.exit(run(sys.argv[1:]))
