"""The training loop: a batch goes through a step, a pass feeds a step, a fit repeats passes.

Read `core/types.py` (the words), `step.py` (one batch: forward, loss, backward, update, measure),
`passes.py` (one pass: batches out, step in), `epoch.py` (reset, add up, reduce) and `loop.py` (the
whole fit); then `strategy.py` (where a step is computed), `checkpointing.py` (what is kept) and
`executor.py` (how a step is executed): each holds the simplest form, which others extend.
`run.py` is what is happening, `config.py` what was asked, `history.py` what happened, `monitor.py`
which epoch is the best, `callback.py` who hears of it. The rest can wait: `checked_step.py` checks
the first batch and explains errors, `steps.py` builds the steps of a run, `adapted.py` lets users'
own steps and epoch runners in, `verdict.py` judges an epoch, `lr_schedule.py` moves the rates.

To add a kind of clipping: `StepRunner.clip`; where users may ask for it, a field `clip_...` of
`FitConfig` and an argument of `KerasModel.fit` (compiled steps stay out of such a run). Another
store of checkpoints: a class like `CheckpointStore`, made in `open_store` of
`checkpoint/restore.py`. A parallel strategy: a `DistributedStrategy`, chosen in `strategy_of` of
`distributed/strategies.py`. A faster step: a `Candidate` (`acceleration/candidates.py`), named in
`candidates_for` of `acceleration/autotuner.py`.
"""
