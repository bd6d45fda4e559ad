"""Train one net in several processes, one per device: a job started by torchrun or ``fit_ddp``.

``KerasModel.fit`` calls ``accelerator.start_accelerator``, which forms the process group
(``rendezvous`` for the processes of ``fit_ddp``, ``restart`` after a restart by torchrun), and
``communicator.join_job`` for the collectives outside of the gradients and for stopping on all ranks
together. ``job_checks`` then refuses ranks that were given different things; ``strategies``
broadcasts the weights of rank 0 (``broadcast``), gives each rank its own random numbers
(``streams``) and wraps the modules
for DistributedDataParallel (``ddp``) or FSDP (``fsdp``).

During a pass, ``sharded_data`` gives each rank its share of the batches, ``ddp`` weights and
all-reduces the gradients, ``local_accelerator`` stands in for the Accelerator of a user's own step,
and ``reducible_metrics`` joins the metrics at the end. ``fit_ddp`` starts its processes with
``launcher``; each of them runs ``worker``, and they exchange data in a ``job_folder``.
``fork_safety`` keeps DataLoader workers from hanging.
"""
