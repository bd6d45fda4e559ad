"""Faster ways to run the same training step: ``speed="fast"``, and the optimizer's implementation.

``TrainingSession`` enters ``optimizer_impl.optimizer_implementation`` (foreach or fused, on a CPU)
and ``autotuner.autotuned``. The latter makes a ``StepAutotuner`` the run's executor, which runs
every training step. It times the eager step first, then builds one candidate after another from
``candidates`` (channels last, compiled net), ``step_graph`` (one compiled graph a step) and
``repeated_step`` or ``multi_step_graph`` (several steps a graph: on a CPU the graph of one step is
run several times), and keeps those that are faster. ``compile_cache`` keeps what was compiled for
the next run, in a ``private_folder``.

Before a candidate is used it is compared with eager steps in a ``trial``, which restores everything
afterwards. A graph is valid only while net, loss and optimizer are made of the same objects:
``same_modules`` checks that before each step, with the dicts of hooks from ``hooks``. ``updates``
holds torch's optimizer updates as functions that a graph can contain.
"""
