"""Write the state of a run and of its weights, check it, and go on from it."""
