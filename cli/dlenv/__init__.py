"""dlenv: from a bare machine to a working deep-learning environment, and from a trained classifier to a service."""

__version__ = "0.1.0"
