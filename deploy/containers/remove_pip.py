"""Takes pip, and what could bring it back, out of the Python that runs this. A step of the image build.

Works for an interpreter of python.org's layout and for Debian's.
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
    """Remove."""
    doomed = [path for folder in PACKAGE_DIRS for name in PACKAGE_PATTERNS for path in folder.glob(name)]
    doomed += [path for folder in (SCRIPTS, Path("/usr/bin")) for path in folder.glob("pip*")]
    doomed += [STDLIB / "ensurepip", Path("/usr/share/python-wheels")]
    for path in doomed:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
