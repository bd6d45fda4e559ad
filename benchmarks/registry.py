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
    supported: Callable[[], bool] = lambda: True
    note: str = ""

    def installed(self) -> str | None:
        """The version of its package, None where that is not installed; empty where it cannot do this yet."""
        try:
            found = version(self.package)
        except PackageNotFoundError:
            return None
        if not found.startswith(self.release):
            return None
        return found if self.supported() else ""


PEERS = ".venv"
CONTENDERS = {
    "plain loop": Contender(contenders.plain),
    "tutorial loop": Contender(contenders.tutorial, "torchmetrics"),
    "tuned loop": Contender(contenders.tuned),
    "tuned loop, fused": Contender(contenders.tuned_fused),
    "torchkeras exact": Contender(contenders.torchkeras, "torchkeras"),
    "torchkeras fast": Contender(contenders.torchkeras_fast, "torchkeras", supported=contenders.has_speed),
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
