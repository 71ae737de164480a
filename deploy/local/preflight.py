"""`python -m deploy.local.preflight`: names every server program that is missing, before `make run` installs anything.

Exit code 0: all are there, or requirements/local.txt brings them, or the environment names running servers, or the store that is
chosen needs none. 1: some are missing; one line on stderr names all of them.
"""

import sys

from deploy.local.binaries import executables_to_start, url_from_environment
from deploy.local.data_dir import default_root
from deploy.local.errors import StackError
from deploy.local.store_choice import GRIDFS, choose_store


def main() -> int:
    """Run the check and return the exit code."""
    try:
        store = choose_store(None, default_root(), installed=False).store
    except StackError as error:
        print(f"gridcast: {error}", file=sys.stderr)
        return 1
    mongod = store == GRIDFS and url_from_environment("MONGODB_URI") is None
    wanted = executables_to_start(mongod=mongod, redis_url=url_from_environment("REDIS_URL"))
    missing = [executable.missing() for executable in wanted if not executable.is_available()]
    if missing:
        print(f"gridcast: {'; '.join(missing)}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
