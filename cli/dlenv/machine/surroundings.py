"""What this process runs in: WSL, a container, Colab, Kaggle; and behind which proxies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from dlenv.machine.reading import clean, exists, text

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")

# What a container's first process finds in its control group (version 1), and whose it is.
_CGROUPS = {"kubepods": "kubernetes", "docker": "docker", "libpod": "podman", "containerd": "containerd", "lxc": "lxc"}


def wsl(root: Path) -> int:
    """0, or the version of the Windows Subsystem for Linux.

    WSL 1 imitates Linux 4.4 (``4.4.0-19041-Microsoft``); WSL 2 is a real kernel
    (``5.15.90.1-microsoft-standard-WSL2``), which the user may have replaced: then its device and its folder of
    libraries tell.
    """
    release = text(root / "proc/sys/kernel/osrelease")
    if not release:
        # "Linux version 5.15.90.1-microsoft-standard-WSL2 (oe-user@oe-host) ..."
        words = text(root / "proc/version").split()
        release = words[2] if len(words) > 2 else ""
    if "microsoft" in release.lower():
        return 1 if release.startswith("4.4.") else 2
    return 2 if exists(root / "dev/dxg") and exists(root / "usr/lib/wsl") else 0


def container(root: Path, environ: Mapping[str, str]) -> str | None:
    """The kind of container: "docker", "podman", "kubernetes", "apptainer", "lxc" and whatever calls itself one."""
    # Kubernetes first: its containers may be Docker's. Its service account is mounted where services are not announced.
    if "KUBERNETES_SERVICE_HOST" in environ or exists(root / "run/secrets/kubernetes.io"):
        return "kubernetes"
    if exists(root / "run/.containerenv"):
        return "podman"
    if exists(root / ".dockerenv"):
        return "docker"
    if "APPTAINER_CONTAINER" in environ or "SINGULARITY_CONTAINER" in environ:
        return "apptainer"
    # https://systemd.io/CONTAINER_INTERFACE: the variable is the first process's, systemd passes it on in the file.
    if kind := environ.get("container") or text(root / "run/systemd/container"):
        return kind
    groups = text(root / "proc/1/cgroup")
    return next((kind for word, kind in _CGROUPS.items() if word in groups), None)


def kaggle(environ: Mapping[str, str]) -> bool:
    """Whether this is a Kaggle notebook."""
    return "KAGGLE_KERNEL_RUN_TYPE" in environ


def colab(environ: Mapping[str, str]) -> bool:
    """Whether this is Google Colab.

    Variables count first, since programs that a notebook starts have them too: ``COLAB_RELEASE_TAG`` is Colab's own.
    The others are also set by hand and by images made from Colab's: they count where ``google.colab`` can be
    imported. The package alone does not (Google's other notebooks have it), and Kaggle, built on Colab's image, is
    Kaggle.
    """
    if kaggle(environ):
        return False
    if environ.get("COLAB_RELEASE_TAG"):
        return True
    if not any(name in environ for name in ("COLAB_GPU", "COLAB_BACKEND_VERSION", "COLAB_JUPYTER_IP")):
        return False
    try:
        return find_spec("google.colab") is not None
    except (ImportError, ValueError):
        return False


def proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that name proxies, in either case, without user names and passwords."""
    # Up to the last @, since a password may hold whatever it likes.
    return {
        name: re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*://)?.*@", r"\1", clean(environ[name]).strip())
        for upper in _PROXIES
        for name in (upper, upper.lower())
        if environ.get(name, "").strip()
    }
