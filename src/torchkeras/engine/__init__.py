"""The training loop: a batch goes through a step, a pass feeds a step, a fit repeats passes.

Read `core/types.py` (the words), `step.py` (one batch: forward, loss, backward, update, measure),
`passes.py` (one pass: batches out, step in), `epoch.py` (reset, add up, reduce) and `loop.py` (the
whole fit); then `strategy.py` (where it is computed), `checkpointing.py` (what is kept) and
`executor.py` (how a step is executed): each holds the simplest form, which others extend.
`run.py` is what is happening, `config.py` what was asked, `history.py` what happened, `monitor.py`
how it is judged. The rest can wait: `checked_step.py` checks the first batch and explains errors,
`steps.py` builds the steps of a run, `adapted.py` lets users' own steps and epoch runners in.

To add a kind of clipping: `StepRunner.clip`, and a field of `FitConfig` where users may ask for it.
Another store of checkpoints: a class like `CheckpointStore`, made in `checkpoint/restore.py`. A
parallel strategy: a `DistributedStrategy`, chosen in `strategy_of` of `distributed/strategies.py`.
A faster step: an `Candidate` (`acceleration/candidates.py`), among the candidates of the autotuner.
"""
