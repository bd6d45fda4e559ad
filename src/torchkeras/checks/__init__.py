"""Find what is wrong with a batch, a loss or a metric, and say it in words."""
