"""The description of the API against the running one: schemathesis makes requests from it, and judges each answer by it."""

import os
import subprocess
from pathlib import Path

import pytest
from api import TOP

SECONDS = 45
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "ensure_resource_availability",
    "ignored_auth",
]
# Above any count that the run can reach: it is not the limits that are tested here.
NO_LIMITS = {"webhooks.creations_per_hour": "0", "webhooks.max_webhooks_per_owner": "0"}


@pytest.fixture
def nothing_is_sent(gateway):
    """URLs are made up here, and nobody must be called for it."""
    with gateway.db.server.configured(NO_LIMITS):
        gateway.db.stop_worker()
        yield
        gateway.db.execute("DELETE FROM webhooks.webhook")
        gateway.db.execute("DELETE FROM webhooks.outbox")
        gateway.db.start_worker()


def test_the_api_is_as_its_description_says(gateway, gateway_by_source, api, nothing_is_sent, tmp_path):
    # Bodies that are no UTF-8 are among the requests, which the substitute mends without a word.
    tested = gateway_by_source if gateway.substitute else gateway
    program = Path(os.environ["WEBHOOKS_CACHE"]) / "schemathesis/bin/schemathesis"
    run = subprocess.run(
        [
            program, "run", TOP / "gateway/openapi.json", "--url", f"{tested.url}/api/v1",
            "--header", f"Authorization: Bearer {api.key}",
            "--checks", ",".join(CHECKS), "--max-time", str(SECONDS), "--suppress-health-check", "all", "--seed", "1",
            "--continue-on-failure", "--warnings", "off",
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS + 90,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2_000:]


def test_the_description_is_served(gateway, api):
    served = api.gateway.client.get("/api/v1/openapi.json")
    assert (served.status_code, served.headers["content-type"]) == (200, "application/json")
    assert served.content == (TOP / "gateway/openapi.json").read_bytes()
