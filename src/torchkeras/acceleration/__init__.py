"""Faster ways to run the same training step: ``speed="fast"``, and the optimizer's implementation.

``KerasModel.fit`` enters ``optimizer_impl.optimizer_implementation`` (foreach or fused, on a CPU)
and ``autotuner.piloted``. The latter makes a ``StepAutotuner`` the run's executor, which then runs
every training step. It times the eager step first, then builds one candidate after another from
``executors`` (channels last, compiled net), ``step_graph`` (one compiled graph a step) and
``multi_step_graph`` (several steps a graph), and keeps those that are faster.

Before a candidate is used it is compared with eager steps in a ``trial``, which restores everything
afterwards. A graph is valid only while net, loss and optimizer are made of the same objects:
``same_modules`` checks that before each step, with the dicts of hooks from ``hooks``. ``updates``
holds torch's optimizer updates as functions that a graph can contain.
"""
