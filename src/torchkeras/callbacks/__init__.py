"""Listeners that write."""
