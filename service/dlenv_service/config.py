"""The service's configuration: one frozen object.

A value comes from, first found first taken: a flag of ``dlenv serve``, a ``DLENV_*`` environment variable, a YAML
file (``--config``), the default here. The flag and the variable are made from the field's name (``max_batch``:
``--max-batch``, ``DLENV_MAX_BATCH``), so there is one list of settings: this class. The two exceptions stand in
``VARIABLES``. Unknown keys are refused wherever they stand, since a misspelt limit that is silently ignored is worse
than no service.
"""

from __future__ import annotations

import difflib
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pydantic
import yaml

from dlenv.errors import UsageError
from dlenv_service import exposure

__all__ = ["ENVIRONMENT_ONLY", "Settings", "load_settings", "variable"]

# DLENV_* variables that are not settings of the service, so not unknown.
ENVIRONMENT_ONLY = frozenset({"DLENV_CONFIG", "DLENV_DATA_DIR", "DLENV_KEY", "DLENV_LANG", "DLENV_MIRRORS"})
# What Docker publishes the port at is DLENV_ADDRESS in compose files; --address has been the Ray cluster's before.
VARIABLES = {"address": "DLENV_RAY_ADDRESS", "published_address": "DLENV_ADDRESS"}
LISTS = frozenset({"models", "cors_origin"})

MIB = 1024 * 1024
_VARIABLES = "environment variables"


