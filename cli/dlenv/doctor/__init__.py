"""Examines a machine and an environment, says what is wrong, and how to put it right."""
