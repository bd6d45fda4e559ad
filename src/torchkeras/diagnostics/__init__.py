"""Try a run before it begins.

``engine.loop`` calls ``rehearsal`` before the first epoch: it takes the first validation batch
through net, loss and metrics and restores everything, so that an error in the validation data is
raised before an epoch is trained, not after it.
"""
