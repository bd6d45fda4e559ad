"""Faster ways to run the same step."""
