"""The manifest for Kubernetes: what it embeds, what every pod needs, and whether the operator would take it.

``DLENV_TEST_KUBERAY_CRD`` names the file ``ray-operator/config/crd/bases/ray.io_rayservices.yaml`` of KubeRay.
"""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from dlenv_service.arrangement import cluster_environment
from dlenv_service.cluster import serve_config
from dlenv_service.config import Settings

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own, of pydantic, when it is imported

ROOT = Path(__file__).parents[2]
SERVE = yaml.safe_load((ROOT / "service" / "serve.yaml").read_text(encoding="utf-8"))
MANIFEST = yaml.safe_load((ROOT / "docker" / "kuberay.yaml").read_text(encoding="utf-8"))
CLUSTER = MANIFEST["spec"]["rayClusterConfig"]
PODS = [group["template"]["spec"] for group in (CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"])]


def strict(schema: Any) -> Any:
    """A CRD's schema that refuses what it does not name, as `kubectl apply --validate=strict` does."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    known = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        known.setdefault("additionalProperties", False)
    return known


def test_the_serve_config_is_what_dlenv_prints() -> None:
    settings = Settings(host="0.0.0.0", repository=Path("/models"), keys=Path("/etc/dlenv/keys"), max_replicas=4)
    (application,) = SERVE["applications"]
    assert application.pop("deployments") == [{"name": "service", "max_replicas_per_node": 1}]
    try:
        assert serve_config(settings) == SERVE
    finally:
        application["deployments"] = [{"name": "service", "max_replicas_per_node": 1}]


def test_serve_takes_it() -> None:
    schema = pytest.importorskip("ray.serve.schema")
    deployed = schema.ServeDeploySchema.model_validate(SERVE)
    assert [each.name for each in deployed.applications] == ["dlenv"]


def test_the_manifest_embeds_it() -> None:
    assert yaml.safe_load(MANIFEST["spec"]["serveConfigV2"]) == SERVE


def test_pods_have_what_every_node_needs() -> None:
    for pod in PODS:
        (container,) = pod["containers"]
        given = {each["name"]: each["value"] for each in container["env"]}
        assert cluster_environment().items() <= given.items()
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert pod["securityContext"]["runAsNonRoot"]
        mounted = {each["name"] for each in container["volumeMounts"]}
        assert mounted == {each["name"] for each in pod["volumes"]}
    assert CLUSTER["authOptions"] == {"mode": "token"}
    assert CLUSTER["rayVersion"] == metadata.version("ray")
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_there_are_pods_for_an_update() -> None:
    (application,) = SERVE["applications"]
    (workers,) = CLUSTER["workerGroupSpecs"]
    assert workers["maxReplicas"] >= 2 * application["args"]["max_replicas"]


@pytest.mark.skipif("DLENV_TEST_KUBERAY_CRD" not in os.environ, reason="DLENV_TEST_KUBERAY_CRD names no CRD")
def test_the_operators_schema_takes_it() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    crd = yaml.load(Path(os.environ["DLENV_TEST_KUBERAY_CRD"]).read_text(), Loader=yaml.CSafeLoader)
    (version,) = [each for each in crd["spec"]["versions"] if each["name"] == "v1"]
    schema = version["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object"}
    assert schema["properties"]["spec"]["properties"]["serveConfigV2"]  # so that it is the right one
    jsonschema.validate(MANIFEST, strict(schema))
    wrong = {**MANIFEST, "spec": {**MANIFEST["spec"], "serveConfig": ""}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, strict(schema))
