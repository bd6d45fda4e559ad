"""Save the state of a run and its best weights, check what was saved, and resume from it.

1. Before a run, ``restore.open_store`` opens the folder of checkpoints (:mod:`store`), reads the
   latest sound one (:mod:`state_folder`, :mod:`state_schema`) and compares it with the new run
   (:mod:`run_state`). ``weights_path`` checks that ``ckpt_path`` can be written.
2. ``session`` builds a :class:`~manager.CheckpointManager`, which loads that checkpoint and during
   the run writes new ones at step boundaries: ``run_state.run_state_dict`` collects the state (and
   :mod:`rank_state` what each process has of its own), ``restore.encode_state`` turns it into JSON
   and tensors (:mod:`serialization`), and ``store`` writes it, in a thread where that is safe
   (:mod:`background_writer`).
3. Independently of checkpoints, :class:`~best.Best` keeps the best weights in memory and in
   ``ckpt_path`` (:mod:`best_file`, :mod:`weight_file`). ``threshold`` measures the weights already
   in that file, so that a worse run does not overwrite them (:mod:`known_files`).

Files may come from strangers: ``tensor_file`` limits what is read and ``pickle_scan`` examines
pickles without running them (``pickle_calls``: what they may call).
"""
