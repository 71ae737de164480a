"""schemathesis: requests generated from the merged OpenAPI document, through the gateway, and every response checked against it.

The statuses are counted, because an API that rejects everything would pass all checks. The seed is printed.
"""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx
import pytest
from openapi_spec_validator import validate

from deploy.local.processes import PROJECT_ROOT
from tests.support.stack import Stack

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
)
OFF_BY_DEFAULT = ("/file/link", "/webhooks", "/upload/{address}/")
"""What is refused while authentication is off, and without webhooks; a play address is told to a socket alone."""
GATEWAY_PATHS = {"/livez", "/readyz", "/version", "/status"}
METHODS = {"get", "head", "put", "post", "patch", "delete", "options"}


@pytest.mark.parametrize(
    ("examples", "least", "within"),
    [
        pytest.param(2, 300, 200, marks=[pytest.mark.timeout(240)]),
        pytest.param(1500, 10_000, 3000, marks=[pytest.mark.long, pytest.mark.timeout(3100)]),
    ],
)
def test_schemathesis_finds_no_failure(stack: Stack, tmp_path: Path, examples: int, least: int, within: int) -> None:
    seed, tally = random.SystemRandom().randrange(2**32), tmp_path / "tally.json"
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{stack.url}/openapi.json"),
        *("--checks", ",".join(CHECKS)),
        *("--max-examples", str(examples)),
        *("--seed", str(seed)),
        *("--generation-database", "none"),
        *("--request-timeout", "40"),
        *("--warnings", "off"),
        *("--suppress-health-check", "all"),
        "--no-color",
        "--no-shrink",
        "--continue-on-failure",
    ]
    env = {
        **os.environ,
        "PYTHONPATH": str(PROJECT_ROOT),
        "SCHEMATHESIS_HOOKS": "tests.clients.schemathesis_hooks",
        "GATEWAY_URL": stack.url,
        "STATUS_COUNTS_FILE": str(tally),
    }
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=within, check=False)
    said = f"seed {seed}\n{done.stdout[-8000:]}\n{done.stderr[-2000:]}"
    assert tally.exists(), said
    counts: dict[str, dict[str, int]] = json.loads(tally.read_text("utf-8"))
    total = Counter[str]()
    for statuses in counts.values():
        total.update(statuses)
    good = sum(count for status, count in total.items() if status.startswith("2"))
    print(f"seed {seed}: {total.total()} requests, {good / total.total():.0%} answered 2xx, {dict(total)}")
    assert done.returncode == 0, said
    assert not [status for status in total if status.startswith("5")]
    assert total.total() >= least
    assert good >= 0.3 * total.total()
    never = [label for label, statuses in counts.items() if not any(status.startswith("2") for status in statuses)]
    assert [label for label in never if not label.split()[1].startswith(OFF_BY_DEFAULT)] == []
    for log in stack.log_dir.glob("*.log"):
        assert "Traceback" not in log.read_text("utf-8", "replace"), log


def test_document_describes_every_route(stack: Stack) -> None:
    """It is valid, a run calls every operation, and no response is documented as `default`."""
    document = httpx.get(f"{stack.url}/openapi.json", timeout=30).json()
    validate(document)
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in METHODS:
                assert "default" not in operation["responses"], f"{method} {path}"
                assert any(status.startswith("2") for status in operation["responses"]), f"{method} {path}"
                if path not in GATEWAY_PATHS:
                    assert {"408", "413", "429", "502", "503", "504"} <= operation["responses"].keys(), (
                        f"{method} {path}"
                    )
