"""What comes from outside, nearly right: read as what it says, or refused with one sentence; never anything else."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_cases import share
from fuzz_grammar import Grammar
from PIL import Image
from safetensors.torch import save
from serving import publish

from dlenv.errors import ModelInvalid, RequestError
from dlenv_models import weights
from dlenv_models.images import prepare
from dlenv_models.manifest import Manifest
from dlenv_models.repository import Repository
from dlenv_service.batcher import Answer
from dlenv_service.codec import decode, encode

SLOWEST_S = 2.0  # for one case, beside whatever else this machine does
Tried = dict[str, int]


def told(error: Exception, case: object) -> None:
    """A refusal is one printable sentence of bounded length, for whoever sent it."""
    text = str(error)
    assert text, case
    assert text.isprintable(), (text, case)
    assert len(text) < 1000, (text, case)
    assert 400 <= getattr(error, "status", 400) < 500, case


def test_requests_by_grammar(seed: int, tried: Tried) -> None:
    grammar = Grammar(seed)
    count = share(0.70)
    outcomes = {"read": 0, "refused": 0}
    for number in range(count):
        case = grammar.case()
        began, good = time.perf_counter(), False
        try:
            request = decode(case.body, case.length, case.signature)
        except RequestError as error:
            told(error, (seed, number, case))
            good = case.rows is not None
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError((seed, number, case)) from error
        else:
            outcomes["read"] += 1
            rows, signature = request.rows, case.signature
            assert rows.dtype == signature.dtype, (seed, number, case)
            assert rows.shape[1:] == signature.shape, (seed, number, case)
            assert 1 <= len(rows) <= signature.max_rows, (seed, number, case)
            assert np.isfinite(rows).all(), (seed, number, case)
            if case.rows is not None:
                np.testing.assert_array_equal(rows, case.rows, str((seed, number)))
            made = np.zeros(rows.shape, np.float32) if request.reconstruct else None
            answer = Answer(np.full((len(rows), 3), 1 / 3, np.float32), np.zeros(len(rows), np.int64), True, made)
            headers, body = encode(request, answer, signature, "1")
            length = dict(headers).get(b"inference-header-content-length")
            assert json.loads(body[: int(length)] if length else body)["model_name"] == signature.model
        assert not good, ("a good request is refused", seed, number, case)
        assert time.perf_counter() - began < SLOWEST_S, (seed, number)
    tried["the binary protocol and its JSON, by grammar"] = count
    assert min(outcomes.values()) > count // 10, outcomes


def images() -> list[bytes]:
    """Small good files of every format and some of their variants."""
    pixels = np.random.RandomState(0).randint(0, 256, (20, 24, 3)).astype(np.uint8)
    made = []
    for mode, kind, options in (
        ("RGB", "PNG", {}), ("P", "PNG", {}), ("RGBA", "PNG", {"optimize": True}), ("I;16", "PNG", {}),
        ("RGB", "JPEG", {"progressive": True}), ("L", "JPEG", {"quality": 5}), ("CMYK", "JPEG", {}),
        ("RGB", "WEBP", {"lossless": True}), ("RGBA", "WEBP", {"quality": 10}),
    ):  # fmt: skip
        image = Image.fromarray(pixels)
        image = image.convert("L").convert("I;16") if mode == "I;16" else image.convert(mode)
        exif = Image.Exif()
        exif[0x0112] = 6
        buffer = io.BytesIO()
        image.save(buffer, kind, exif=exif, **options)
        made.append(buffer.getvalue())
    return made


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged metadata; the service logs no warnings
def test_damaged_images(seed: int, tried: Tried) -> None:
    grammar, good = Grammar(seed), images()
    count = share(0.06)
    refused = 0
    for number in range(count):
        content = grammar.choice(good)
        for _ in range(grammar.randint(1, 4)):
            content = grammar.damaged(content)
        began = time.perf_counter()
        try:
            assert prepare(content, 1, 28, 28).shape == (1, 28, 28)
        except RequestError as error:
            told(error, (seed, number, content))
            refused += 1
        except Exception as error:
            raise AssertionError((seed, number, content)) from error
        assert time.perf_counter() - began < SLOWEST_S, (seed, number)
    tried["images, damaged"] = count
    assert 0 < refused < count


def test_manifests(seed: int, tried: Tried, tmp_path: Path) -> None:
    publish(tmp_path / "models", "points", "mlp", input_shape=[2], classes=3, hidden=[4])
    good = json.loads((tmp_path / "models" / "points" / "1" / "manifest.json").read_text())
    grammar, count = Grammar(seed), share(0.06)
    taken = 0
    for number in range(count):
        document = json.loads(json.dumps(good))
        for _ in range(grammar.randint(1, 2)):
            grammar._change(document)
        began = time.perf_counter()
        try:
            manifest = Manifest.from_json(document)
        except ModelInvalid as error:
            told(error, (seed, number, document))
        except Exception as error:
            raise AssertionError((seed, number, document)) from error
        else:
            taken += 1
            assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
        assert time.perf_counter() - began < SLOWEST_S, (seed, number)
    tried["manifests, changed"] = count
    assert taken < count / 2


def test_damaged_weights(seed: int, tried: Tried, tmp_path: Path) -> None:
    publish(tmp_path / "models", "points", "mlp", input_shape=[2], classes=3, hidden=[4])
    loaded = Repository(tmp_path / "models", shipped=None).load("points")
    good = save({name: tensor.contiguous() for name, tensor in loaded.module.state_dict().items()})
    architecture = loaded.manifest.architecture
    assert weights.restore(architecture, good)
    grammar, count = Grammar(seed), share(0.06)
    restore: Callable[[Any, bytes], object] = weights.restore
    refused = 0
    for number in range(count):
        data = grammar.damaged(good)
        began = time.perf_counter()
        try:
            restore(architecture, data)
        except ValueError as error:
            told(error, (seed, number, data))
            refused += 1
        except Exception as error:
            raise AssertionError((seed, number, data)) from error
        assert time.perf_counter() - began < SLOWEST_S, (seed, number)
    tried["weights, damaged"] = count
    assert refused > count / 2
