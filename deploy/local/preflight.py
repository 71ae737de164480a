"""`python -m deploy.local.preflight`: names every server program that is missing, before `make run` installs anything.

Exit code 0: all are there, or requirements/local.txt brings them, or the environment names running servers. 1: some are missing;
one line on stderr names all of them.
"""

import sys

from deploy.local.binaries import executables_to_start, url_from_environment


def main() -> int:
    """Run the check and return the exit code."""
    wanted = executables_to_start(url_from_environment("MONGODB_URI"), url_from_environment("REDIS_URL"))
    missing = [executable.missing() for executable in wanted if not executable.is_available()]
    if missing:
        print(f"gridcast: {'; '.join(missing)}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
