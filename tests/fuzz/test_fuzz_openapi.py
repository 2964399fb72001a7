"""What ``/openapi.json`` promises, held by schemathesis: statuses, content types and shapes of answers, never a 5xx."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest
import schemathesis
from fuzz_cases import SEED, share
from hypothesis import HealthCheck
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving import Running, publish, run_service

from dlenv_service.config import Settings

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("models")
    publish(root, "points", "linear", input_shape=[2], classes=3)
    publish(root, "digits", "linear")
    with run_service(Settings(repository=root, device="cpu")) as running:
        yield running


@pytest.mark.filterwarnings("ignore")  # of a library that only tests
@pytest.mark.timeout(3600)
def test_the_document_is_true(attacked: Running, tried: dict[str, int]) -> None:
    schema = schemathesis.openapi.from_url(f"{attacked.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 20
    each = max(2, share(0.04) // len(operations))
    for operation in operations:

        @hypothesis.seed(SEED)
        @hypothesis.settings(max_examples=each, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @hypothesis.given(case=operation.as_strategy(), model=st.sampled_from(["points", "digits", None]))
        def hold(case: schemathesis.Case, model: str | None) -> None:
            if model is not None and "model" in (case.path_parameters or {}):
                case.path_parameters["model"] = model
                if "version" in case.path_parameters:
                    case.path_parameters["version"] = "1"
            case.call_and_validate(checks=CHECKS, timeout=20)

        hold()
    tried["requests from /openapi.json (schemathesis)"] = each * len(operations)
    assert attacked.client.get("/v2/health/ready").status_code == 200
