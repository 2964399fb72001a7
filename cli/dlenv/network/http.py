"""The HTTP client of every download, and what its failures mean in words."""

from __future__ import annotations

import os
import re
from datetime import datetime, timezone
from urllib.parse import urlsplit

import httpx

from dlenv import __version__
from dlenv.errors import Unreachable, UsageError

# Everything that a request can fail with; UnicodeError: a host name that can't be encoded (IDNA).
FAILURES = (httpx.HTTPError, httpx.InvalidURL, UnicodeError)
# X509_V_ERR_CERT_HAS_EXPIRED and _NOT_YET_VALID as OpenSSL words them; rustls' CertificateError, in old and new words.
_NOT_OF_TODAY = re.compile(
    r"certificate (?:has )?expired|certificate is not yet valid|certificate not valid yet"
    r"|peer certificate: (?:Expired|NotValidYet)"
)
_ADDRESS = re.compile(r"""[A-Za-z][A-Za-z0-9+.-]*://[^\s'"`<>]+""")


def client(timeout: httpx.Timeout) -> httpx.Client:
    """A client that follows redirects and obeys the proxy and certificate variables of the environment.

    Raises ``Unreachable`` where one of these variables holds what can't be used.
    """
    headers = {
        "User-Agent": f"dlenv/{__version__}",
        # A file is stored and checked as it is; a server that packs it for the way would change hash, size and ranges.
        "Accept-Encoding": "identity",
    }
    try:
        return httpx.Client(timeout=timeout, follow_redirects=True, headers=headers)
    except ImportError:
        raise Unreachable("a SOCKS proxy is set, which this needs socksio for: pip install socksio") from None
    except (ValueError, httpx.InvalidURL):  # its text may hold the proxy's password
        names = [name for name in os.environ if name.lower().endswith("_proxy") and os.environ[name]]
        raise Unreachable(f"{' or '.join(names)} holds no address of a proxy; correct or unset it") from None
    except OSError as error:
        names = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
        raise Unreachable(f"the certificates of {' and '.join(names)} can't be read ({error.strerror})") from None


def reason(error: Exception) -> str:
    """Why a request failed, in a few words."""
    if isinstance(error, httpx.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    text = re.sub(r"^\[Errno -?\d+\] ", "", " ".join(str(error).split())) or type(error).__name__
    if clock := clock_hint(text):
        return f"{text}; {clock}"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"{text}; where a proxy of your network signs, name its certificates by SSL_CERT_FILE"
    return text


def clock_hint(text: str) -> str:
    """What to do where ``text``, of OpenSSL or of uv's rustls, tells of a certificate that is not of today; else empty.

    An address that many use has a valid one, so that it is this machine's clock that is wrong (a laptop's empty
    battery, a virtual machine that slept).
    """
    if not _NOT_OF_TODAY.search(text):
        return ""
    now = datetime.now(timezone.utc)
    return f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC: if that is wrong, set it right and try again"


def check_address(url: str, what: str) -> None:
    """Raise ``UsageError``, with ``what`` names it, where ``url`` can't be one; a path without a scheme can."""
    try:
        parts = urlsplit(url)
        httpx.URL(url)
        if (parts.scheme not in ("http", "https") or parts.hostname) and (parts.port is None or parts.port):
            return
    except (ValueError, httpx.InvalidURL):  # their texts repeat parts of the address, maybe of a password
        pass
    raise UsageError(f"{what} is {public(url)!r}, which is no address; correct it")


def public(url: str) -> str:
    """``url`` to be shown: without user, password, query and fragment, which may hold a token; of any text at all.

    A password may hold what has to be escaped and is not ("/", "@"), so that the last "@" counts.
    """
    scheme = url[: url.find("://") + 3] if "://" in url else ""
    place, *hidden = re.split("[?#]", url[len(scheme) :], maxsplit=1)
    if "@" in "".join(hidden):  # a password that holds "?", or a token that holds "@"
        return f"{scheme}***"
    if "@" in place:
        place = "***@" + place.rpartition("@")[2]
    return scheme + place


def redacted(text: str) -> str:
    """``text`` of another program, each address in it as `public` shows it."""
    return _ADDRESS.sub(lambda match: public(match[0]), text)
