"""Whether what installing and the course need can be reached from here."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from dlenv.doctor import shell
from dlenv.doctor.facts import Endpoint, Facts
from dlenv.doctor.model import Verdict, fail, ok, skip, warn
from dlenv.network.http import clock_hint

# Files of certificates that replace the ones that programs bring (OpenSSL, requests, curl, pip, uv).
_CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")
# The system's own: of Debian, Fedora, Alpine and macOS (Go's crypto/x509 has the list).
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


def proxy(facts: Facts) -> Verdict:
    """Whether the proxies answer that the environment names."""
    points = _points(facts, "proxy")
    if not points:
        return ok("no proxy is set")
    for point in points:
        if not point.ok:
            text = f"{point.source} names the proxy {point.url}: {point.detail}"
            return fail(text, shell.unset(point.source))
    return ok(", ".join(f"{point.source} answers" for point in points))


def certificates(facts: Facts) -> Verdict:
    """Whether certificates are found and accepted."""
    for name in _CERTIFICATES:
        value = facts.environ.get(name)
        if value and not Path(value).is_file() and not (name == "REQUESTS_CA_BUNDLE" and Path(value).is_dir()):
            return fail(f"{name} is {value}, which is no file", shell.unset(name))
    bad = [point for point in facts.endpoints or () if point.problem == "certificate"]
    if bad and clock_hint(bad[0].detail):
        return fail(f"{bad[0].url}: {bad[0].detail}", shell.set_clock())
    if bad:
        text = f"{bad[0].url}: {bad[0].detail}: a firewall or proxy may be signing by a certificate of its own"
        return fail(
            f"{text}; the system's certificates may know it", shell.export(SSL_CERT_FILE=_system_certificates())
        )
    tried = [point for point in facts.endpoints or () if point.ok and point.url.startswith("https:")]
    return ok(f"accepted by {len(tried)} addresses") if tried else skip("nothing was reached by https")


def packages(facts: Facts) -> Verdict:
    """Whether the package index answers that pip and uv are set to."""
    return _reached(facts, "packages", shell.setup(facts, "--mirror", "auto"))


def pytorch(facts: Facts) -> Verdict:
    """Whether PyTorch's own index answers; without it the package index's wheel has to do."""
    return _reached(facts, "pytorch", shell.setup(facts, "--mirror", "auto"))


def course(facts: Facts) -> Verdict:
    """Whether the server answers that the notebooks load their data from."""
    return _reached(facts, "course", "notebooks that load data will fail here: try again later, or by another network")


def _reached(facts: Facts, purpose: Literal["packages", "pytorch", "course"], fix: str) -> Verdict:
    points = _points(facts, purpose)
    if not points:
        return skip("there is no such address")
    if all(point.problem == "unasked" for point in points):
        return skip(points[0].detail)
    good = [point for point in points if point.ok]
    said = "; ".join(f"{point.url} ({point.source}): {point.detail or f'{point.seconds:.1f} s'}" for point in points)
    if len(good) == len(points):
        return ok(said)
    if any(not point.ok for point in _points(facts, "proxy")):
        return warn(said, "see network.proxy")
    return warn(said, fix)


def _system_certificates() -> str:
    """The system's file of certificates, to which an organisation adds its own; where it is on Debian if it is not."""
    return next((place for place in _BUNDLES if Path(place).is_file()), _BUNDLES[0])


def _points(facts: Facts, purpose: str) -> list[Endpoint]:
    return [point for point in facts.endpoints or () if point.purpose == purpose]
