"""Projectors that know no modality, one per file."""
