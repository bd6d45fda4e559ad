"""Callbacks that write: files, loggers of services, weights, pictures.

``logger`` holds what all of them share: ``RowLogger`` collects the rows of the history, keeps those
that cannot be written yet and adds what a resumed run is missing; its subclasses only say how to
write one row. ``RunLogger`` adds the runs of a service.

``rows`` (CSV, JSONL) and ``tensorboard`` are row loggers; ``mlflow`` and ``wandb`` are run loggers;
``checkpoints`` writes weights, ``vis`` shows a run under older class names. ``needed`` imports an
optional package or says how to install it. The training loop calls them through
``engine.callback``; ``torchkeras.kerascallbacks`` is the public list.
"""
