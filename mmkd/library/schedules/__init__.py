"""Schedules that need nothing but the step, one per file."""
