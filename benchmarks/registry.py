"""Who takes part, and where each can be run."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from benchmarks import contenders, others
from benchmarks.workloads import Job

Loop = Callable[[Job], float | None]


@dataclass(frozen=True)
class Contender:
    """A loop and what it needs."""

    run: Loop
    package: str = "torch"
    release: str = ""  # how the package's version begins
    environment: str = ""  # one of benchmarks.peers; empty: that of this package
    own_order: bool = False  # shuffles in its own way, so the gate compares it unshuffled
    reference: Loop = contenders.plain  # what its weights must agree with
    only: tuple[str, ...] = ()  # the workloads that it is for; empty: all
    smoke: bool = True  # whether a smoke run has the time for it
    note: str = ""

    def takes(self, workload: str) -> bool:
        """Whether it is for a workload."""
        return not self.only or workload in self.only

    def installed(self) -> str | None:
        """The version of its package, None where that is not installed."""
        try:
            found = version(self.package)
        except PackageNotFoundError:
            return None
        return found if found.startswith(self.release) else None


PEERS = ".venv"
CONTENDERS = {
    "plain loop": Contender(contenders.plain),
    "tutorial loop": Contender(contenders.tutorial, "torchmetrics"),
    "tuned loop": Contender(contenders.tuned),
    "tuned loop, fused": Contender(contenders.tuned_fused),
    "torchkeras exact": Contender(contenders.torchkeras, "torchkeras", "5."),
    "torchkeras fast": Contender(contenders.torchkeras_fast, "torchkeras", "5."),
    "torchkeras fast, long": Contender(contenders.torchkeras_long, "torchkeras", "5.", smoke=False),
    "plain loop, bf16": Contender(contenders.plain_bf16, only=("mnist", "resnet", "gpt"),
                                  reference=contenders.plain_bf16),
    "torchkeras fast, bf16": Contender(contenders.torchkeras_bf16, "torchkeras", "5.", smoke=False,
                                       only=("mnist", "resnet", "gpt"), reference=contenders.plain_bf16),
    "accelerate alone": Contender(others.accelerate_alone, "accelerate"),
    "torchkeras 4": Contender(others.torchkeras_4, "torchkeras", "4.", ".venv-old", reference=contenders.clipped,
                              note="always clips gradients at norm 1: compared with a plain loop that does too"),
    "pytorch-lightning": Contender(others.lightning, "pytorch-lightning", environment=PEERS),
    "Keras 3 on torch": Contender(others.keras, "keras", "3.", PEERS, own_order=True, reference=others.keras_adam,
                                  note="has an Adam of its own: compared with a plain loop with that Adam"),
    "skorch": Contender(others.skorch, "skorch", environment=PEERS),
    "pytorch-ignite": Contender(others.ignite, "pytorch-ignite", environment=PEERS),
    "poutyne": Contender(others.poutyne, "poutyne", environment=PEERS),
    "pytorch-accelerated": Contender(others.pytorch_accelerated, "pytorch-accelerated", environment=PEERS,
                                     own_order=True),
}
