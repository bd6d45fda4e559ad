"""Train with the calls of Keras: ``Model`` with compile, fit, evaluate and predict.

``model`` is the class that users have; it inherits ``run_api`` (resume, processes, reports),
``batch_api`` (train_on_batch and the like) and ``base`` (the net, its weights, saving and loading).
``compile`` goes to ``compiled``, which uses ``losses``, ``multi_output`` and ``optimizers`` to turn
Keras's names and lists into losses, metrics and an optimizer, and builds the ``Engine``, a
``KerasModel``. ``fit`` goes through ``data`` to ``running.train``, which calls ``KerasModel.fit``.

While it runs, ``moments`` calls Keras's callback methods and fills the ``FitHistory`` of
``epochs``; ``callbacks`` has those that ship, ``foreign`` lets those of the package keras in, and
``rate`` keeps the learning rate and the optimizer's attribute of that name together. ``onward``
lets data go on from epoch to epoch. ``batchwise`` runs single steps, outside of any run.
"""
