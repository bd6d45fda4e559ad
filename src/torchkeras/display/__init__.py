"""Listeners that draw, and the pure functions they draw with."""
