"""The common ground of the faces KerasModel, Model and LightModel: what surrounds the loop.

In the order of a call of ``fit``:

1. :mod:`arguments` turns the user's arguments into optimizer, metrics and callbacks, with the help
   of :mod:`names` (objects by name) and :mod:`task` (how a loss reads labels), and checks them.
2. :mod:`spawn` starts several processes and brings their results back, if asked to.
3. :mod:`session` sets up devices, modes and signals around the loop, and restores them after it;
   ``model.run`` is what :mod:`run_view` shows of the run.

Apart from ``fit``: :mod:`predicting` runs ``predict`` batch by batch, :mod:`loading` loads weights,
:mod:`saving` keeps checkpoints of the user's own loops, :mod:`verify` proves on a user's net that a
resumed run is exact.
"""
