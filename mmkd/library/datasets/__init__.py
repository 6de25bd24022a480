"""Datasets that know no modality."""
