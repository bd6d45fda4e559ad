"""Keras's own way to say all this: compile, fit, evaluate, batch by batch."""
