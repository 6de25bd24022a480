"""Exported models in forms that need no mmkd: weights, programs, and those of model libraries."""
