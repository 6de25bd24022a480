"""Encoders that know no modality."""
