"""``dlenv predict``: image files or JSON rows in, class names and probabilities out; in process or over HTTP."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import click

from dlenv import completion
from dlenv.console import needs, parse_reference, print_json, print_table, say
from dlenv.credentials import key_option
from dlenv.errors import InvalidValue, RequestError, UsageError

_MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
_DEEPEST = 32  # lists in lists: a batch of images has 4


@click.command(
    epilog="""\b
Examples:
  dlenv predict mnist-lenet seven.png
  dlenv predict mnist-lenet seven.png --url http://127.0.0.1:8000     ask a service
  dlenv predict my-autoencoder seven.png --reconstruct back/
  echo '[[0.1, -0.4]]' | dlenv predict spiral-mlp -"""
)
@click.argument("model", metavar="NAME[/VERSION]", shell_complete=completion.models)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, shell_complete=completion.files)
@click.option("--url", help="Ask the service there, such as http://127.0.0.1:8000, instead of loading the model here.")
@click.option(
    "--repository", type=click.Path(path_type=Path), help="Model repository. [default: $DLENV_REPOSITORY, or your own]"
)
@click.option(
    "--deadline",
    "deadline_s",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds in which a service has to answer each FILE; until then it is asked again where that may help.",
)
@click.option(
    "--reconstruct",
    "back",
    type=click.Path(file_okay=False, path_type=Path),
    help="autoencoder, rbm, dbn: write what the model gives back for each image to this folder, as PNG; with --json "
    "it is in the answer, too.",
)
@key_option
@click.option("--json", "as_json", is_flag=True, help="Print the answer as the service gives it.")
@needs("train")
def command(
    model: str,
    files: Sequence[str],
    url: str | None,
    repository: Path | None,
    deadline_s: float,
    back: Path | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Ask a model about images or rows.

    FILE is an image (PNG, JPEG, WebP), a folder of images, or - for JSON on standard input: {"inputs": [row, ...]}
    or just [row, ...]. A row has the model's input shape, [0.1, -0.4] for a spiral; images are white on black, with
    pixel values 0 to 255.
    """
    sources = list(_sources(files))
    if back is not None:
        _make_folder(back)
    if url:
        answers = _ask_service(url, model, sources, key, deadline_s, reconstruct=back is not None)
    else:
        answers = _ask_here(model, repository, sources, reconstruct=back is not None)
    labels = [
        name if len(answer["predictions"]) == 1 and name != "-" else f"{name}[{i}]"
        for (name, _), answer in zip(sources, answers, strict=True)
        for i in range(len(answer["predictions"]))
    ]
    merged = {**answers[0], "predictions": [item for answer in answers for item in answer["predictions"]]}
    if back is not None:
        _write_reconstructions(back, labels, merged["predictions"])
    if as_json:
        print_json(merged)
        return
    rows = [
        [label, item["label"], f"{item['probability']:.2%}"]
        for label, item in zip(labels, merged["predictions"], strict=True)
    ]
    print_table(["input", "class", "probability"], rows)


def _sources(files: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """(name, content) of each input: bytes of an image, or the JSON value of standard input."""
    for name in files:
        path = Path(name)
        try:
            if name == "-":
                yield name, _json_from_stdin()
            elif path.is_dir():
                images = sorted(file for file in path.iterdir() if file.suffix.lower() in _MEDIA_TYPES)
                if not images:
                    raise UsageError(f"the folder {path} holds no images ({', '.join(_MEDIA_TYPES)})")
                yield from ((str(image), image.read_bytes()) for image in images)
            else:
                yield name, path.read_bytes()
        except OSError as error:
            raise UsageError(f"{name} can't be read: {error.strerror}") from None


def _json_from_stdin() -> Any:
    try:
        value = json.loads(sys.stdin.buffer.read())
    except (ValueError, RecursionError) as error:
        raise UsageError(f'standard input is not JSON ({error}); send {{"inputs": [row, ...]}}') from None
    _check_values(value)
    return value


def _check_values(value: Any) -> None:
    """Raise ``InvalidValue`` at what Python reads, but can't write as JSON: NaN, Infinity, 1e999, endless nesting."""
    waiting: list[tuple[str, int, Any]] = [("inputs", 0, value)]
    if isinstance(value, dict):
        waiting = [(key if key == "inputs" else repr(key), 0, part) for key, part in value.items()][::-1]
    while waiting:  # no recursion, whose limit is what nesting could reach
        where, depth, item = waiting.pop()
        if depth > _DEEPEST:
            raise InvalidValue(f"-: the JSON is nested deeper than {_DEEPEST} lists; send the model's input shape")
        if isinstance(item, float) and not math.isfinite(item):
            raise InvalidValue(f"-: {where} is {item}, where a finite number belongs")
        if isinstance(item, dict | list):
            parts = item.items() if isinstance(item, dict) else enumerate(item)
            # Finite numbers get no name and no place in the queue: an image may have millions.
            found = [
                (f"{where}[{key!r}]", depth + 1, part)
                for key, part in parts
                if isinstance(part, dict | list) or (isinstance(part, float) and not math.isfinite(part))
            ]
            waiting += found[::-1]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"reconstruct: {folder} can't be written ({error.strerror}); name another folder") from None


def _write_reconstructions(folder: Path, labels: Sequence[str], predictions: Sequence[dict[str, Any]]) -> None:
    """A PNG for each input, named after it; those of one name get a number."""
    from dlenv_models.images import write

    taken: set[str] = set()
    for label, prediction in zip(labels, predictions, strict=True):
        stem = f"row-{label.strip('-[]')}" if label.startswith("-[") else Path(label).stem
        name = next(each for n in count(1) if (each := stem if n == 1 else f"{stem}-{n}") not in taken)
        taken.add(name)
        try:
            write(prediction["reconstruction"], folder / f"{name}.png")
        except OSError as error:
            raise UsageError(
                f"reconstruct: {folder} can't be written ({error.strerror}); name another folder"
            ) from None
    say(f"What the model gives back is in {folder}.")


def _ask_here(
    model: str, repository: Path | None, sources: Sequence[tuple[str, Any]], *, reconstruct: bool
) -> list[dict[str, Any]]:
    from dlenv_models import threads
    from dlenv_models.prediction import answer, image_row, rows_from_json
    from dlenv_models.repository import Repository

    loaded = Repository(repository).load(*parse_reference(model))
    threads.use(loaded.manifest.architecture.name)
    answers = []
    for name, content in sources:
        try:
            image = isinstance(content, bytes)
            rows = image_row(content, loaded.manifest) if image else rows_from_json(content, loaded.manifest)
        except RequestError as error:
            raise type(error)(f"{name}: {error}") from None
        answers.append(answer(loaded, rows, reconstructions=reconstruct))
    return answers


def _ask_service(
    url: str, model: str, sources: Sequence[tuple[str, Any]], key: str | None, deadline_s: float, *, reconstruct: bool
) -> list[dict[str, Any]]:
    from dlenv.client import Client

    name, version = parse_reference(model)
    told = False

    def tell(why: str) -> None:
        nonlocal told
        if not told:
            say(f"{why}; trying again for up to {deadline_s:g} s")
        told = True

    answers = []
    with Client(url, key=key, deadline_s=deadline_s, on_retry=tell) as client:
        for source, content in sources:
            try:
                answers.append(client.predict(name, content, version=version, reconstruct=reconstruct))
            except RequestError as error:
                raise type(error)(f"{source}: {error}", **vars(error)) from None
    return answers
