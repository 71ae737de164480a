"""Third-party programs that judge the product: other people's clients, browsers, proxies."""

import os
import shutil

import pytest

SYSTEM_FOLDERS = os.pathsep.join(("/usr/local/sbin", "/usr/sbin", "/sbin"))
"""Not on every user's path, and where Debian has nginx."""


def require_program(name: str, package: str) -> str:
    """Return the path of a program. `package` is Debian's, which `.ci/run` installs.

    Skips the test where the program is missing: without its judge the test has no verdict, and the product does not need it.
    """
    path = shutil.which(name) or shutil.which(name, path=SYSTEM_FOLDERS)
    if path is None:
        pytest.skip(f"{name} (package {package}), the judge, is not installed")
    return path


JAVA_OPTIONS = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""For programs that run for a second: with them the JVM takes half the CPU time."""
