"""Tests of the built-in plugin `core`."""
