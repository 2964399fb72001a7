"""The interface's document says who may ask what, where keys are asked for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, validate
from serving import Running

from dlenv_service import keyfile
from dlenv_service.access import entry
from dlenv_service.openapi import document

Serve = Callable[..., AbstractContextManager[Running]]


def test_without_keys_there_is_no_word_of_them() -> None:
    assert "security" not in document()
    assert "securitySchemes" not in document()["components"]
    assert "API key" not in str(document()["paths"])


def test_with_keys_the_document_is_valid_and_says_what_each_path_needs() -> None:
    api = document(keys=True)
    validate(api, cls=OpenAPIV31SpecValidator)
    assert api["security"] == [{"key": []}]
    assert api["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, item in api["paths"].items():
        for method, operation in item.items():
            if method == "parameters":
                continue
            access = entry(path).access
            if access == "open":
                assert operation["security"] == []
                assert "401" not in operation["responses"]
            else:
                assert "security" not in operation  # the document's
                assert {"401", "403", "429"} <= set(operation["responses"])
                assert (f"`{access}`" in operation["description"]) is (access != "read")


@pytest.mark.parametrize("keys", [True, False])
def test_the_service_tells_what_it_does(serve: Serve, tmp_path: Path, keys: bool) -> None:
    keyfile.add(tmp_path / "keys.toml", "one", ())
    with serve(models=("points",), **({"keys": tmp_path / "keys.toml"} if keys else {})) as running:
        assert running.client.get("/openapi.json").json() == document(keys=keys)
        assert ("scope" in running.client.get("/docs").text) is keys
