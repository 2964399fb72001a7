"""A model card in Markdown, made from nothing but the manifest.

The sections follow Mitchell et al., "Model Cards for Model Reporting" (2019); what the manifest does not say, such as
for whom the model is meant, is left for a person to write. Imports no PyTorch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from dlenv_models.architectures import ARCHITECTURES, parameters
from dlenv_models.manifest import WEIGHTS, Manifest

__all__ = ["card"]

_LARGEST_TABLE = 20  # classes; of more, the most frequent confusions are listed


def card(manifest: Manifest) -> str:
    """The card: what the model is, takes and gives, how good it is on which data, how it was made, how it is asked.

    Names and sources may come from a stranger: whatever Markdown or HTML could read in them is escaped.
    """
    title = f"# {_plain(manifest.name)}, version {manifest.version}"
    sections = [title, *_details(manifest), *_quality(manifest), *_making(manifest), *_use(manifest)]
    return "\n\n".join(sections) + "\n"


def _details(manifest: Manifest) -> list[str]:
    architecture, prepare = manifest.architecture, manifest.preprocessing
    count = parameters(architecture.name, architecture.arguments)
    arguments = {k: v for k, v in architecture.arguments.items() if k not in ("input_shape", "classes")}
    takes, gives = (
        ", ".join(f"`{spec.name}` {spec.datatype} {list(spec.shape)}" for spec in specs)
        for specs in (manifest.inputs, manifest.outputs)
    )
    facts = [
        ("Architecture", f"{architecture.name}: {ARCHITECTURES[architecture.name].summary}"),
        ("Arguments", _plain(json.dumps(arguments))),
        ("Parameters", f"{count:,}"),
        ("Takes", takes),
        ("Gives", gives),
        ("Classes", ", ".join(map(_plain, manifest.classes))),
        ("Preprocessing", f"(x * {prepare.scale:.6g} - {_numbers(prepare.mean)}) / {_numbers(prepare.std)}"),
        ("Weights", f"{manifest.files[WEIGHTS].bytes:,} bytes, SHA-256 `{manifest.files[WEIGHTS].sha256}`"),
    ]
    return ["## Model", _table(("what", "value"), facts)]


def _quality(manifest: Manifest) -> list[str]:
    metrics, data = manifest.metrics, manifest.data
    lead = (
        f"Accuracy **{metrics.test_accuracy:.2%}** and cross-entropy {metrics.test_loss:.4f} nats on {data.test:,} "
        "held-out rows, which the model was not trained on."
    )
    rows = []
    for index, name in enumerate(manifest.classes):
        right, there = metrics.confusion[index][index], sum(metrics.confusion[index])
        called = sum(row[index] for row in metrics.confusion)
        rows.append((_plain(name), f"{there:,}", _share(right, called), _share(right, there)))
    return ["## How good it is", lead, _table(("class", "rows", "precision", "recall"), rows), *_confusions(manifest)]


def _confusions(manifest: Manifest) -> list[str]:
    counts, names = manifest.metrics.confusion, [_plain(name) for name in manifest.classes]
    if len(names) <= _LARGEST_TABLE:
        rows = [(name, *map(str, row)) for name, row in zip(names, counts, strict=True)]
        return ["Rows of each class (line) that were called what (column):", _table(("", *names), rows)]
    wrong = sorted(
        ((count, i, j) for i, row in enumerate(counts) for j, count in enumerate(row) if i != j and count), reverse=True
    )
    rows = [(names[i], names[j], str(count)) for count, i, j in wrong[:_LARGEST_TABLE]]
    return ["The most frequent confusions:", _table(("class", "called", "rows"), rows)]


def _making(manifest: Manifest) -> list[str]:
    data, training = manifest.data, manifest.training
    facts = [
        ("Data", _plain(data.name)),
        ("Source", _plain(data.source)),
        ("Licence of the data", _plain(data.license)),
        ("Rows", f"{data.train:,} to train, {data.validation:,} to validate, {data.test:,} held out"),
        ("Made", f"{_plain(training.created)}, PyTorch {_plain(training.torch)}, seed {training.seed}"),
        *((_plain(key.replace("_", " ")), _plain(str(value))) for key, value in training.options.items()),
    ]
    return ["## How it was made", _code(training.command), _table(("what", "value"), facts)]


def _use(manifest: Manifest) -> list[str]:
    images = len(manifest.row_shape) == 3
    row = json.dumps([0.0] * manifest.row_shape[0])
    ask = (
        f"dlenv predict {manifest.name} picture.png" if images else f"echo '[{row}]' | dlenv predict {manifest.name} -"
    )
    note = (
        f"A picture is scaled to {manifest.row_shape[1]} x {manifest.row_shape[2]} pixels. "
        if images
        else f"A row is {manifest.row_shape[0]} numbers. "
    )
    limits = (
        "It knows these classes only, and calls everything else one of them, often surely. The figures hold for data "
        "like the held-out rows, and for nothing else."
    )
    return ["## How to use it", _code(f"{ask}\ndlenv serve --models {manifest.name}"), note + limits]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(text: str) -> str:
    fence = "`" * (1 + max([2, *(len(run) for run in re.findall("`+", text))]))  # longer than any in the text
    return f"{fence}\n{text}\n{fence}"


def _plain(text: str) -> str:
    """``text`` as Markdown that shows it: every ASCII punctuation mark may be escaped (CommonMark 2.4)."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|&~$^:@])", r"\\\1", text)


def _numbers(values: Sequence[float]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else f"({', '.join(f'{value:g}' for value in values)})"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else "-"
