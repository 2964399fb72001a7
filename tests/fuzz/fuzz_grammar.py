"""Requests that are nearly right: good ones of every form, with a few things changed."""

from __future__ import annotations

import copy
import json
import random
from typing import Any, NamedTuple

import numpy as np

from dlenv_service.tensors import Signature

PIXELS = Signature("digits", "input", "UINT8", (1, 2, 3), ("probabilities", "label"), 8, "reconstruction", 8)
POINTS = Signature("points", "input", "FP32", (2,), ("probabilities", "label"), 8)

NUMBERS = [0, -0.0, -1, 1, 255, 256, 2**31 - 1, 2**31, 2**53 + 1, 2**63, 2**64, 10**30, 1e-300, 3.4e38, 1e39, 1e308]
WORDS = [
    "", "input", "label", "probabilities", "UINT8", "FP32", "INT64", "BYTES", "inputs", "data", "\x00", "\x1b[2J",
    "reconstruction", "../..", "ä课", "\U0001f600", "x" * 5000, "-1", "1e999", "NaN", "null", "{}", "%s%n", "a\r\nb",
]  # fmt: skip
KEYS = [
    "inputs", "outputs", "parameters", "name", "shape", "datatype", "data", "id", "binary_data_size", "binary_data",
    "binary_data_output", "timeout", "classification", "priority", "sequence_id", "__proto__", "",
]  # fmt: skip
LENGTHS = ["0", "", "-1", "+1", " 1", "1 ", "0x1", "1e3", "9" * 18, "9" * 19, "9" * 400, "\u0661", "1,2", "ten", "00"]
BYTES = [
    b"\0", b"\xff", b"{", b"}", b"[", b"]", b'"', b"\\", b",", b":", b"\r\n", b"\xc0\x80", b"\xed\xa0\x80", b"1e999",
]  # fmt: skip


class Case(NamedTuple):
    """A request; ``rows`` are what it says where nothing was changed, else None."""

    body: bytes
    length: str | None
    signature: Signature
    rows: np.ndarray | None


class Grammar(random.Random):
    """Makes cases."""

    def case(self) -> Case:
        """One request."""
        signature = self.choice((PIXELS, POINTS))
        rows = self._rows(signature)
        form = self.choice(("flat", "nested", "binary", "raw"))
        if form == "raw":
            body, length, document = rows.tobytes(), "0", None
        else:
            document = self._document(signature, rows, form)
            body, length = self._packed(document, rows if form == "binary" else None)
        if self.random() < 0.2:
            return Case(body, length, signature, rows)
        if document is not None and self.random() < 0.7:
            document = copy.deepcopy(document)
            for _ in range(self.randint(1, 3)):
                self._change(document)
            body, length = self._packed(document, rows if form == "binary" else None)
        if self.random() < 0.3:
            length = self._length(length, body)
        if self.random() < 0.4:
            for _ in range(self.randint(1, 3)):
                body = self.damaged(body)
        return Case(body, length, signature, None)

    def damaged(self, data: bytes) -> bytes:
        """The same bytes with something flipped, cut, doubled or put in."""
        at = self.randint(0, len(data))
        end = min(len(data), at + self.choice((1, 2, 4, 16, 200)))
        kind = self.randrange(6)
        if kind == 0 and data:
            at = min(at, len(data) - 1)
            return data[:at] + bytes([data[at] ^ (1 << self.randrange(8))]) + data[at + 1 :]
        if kind == 1:
            return data[:at]
        if kind == 2:
            return data[:at] + data[end:]
        if kind == 3:
            return data[:at] + data[at:end] * self.choice((2, 3, 50)) + data[end:]
        if kind == 4:
            return data[:at] + self.choice(BYTES) * self.choice((1, 2, 300)) + data[at:]
        return data[:at] + self.randbytes(end - at) + data[end:]

    def value(self, depth: int = 0) -> Any:
        """Any JSON value."""
        kind = self.randrange(8 if depth < 4 else 5)
        if kind < 2:
            return self.choice(NUMBERS)
        if kind == 2:
            return self.choice(WORDS)
        if kind == 3:
            return self.choice((None, True, False))
        if kind == 4:
            return self.uniform(-300, 300)
        if kind == 5:
            return {self.choice(KEYS): self.value(depth + 1) for _ in range(self.randint(0, 3))}
        if kind == 6:
            return [self.value(depth + 1) for _ in range(self.randint(0, 4))]
        nested: Any = self.value(4)
        for _ in range(self.choice((1, 15, 16, 17, 40, 100))):
            nested = [nested]
        return nested

    def _rows(self, signature: Signature) -> np.ndarray:
        count = self.randint(1, signature.max_rows)
        values = [self.random() for _ in range(count * signature.row_size)]
        array = np.array(values).reshape(count, *signature.shape)
        if signature.datatype == "UINT8":
            return (array * 255).astype(np.uint8)
        return (array * 20 - 10).astype(np.float32)

    def _document(self, signature: Signature, rows: np.ndarray, form: str) -> dict[str, Any]:
        tensor: dict[str, Any] = {
            "name": signature.input,
            "shape": list(rows.shape),
            "datatype": signature.datatype,
        }
        if form == "binary":
            tensor["parameters"] = {"binary_data_size": rows.nbytes}
        else:
            tensor["data"] = (rows if form == "nested" else rows.ravel()).tolist()
        document: dict[str, Any] = {"inputs": [tensor]}
        if self.random() < 0.3:
            document["id"] = self.choice(WORDS)
        if self.random() < 0.3:
            document["parameters"] = {"timeout": self.randint(1, 10**7), "binary_data_output": self.random() < 0.5}
        if self.random() < 0.3:
            given = [*signature.outputs, *([signature.reconstruction] if signature.reconstruction else [])]
            names = self.sample(given, self.randint(1, len(given)))
            document["outputs"] = [{"name": name, "parameters": {"binary_data": self.random() < 0.5}} for name in names]
        return document

    def _packed(self, document: Any, rows: np.ndarray | None) -> tuple[bytes, str | None]:
        text = json.dumps(document, ensure_ascii=self.random() < 0.5).encode("utf-8", "surrogatepass")
        return (text, None) if rows is None else (text + rows.tobytes(), str(len(text)))

    def _change(self, document: Any) -> None:
        """Change something somewhere in a document, in place."""
        at = document
        while True:
            keys = list(at if isinstance(at, dict) else range(len(at)))
            inner = [key for key in keys if isinstance(at[key], dict | list)]
            if not inner or self.random() < 0.4:
                break
            at = at[self.choice(inner)]
        kind = self.randrange(4)
        if kind == 0 and keys:
            del at[self.choice(keys)]
        elif kind == 1 and keys:
            at[self.choice(keys)] = self.value()
        elif isinstance(at, dict):
            at[self.choice(KEYS)] = self.value()
        else:
            at.insert(self.randint(0, len(at)), copy.deepcopy(self.choice(at)) if at and kind == 2 else self.value())

    def _length(self, length: str | None, body: bytes) -> str | None:
        if self.random() < 0.5:
            return self.choice((None, *LENGTHS))
        return str(max(0, int(length or len(body)) + self.choice((-9, -1, 1, 9, len(body)))))
