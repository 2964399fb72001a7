"""Trying an environment by its own Python, as a subprocess: a crash there is a finding, not ours."""

from dlenv.probe.process import Children
from dlenv.probe.report import Report, Stage
from dlenv.probe.runner import FACTS, run

__all__ = ["FACTS", "Children", "Report", "Stage", "run"]
