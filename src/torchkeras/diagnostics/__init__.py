"""Look for mistakes before a run starts."""