class Settings(pydantic.BaseModel):
    """Everything that can be set; ``description`` is the help text of the flag."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    # What is served
    models: tuple[str, ...] = pydantic.Field(
        (), description="Models to serve, as NAME or NAME/VERSION; all in the repository when none is given."
    )
    repository: Path | None = pydantic.Field(
        None, description="Model repository that lies over the shipped one [default: the user's data folder]."
    )

    # Where
    host: str = pydantic.Field("127.0.0.1", description="Address to listen on.", min_length=1)
    port: int = pydantic.Field(8000, description="Port to listen on.", ge=1, le=65535)
    runtime: Literal["ray", "local"] = pydantic.Field(
        "ray", description="`ray` scales and heals; `local` is one process, for a quick try."
    )
    address: str | None = pydantic.Field(
        None, description="Existing Ray cluster to deploy on: HOST:PORT of its head, or `auto`."
    )
    replicas: int = pydantic.Field(1, description="Replicas of the service (Ray).", ge=1, le=1000)
    max_replicas: int | None = pydantic.Field(
        None, description="Autoscale from --replicas up to this many, on queued rows.", ge=1, le=1000
    )
    gpus_per_replica: float | None = pydantic.Field(
        None,
        description="GPUs that one replica takes [default: 0.5 on one GPU, 1 on several, 0 without].",
        ge=0,
        allow_inf_nan=False,
    )

    fronts: int = pydantic.Field(
        0, description="Processes that read HTTP for the one that runs the models; 0: that one does.", ge=0, le=256
    )

    # How batches are made and run
    device: Literal["auto", "cpu", "cuda"] = pydantic.Field("auto", description="Device that runs the models.")
    engine: Literal["auto", "eager", "onnx"] = pydantic.Field(
        "auto",
        description="What runs models on a CPU: `eager` PyTorch; `onnx` Runtime; `auto` PyTorch until ONNX is ready.",
    )
    max_batch: int = pydantic.Field(
        64, description="Most rows in one batch; a CPU takes fewer where that is faster.", ge=1, le=65536
    )
    max_delay_us: int = pydantic.Field(
        0, description="Microseconds that a batch may wait for more rows while the device is idle.", ge=0, le=1_000_000
    )
    threads: int = pydantic.Field(1, description="Threads that one operator uses on the CPU.", ge=1, le=1024)

    # Limits
    max_body_bytes: int = pydantic.Field(16 * MIB, description="Largest request body (413).", ge=1024)
    max_pixels: int = pydantic.Field(16_000_000, description="Largest image, width x height (413).", ge=1)
    max_rows: int = pydantic.Field(1024, description="Most rows in one request (413).", ge=1)
    max_queue_rows: int = pydantic.Field(
        4096, description="Most rows that wait for one model; past it 429 (per replica).", ge=1
    )
    max_pending_bytes: int = pydantic.Field(
        256 * MIB, description="Most bytes that the bodies of all waiting requests take; past it 429.", ge=1024
    )
    deadline_ms: int = pydantic.Field(
        10_000, description="Milliseconds in which a request is answered, or 504.", ge=1, le=3_600_000
    )
    body_timeout_ms: int = pydantic.Field(
        10_000, description="Milliseconds in which a request's body must arrive, or 408.", ge=1, le=3_600_000
    )
    header_timeout_ms: int = pydantic.Field(
        10_000, description="Milliseconds in which a request's head must arrive, or 408.", ge=1, le=3_600_000
    )
    max_connections: int = pydantic.Field(
        4096, description="Most open connections (per process); past it 503.", ge=1, le=1_000_000
    )
    drain_timeout_ms: int = pydantic.Field(
        30_000, description="Milliseconds that accepted requests get to finish when the service stops.", ge=0
    )

    # Who may ask; see docs/security.md
    keys: Path | None = pydantic.Field(
        None, description="File with the API keys, made by `dlenv keys`; without it nobody is asked for one."
    )
    insecure: bool = pydantic.Field(
        False, description="Let whoever reaches the service ask, load and unload models, without a key."
    )
    published_address: str | None = pydantic.Field(
        None,
        description="Address at which a container's port is published (DLENV_ADDRESS), judged instead of --host.",
    )
    tls_certificate: Path | None = pydantic.Field(
        None, description="PEM file with the certificate chain to show clients (--runtime local); may be replaced."
    )
    tls_key: Path | None = pydantic.Field(
        None, description="PEM file with the certificate's key, where it is not in the same file."
    )
    admin_address: str | None = pydantic.Field(
        None,
        description="HOST:PORT where repository, statistics and metrics are answered; then nowhere else.",
    )
    audit_log: Path | None = pydantic.Field(
        None, description="File that also gets a line for each request that loads or unloads a model."
    )
    cors_origin: tuple[str, ...] = pydantic.Field(
        (), description="Origins whose pages may ask, such as https://example.org; none when none is given."
    )

    log_level: Literal["debug", "info", "warning", "error"] = pydantic.Field(
        "info", description="Least severe message to log."
    )
    log_format: Literal["text", "json"] = pydantic.Field(
        "text", description="Log lines for people, or one JSON object each, with the request's id."
    )
    otlp_endpoint: str | None = pydantic.Field(
        None,
        description="Collector that traces go to by OTLP over HTTP, such as http://127.0.0.1:4318; also "
        "OTEL_EXPORTER_OTLP_ENDPOINT.",
    )

    @property
    def url(self) -> str:
        """Where the service answers."""
        scheme = "http" if self.tls_certificate is None else "https"
        return f"{scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @pydantic.field_validator("published_address")
    @classmethod
    def _published_address(cls, value: str | None) -> str | None:
        return None if value is None else exposure.address(value)

    def allowed_ns(self, timeout_us: int | None) -> int:
        """Nanoseconds that a request may take which asks for ``timeout_us``, or for nothing."""
        allowed = self.deadline_ms * 1_000_000
        return allowed if timeout_us is None else min(allowed, timeout_us * 1000)

    @pydantic.field_validator("admin_address")
    @classmethod
    def _admin_address(cls, value: str | None) -> str | None:
        if value is not None:
            exposure.host_and_port(value)
        return value

    @pydantic.field_validator("otlp_endpoint")
    @classmethod
    def _otlp_endpoint(cls, value: str | None) -> str | None:
        if value is not None and (urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).hostname):
            raise ValueError("give a URL such as http://127.0.0.1:4318")
        return value

    @pydantic.field_validator("cors_origin")
    @classmethod
    def _cors_origin(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(exposure.origin(each) for each in value)

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Settings:
        exposure.require_protection(
            self.published_address or self.host,
            published=self.published_address is not None,
            protected=self.keys is not None or self.insecure,
        )
        if self.tls_key is not None and self.tls_certificate is None:
            raise ValueError(f"tls_key {self.tls_key} has no certificate; give tls_certificate too")
        if self.tls_certificate is not None and self.runtime == "ray":
            raise ValueError(
                "tls_certificate is for --runtime local; on Ray a proxy in front ends TLS (docs/security.md)"
            )
        if self.admin_address is not None and (self.replicas > 1 or self.max_replicas or self.address):
            raise ValueError("admin_address is for one replica on this machine; several can't share it")
        if self.admin_address is not None:
            host, _ = exposure.host_and_port(self.admin_address)
            exposure.require_protection(
                host, published=False, protected=self.keys is not None or self.insecure, option="--admin-address"
            )
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is below replicas {self.replicas}; raise it")
        if self.fronts and not hasattr(socket, "send_fds"):  # Windows
            raise ValueError(f"fronts {self.fronts}: this system can't pass connections on to other processes; give 0")
        if self.max_queue_rows < self.max_rows:
            raise ValueError(
                f"max_queue_rows {self.max_queue_rows} is below max_rows {self.max_rows}, "
                "so that a full request never fits; raise it or lower max_rows"
            )
        if self.max_pending_bytes < self.max_body_bytes:
            raise ValueError(
                f"max_pending_bytes {self.max_pending_bytes} is below max_body_bytes {self.max_body_bytes}, "
                "so that a full body never fits; raise it or lower max_body_bytes"
            )
        return self


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return VARIABLES.get(name, f"DLENV_{name.upper()}")


def _unknown(key: str, source: str, known: Iterable[str]) -> UsageError:
    # What all variables begin with makes none of them like another.
    names = {name.removeprefix("DLENV_"): name for name in known}
    close = difflib.get_close_matches(key.removeprefix("DLENV_"), list(names), n=1)
    hint = f"did you mean {names[close[0]]}?" if close else "see `dlenv serve --help` for the settings"
    return UsageError(f"{source}: unknown setting {key!r}; {hint}")


def _from_file(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}; give a YAML file that can be read") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UsageError(f"--config {path}: not valid YAML ({where}{error.problem or error.context})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: not valid YAML ({' '.join(str(error).split())})") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise UsageError(f"--config {path}: a mapping of settings is expected, not a {type(loaded).__name__}")
    for key in loaded:
        if key not in Settings.model_fields:
            raise _unknown(str(key), str(path), Settings.model_fields)
    return loaded


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    names = {variable(name): name for name in Settings.model_fields}
    found: dict[str, Any] = {}
    for key, value in environ.items():
        if not key.startswith("DLENV_") or key in ENVIRONMENT_ONLY:
            continue
        if key not in names:
            raise _unknown(key, _VARIABLES, names)
        if value == "":  # compose files pass unset variables on as empty ones
            continue
        found[names[key]] = value.replace(",", " ").split() if names[key] in LISTS else value
    if (endpoint := _standard_endpoint(environ)) is not None:
        found.setdefault("otlp_endpoint", endpoint)
    return found


def _standard_endpoint(environ: Mapping[str, str]) -> str | None:
    """The collector that OpenTelemetry's own variables name, unless they say that nothing goes there, or not by HTTP.

    https://opentelemetry.io/docs/specs/otel/protocol/exporter/ and .../configuration/sdk-environment-variables/.
    """
    given = {name: value.strip() for name, value in environ.items() if name.startswith("OTEL_")}

    def exporter(name: str) -> str:
        return given.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or given.get(f"OTEL_EXPORTER_OTLP_{name}") or ""

    disabled = given.get("OTEL_SDK_DISABLED", "").lower() == "true"
    wanted = not disabled and given.get("OTEL_TRACES_EXPORTER") in (None, "", "otlp")
    return exporter("ENDPOINT") or None if wanted and exporter("PROTOCOL") in ("", "http/protobuf") else None


def load_settings(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    config: Path | None = None,
) -> Settings:
    """Merge flags, environment and file into one :class:`Settings`.

    Raises:
        UsageError: unknown key, unreadable file, or a value out of range; names the key, the value and its source.
    """
    layers = [
        ("flag", dict(flags or {})),
        (_VARIABLES, _from_environment(environ or {})),
        (str(config), _from_file(config) if config else {}),
    ]
    merged: dict[str, Any] = {}
    source: dict[str, str] = {}
    for name, layer in layers:
        for key, value in layer.items():
            if key not in Settings.model_fields:
                raise _unknown(key, name, Settings.model_fields)
            if key not in merged:
                merged[key], source[key] = value, name
    try:
        return Settings.model_validate(merged)
    except pydantic.ValidationError as invalid:
        error = invalid.errors()[0]
        if not error["loc"]:
            raise UsageError(str(error["msg"]).removeprefix("Value error, ")) from None
        key = str(error["loc"][0])
        where = {"flag": f"--{key.replace('_', '-')}", _VARIABLES: variable(key)}.get(
            source[key], f"{source[key]}: {key}"
        )
        raise UsageError(f"{where} {merged[key]!r}: {_clause(error['msg'])}") from None


def _clause(message: str) -> str:
    """pydantic's sentence as the rest of one of ours."""
    text = message.removeprefix("Value error, ")
    return f"{text[0].lower()}{text[1:]}"
