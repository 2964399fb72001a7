"""Whether the network reaches the service, and the refusal to be there without a key.

Loopback is this machine's own business. Everything else is not: whoever reaches the port could use the models, and
load and unload them. So any other address needs ``--keys``, or ``--insecure`` by which somebody says that something
else protects it.
"""

from __future__ import annotations

import ipaddress
import re

__all__ = ["address", "host_and_port", "is_loopback", "origin", "require_protection"]

ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*\.?")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there; a name other than localhost is taken for no."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def address(text: str) -> str:
    """``text`` where it is an IP address or a host name.

    Raises:
        ValueError: it is neither, a ``HOST:PORT`` for example.
    """
    bare = text.strip("[]")
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        if not HOST_NAME.fullmatch(bare):
            raise ValueError(
                "give an IP address or host name without a port (a Ray cluster is named by --address or "
                "DLENV_RAY_ADDRESS)"
            ) from None
    return bare


def host_and_port(text: str) -> tuple[str, int]:
    """``HOST:PORT`` or ``[HOST]:PORT`` taken apart.

    Raises:
        ValueError: it is neither.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("give HOST:PORT, such as 127.0.0.1:8001")
    return address(host), int(port)


def origin(text: str) -> str:
    """``text`` where it is an origin as browsers send it: scheme, host, and the port where it isn't the scheme's own.

    Raises:
        ValueError: it is something else, ``*`` for example: then any page that somebody looks at could ask.
    """
    if not ORIGIN.fullmatch(text):
        raise ValueError(f"{ascii(text)[:80]} is no origin; give one such as https://example.org, without a path")
    return text


def require_protection(host: str, *, published: bool, protected: bool, option: str = "--host") -> None:
    """Refuse an address that others reach, where no key is asked for.

    Ray's HAProxy and Serve's Python proxy listen on the service's host too (``frontend_host`` in
    ray/serve/_private/haproxy.py), so one address is all that there is to judge.

    Raises:
        ValueError: it does; says what to do.
    """
    if protected or is_loopback(host):
        return
    where = f"the port is published at {host}" if published else f"{option} {host} is not loopback"
    raise ValueError(
        f"{where}, so whoever reaches it could use, load and unload models; give --keys FILE (DLENV_KEYS; made by "
        "`dlenv keys add`), or --insecure (DLENV_INSECURE=1) where something else protects it"
    )
