"""Checks, one per file: each takes an examination and yields what it finds."""
