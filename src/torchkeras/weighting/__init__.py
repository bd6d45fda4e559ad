"""What a batch counts: samples, label weights or tokens, and the means that follow from it."""
