"""Makes what ``dlenv setup`` built fit for an image: ``finish.py ENV OWN``, run where the image is built.

- The environment goes to the path that was a link to it, so that the image has one path for all times.
- What only building, compiling and testing need is removed.
- Byte code is written, since nobody can in a container with a read-only root. It holds the hash of its source and is
  not checked: the files never change, and their times are not to matter.
- dlenv itself goes to the folder OWN, for an image layer of its own.
"""

from __future__ import annotations

import compileall
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

# Triton compiles kernels for `torch.compile`, which dlenv does not use (a CUDA graph of eager PyTorch, or ONNX
# Runtime, takes its place), and which would need a C compiler in the image. uv is for `dlenv setup`.
PACKAGES = ("triton", "uv")
# Headers, Ray for Java, a protocol compiler, and test data.
LEFTOVERS = (
    "torch/include",
    "torch/share",
    "torch/bin/protoc*",
    "nvidia/*/include",
    "ray/jars",
    "onnx/backend/test/data",
    "numpy/**/tests",
)


def settle(link: Path) -> None:
    """Put the environment where the link to it is."""
    built = link.resolve()
    link.unlink()
    built.rename(link)
    shutil.rmtree(link.with_name(f"{link.name}.d"))
    for script in (link / "bin").iterdir():
        if script.is_file() and not script.is_symlink():
            content = script.read_bytes()
            if str(built).encode() in content:
                script.write_bytes(content.replace(str(built).encode(), str(link).encode()))


def remove(environment: Path, packages: Path) -> None:
    """Delete what a service does not need."""
    uv = Path(sys.prefix) / "bin" / "uv"
    for package in PACKAGES:  # uv only warns of those that are not there
        command = [uv, "pip", "uninstall", "--quiet", "--python", environment / "bin" / "python", package]
        subprocess.run(command, check=True)
    for pattern in LEFTOVERS:
        for path in packages.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def main(environment: Path, own: Path) -> int:
    """Settle, remove, compile, and set dlenv itself apart."""
    settle(environment)
    (packages,) = environment.glob("lib/python3*/site-packages")
    remove(environment, packages)
    # Some packages carry templates and files for other Pythons that don't compile; nobody imports them.
    compileall.compile_dir(
        packages, quiet=2, workers=0, force=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    for path in (*packages.glob("dlenv*"), environment / "bin" / "dlenv", environment / "dlenv-environment.json"):
        target = own / path.relative_to(environment)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
