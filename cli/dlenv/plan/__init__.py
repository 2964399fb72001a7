"""Which environment a machine gets, and why: pure, no input or output."""

from dlenv.plan.model import Candidate, Course, Plan, Repacked, Request
from dlenv.plan.planner import make

__all__ = ["Candidate", "Course", "Plan", "Repacked", "Request", "make"]
