"""Mirrors, downloads that resume, archives unpacked safely."""
