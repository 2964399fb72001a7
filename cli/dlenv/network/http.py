"""The HTTP client of every download, and what its failures mean in words."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit, urlunsplit

import httpx

from dlenv import __version__
from dlenv.errors import Unreachable

# Everything that a request can fail with; UnicodeError: a host name that can't be encoded (IDNA).
FAILURES = (httpx.HTTPError, httpx.InvalidURL, UnicodeError)


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
    except (ValueError, httpx.InvalidURL) as error:
        raise Unreachable(f"the proxy in the environment can't be used ({error}); correct or unset it") from None
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
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"{text}; where a proxy of your network signs, name its certificates by SSL_CERT_FILE"
    return text


def public(url: str) -> str:
    """``url`` without user and password, to be shown."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2]))
