"""Looks the locked packages up in the advisory database of PyPI, and fails where it could not do so for each of them.

python -m deploy.audit LOCK...

pip-audit leaves out what it cannot look up, and says so on the side. Here that is a failure: the packages of each lock are compared
with those for which there is an answer. Exit status: 0 nothing is known against any, 1 a vulnerability, 2 not all were looked up.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

AUDIT_TIMEOUT_SECONDS = 600
_LOCKED_VERSION = re.compile(r"[0-9][0-9A-Za-z.!+_-]*")


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What is known: vulnerabilities as text, and packages without an answer."""

    vulnerabilities: tuple[str, ...]
    unanswered: tuple[str, ...]

    @property
    def status(self) -> int:
        """The exit status."""
        return 1 if self.vulnerabilities else 2 if self.unanswered else 0


def read_lock(text: str) -> dict[str, str]:
    """The packages of a lock for this platform, with their versions.

    Raises ValueError for a line that pins none, and where none is left.
    """
    pins: dict[str, str] = {}
    for line in text.splitlines():
        stripped = line.strip().removesuffix("\\").rstrip()
        if not stripped or stripped.startswith(("#", "--hash=")):
            continue
        try:
            requirement = Requirement(stripped)
        except InvalidRequirement:
            raise ValueError(f"not a pinned package: {stripped[:80]}") from None
        version = str(requirement.specifier).removeprefix("==")
        if not _LOCKED_VERSION.fullmatch(version):
            raise ValueError(f"not a pinned package: {stripped[:80]}")
        if requirement.marker is None or requirement.marker.evaluate():
            pins[canonicalize_name(requirement.name)] = version
    if not pins:
        raise ValueError("the lock is empty")
    return pins


def judge(pins: dict[str, str], report: Any) -> AuditResult:
    """Compare the packages of a lock with the answer of pip-audit, JSON as `--format json` writes it."""
    dependencies = report.get("dependencies", []) if isinstance(report, dict) else []
    answered: dict[str, str] = {
        canonicalize_name(str(one["name"])): str(one.get("version", ""))
        for one in dependencies
        if "vulns" in one and "skip_reason" not in one
    }
    found = [
        f"{one['name']} {one.get('version')}: {vulnerability['id']}"
        for one in dependencies
        for vulnerability in one.get("vulns", [])
    ]
    unanswered = [f"{name} {version}" for name, version in pins.items() if answered.get(name) != version]
    return AuditResult(tuple(found), tuple(unanswered))


def audit_lock(path: Path, command: Sequence[str]) -> AuditResult:
    """Run pip-audit over one lock. Raises ValueError where its answer is no JSON, TimeoutExpired, OSError."""
    pins = read_lock(path.read_text("utf-8"))
    arguments = [
        *command,
        "--require-hashes",
        "--disable-pip",
        "--progress-spinner=off",
        "--format=json",
        "-r",
        str(path),
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=AUDIT_TIMEOUT_SECONDS, check=False)
    try:
        return judge(pins, json.loads(done.stdout))
    except ValueError:
        raise ValueError(f"pip-audit gave no answer: {done.stderr.strip()[-300:]}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m deploy.audit", description=__doc__)
    parser.add_argument("locks", nargs="+", type=Path)
    locks = parser.parse_args(arguments).locks
    status = 0
    for path in locks:
        try:
            result = audit_lock(path, [sys.executable, "-m", "pip_audit"])
        except (ValueError, OSError, subprocess.TimeoutExpired) as error:
            print(f"{path}: not audited: {error}", file=sys.stderr)
            status = status or 2
            continue
        for line in result.vulnerabilities:
            print(f"{path}: {line}", file=sys.stderr)
        for package in result.unanswered:
            print(f"{path}: not looked up: {package}", file=sys.stderr)
        status = 1 if 1 in {status, result.status} else status or result.status
        print(f"{path}: {'nothing is known' if not result.status else 'failed'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
