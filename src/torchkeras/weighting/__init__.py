"""Tell how much each sample and each batch counts in losses, gradients and epoch means.

``denominator`` tells what a loss is a mean over, as far as its kind is known. For other losses,
``engine.epoch`` asks ``examination`` before the first batch is trained: it takes samples out of
the batch (``pieces``), has their losses compared (``recognition``), and records the result in the
step's ``LossFacts``; ``own_attributes`` says which losses must not be called for this. Later
batches are checked against the result. ``weighing`` applies sample and class weights and the shares
of several losses, ``next_labels`` shifts labels for the metrics of language models, and
``averages`` adds up the losses of a pass by these weights.
"""
