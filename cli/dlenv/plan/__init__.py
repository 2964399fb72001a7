"""Which environment a machine gets, and why: pure, no input or output."""

from dlenv.plan.model import Candidate, Course, Plan, Request

__all__ = ["Candidate", "Course", "Plan", "Request"]
