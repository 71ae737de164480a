"""Removes pip, and whatever could install it again, from the Python that runs this program. A step of the image build.

Supports the directory layouts of python.org and of Debian.
"""

import shutil
import sysconfig
from pathlib import Path

STDLIB = Path(sysconfig.get_path("stdlib"))
SCRIPTS = Path(sysconfig.get_path("scripts"))
PACKAGE_DIRS = [
    Path(sysconfig.get_path("purelib")),
    STDLIB / "site-packages",
    STDLIB.parent / "python3" / "dist-packages",
]
PACKAGE_PATTERNS = (
    "pip",
    "pip-*",
    "setuptools",
    "setuptools-*",
    "pkg_resources",
    "_distutils_hack",
    "wheel",
    "wheel-*",
)


def main() -> None:
    """Delete the packages, their scripts and ensurepip."""
    paths = [path for folder in PACKAGE_DIRS for name in PACKAGE_PATTERNS for path in folder.glob(name)]
    paths += [path for folder in (SCRIPTS, Path("/usr/bin")) for path in folder.glob("pip*")]
    paths += [STDLIB / "ensurepip", Path("/usr/share/python-wheels")]
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
