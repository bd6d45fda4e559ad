"""Train with the calls of Keras: ``Model`` with compile, fit, evaluate and predict.

``model`` is the class that users have; it inherits ``batch_api`` (train_on_batch and the like) and
``base`` (the net, saving and loading). ``compile`` goes to ``compiled``, which uses ``losses`` and
``multi_output`` to turn Keras's names and lists into losses and metrics, and builds a
``KerasModel``. ``fit`` goes through ``data`` to ``compiled.train``, which calls ``KerasModel.fit``.

While it runs, ``callbacks`` calls Keras's callback methods and fills the ``FitHistory`` of
``epochs``. ``batchwise`` runs single steps, outside of any run, for ``batch_api``.
"""
