"""Training loops side by side: ``python -m benchmarks``."""
