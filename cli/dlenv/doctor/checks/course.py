"""The course's package and what it draws and computes with."""

from __future__ import annotations

import re

from packaging.version import InvalidVersion, Version

from dlenv.doctor import remedy, shell
from dlenv.doctor.facts import Facts
from dlenv.doctor.model import Verdict, fail, ok, skip, warn
from dlenv.probe.report import Stage

_COMPILED_AGAINST_ANOTHER = re.compile(
    r"size changed, may indicate binary incompatibility|compiled using NumPy 1\.x|_ARRAY_API not found"
    r"|numpy\.core\.multiarray failed to import|compiled against (ABI|API) version"
)
# What uses NumPy's compiled interface.
_EXTENSIONS = ("pandas", "matplotlib", "inline", "d2l", "torchvision")
# d2l/torch.py of both lines imports these; 1.0 also scipy.
_IMPORTS = ("numpy", "pandas", "matplotlib", "matplotlib-inline", "requests", "ipython", "pillow")


def d2l(facts: Facts) -> Verdict:
    """Whether the course's package can be imported, and if not, why."""
    stage = facts.stage("d2l")
    version = facts.version("d2l")
    if stage is None:
        return skip("the probe did not come to d2l: see python.start")
    if stage.status == "absent":
        if facts.record is not None and facts.record.plan.course is not None:
            return fail("d2l is not installed, and dlenv built this environment for the course", remedy.install(facts))
        return skip("d2l is not installed")
    if stage.status == "skipped" and version is None:
        return skip("d2l is not installed")
    if stage.status == "ok":
        return ok(f"d2l {stage.facts.get('version')} in {stage.facts.get('file')}")
    if stage.status == "skipped":
        return skip(f"{stage.error}: see torch.import and torchvision.operators")
    text = stage.error or f"importing d2l {stage.status}"
    if _COMPILED_AGAINST_ANOTHER.search(_all(stage)):
        return fail(text, "see numpy.abi")
    needed = _IMPORTS + (("scipy",) if remedy.edition(facts) == "en" else ())
    missing = tuple(name for name in needed if facts.distributions is not None and not facts.copies(name))
    named = str(stage.facts.get("missing") or "").partition(".")[0]
    if named and not missing:
        missing = (named,)
    if missing:
        return fail(f"{text}; {', '.join(missing)} is missing", remedy.install(facts, *remedy.pinned(facts, missing)))
    if "matplotlib" in _all(stage) and _broken(facts, "inline"):
        return fail(text, "see matplotlib.inline")
    found = remedy.stack(facts)
    if found is None:
        return fail(text, shell.setup(facts, "--course", remedy.edition(facts) or "zh"))
    return fail(text, remedy.install(facts, *found.packages))


def line(facts: Facts) -> Verdict:
    """Whether d2l is of a line that has the notebooks' names: 0.17 for the Chinese ones, 1.0 for the English."""
    version = facts.version("d2l")
    if facts.distributions is None or version is None:
        return skip("d2l is not installed")
    edition = remedy.edition(facts)
    wanted = facts.record.plan.course if facts.record is not None else None
    if wanted is not None and wanted.edition != edition:
        text = f"d2l {version} is for the {edition} notebooks, and this environment for the {wanted.edition} ones"
        return fail(text, remedy.install(facts, wanted.package))
    try:
        release = Version(version).release
    except InvalidVersion:
        return warn(f"d2l calls itself {version!r}", remedy.install(facts, "d2l==0.17.6", words=("--no-deps",)))
    if release[:2] in ((0, 17), (1, 0)):
        names = {"zh": "train_ch3", "en": "Trainer"}[edition or "zh"]
        return ok(f"d2l {version} runs the {edition} notebooks (it has {names})")
    # d2l-zh's own setup.py calls itself 2.0.0 and has the names of 0.17.
    fix = remedy.install(facts, "d2l==0.17.6", words=("--no-deps",))
    return warn(f"d2l {version} is neither of the line 0.17 (zh notebooks) nor 1.0 (en notebooks)", fix)


def numpy_abi(facts: Facts) -> Verdict:
    """Whether packages with compiled parts were compiled for the NumPy that is installed."""
    stages = [stage for name in _EXTENSIONS if (stage := facts.stage(name)) is not None]
    if not stages:
        return skip("the probe did not come so far: see python.start")
    bad = [stage for stage in stages if _COMPILED_AGAINST_ANOTHER.search(_all(stage))]
    version = str(facts.found("numpy").get("version") or facts.version("numpy"))
    if not bad:
        return ok(f"numpy {version} fits what is compiled against it")
    names = ", ".join(f"{stage.name} {facts.version(stage.name) or ''}".strip() for stage in bad if stage.name != "d2l")
    text = f"{names or 'd2l'} was compiled for another NumPy than {version}: {bad[0].error or 'see its warnings'}"
    if not version.startswith("1."):
        # NumPy 1.26, the last 1.x, has wheels for Python 3.9 to 3.12 (PyPI).
        if remedy.python_minor(facts) in ("3.9", "3.10", "3.11", "3.12"):
            return fail(text, remedy.install(facts, "numpy<2"))
        packages = [stage.name for stage in bad if stage.name in ("pandas", "matplotlib", "torchvision")]
        return fail(text, remedy.install(facts, *packages, words=remedy.newer(*packages)))
    packages = [stage.name for stage in bad if stage.name in ("pandas", "matplotlib")]
    pins = remedy.pinned(facts, tuple(packages))
    return fail(text, remedy.install(facts, *pins, "numpy<2", again=tuple(packages)))


def inline(facts: Facts) -> Verdict:
    """Whether Matplotlib and matplotlib-inline, which draws in notebooks, fit each other."""
    stage = facts.stage("inline")
    if stage is None or stage.status in ("absent", "skipped"):
        return skip("matplotlib and matplotlib-inline are not both there")
    versions = f"matplotlib {facts.version('matplotlib')}, matplotlib-inline {facts.version('matplotlib-inline')}"
    if stage.status == "ok":
        return ok(versions)
    text = f"{stage.error or stage.status} ({versions})"
    if _COMPILED_AGAINST_ANOTHER.search(_all(stage)):
        return fail(text, "see numpy.abi")
    missing = str(stage.facts.get("missing") or "").partition(".")[0]
    if missing and missing != "matplotlib":
        return fail(text, remedy.install(facts, *remedy.pinned(facts, (missing,))))
    # 3.7.5 is what the course is proven with; 0.2.2 goes with it.
    packages = ("matplotlib", "matplotlib-inline")
    return fail(text, remedy.install(facts, *remedy.pinned(facts, packages), words=remedy.newer(*packages)))


def _broken(facts: Facts, name: str) -> bool:
    stage = facts.stage(name)
    return stage is not None and stage.status not in ("ok", "absent", "skipped")


def _all(stage: Stage) -> str:
    return f"{stage.error}\n{stage.traceback}\n{stage.output}"
