"""Read and restore the state of modules, optimizers, random generators and other objects.

``components`` finds the parts of a model that have a state. ``wrappers`` translates names of
weights where parts are compiled or wrapped; ``module_state`` and ``optimizer_state`` read and load
states by these names, and ``generators`` the random state. ``checkpoint`` calls these to save and
resume a run. ``weights`` keeps the weights of one moment in memory, for the best epoch and for
``rollback``, which undoes a run that fails before its first update.

``memento`` records any objects before a trial and restores them after it: ``weighting``, ``checks``
and ``diagnostics`` call a user's loss, net or data (``peek``) in this way. It uses ``data_state``
for values, ``iterators`` for copies, ``reach`` for what code refers to, and ``putting`` to restore.
"""
