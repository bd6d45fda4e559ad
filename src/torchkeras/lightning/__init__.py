"""Train with pytorch-lightning's ``Trainer``: ``LightModel``.

Lightning drives; this library computes the loss and counts. ``model`` is the LightningModule that
users have: its hooks (``training_step``, ``on_train_epoch_end`` ...) pass each batch to the
``LightStep`` and the ``EpochRunner`` that ``steps`` builds for a stage, and at the end of a pass
take the row of numbers from it. ``trainer_flags`` translates older flags of the Trainer.
"""
