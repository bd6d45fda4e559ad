"""What a drawn ResNet-18 costs over the written one in a forward pass: ``python -m benchmarks.drawn``."""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.nets import conv, resnet18
from torchkeras.functional import FunctionalModel, Input, build


def residual(x: Tensor, inputs: int, outputs: int, stride: int) -> Tensor:
    """The basic block, drawn."""
    y = conv(outputs, outputs, 3)(functional.relu(conv(inputs, outputs, 3, stride)(x)))
    return functional.relu(y + (x if inputs == outputs and stride == 1 else conv(inputs, outputs, 1, stride)(x)))


def drawn_resnet18(classes: int = 10) -> FunctionalModel:
    """``benchmarks.nets.resnet18``, drawn."""
    image = Input((3, 32, 32), name="image")
    x = nn.ReLU()(conv(3, 64, 3)(image))
    widths = [64, 64, 128, 256, 512]
    for stage, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
        x = residual(residual(x, inputs, outputs, 1 if stage == 0 else 2), outputs, outputs, 1)
    return build(image, nn.Linear(512, classes)(nn.Flatten()(nn.AdaptiveAvgPool2d(1)(x))))


def seconds(net: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """Of one forward pass."""
    start = time.perf_counter()
    net(images)
    return time.perf_counter() - start


def main(rounds: int = 200) -> None:
    """One sample, one thread: where Python costs the most; the two nets take turns. ``--compile`` compiles both."""
    torch.set_num_threads(1)
    written, drawn = resnet18().eval(), drawn_resnet18().eval()
    drawn.load_state_dict(dict(zip(drawn.state_dict(), written.state_dict().values(), strict=True)))
    calls: dict[str, Callable[[Tensor], Tensor]] = {"written": written, "drawn": drawn}
    if "--compile" in sys.argv:  # nn.Module.compile leaves out nets of torch's own modules
        calls = {name: torch.compile(lambda x, net=net: net(x)) for name, net in calls.items()}
    images, times = torch.randn(1, 3, 32, 32), {"written": [], "drawn": []}
    with torch.no_grad():
        for call in calls.values():
            call(images)
        for place in range(rounds):
            for name in ("written", "drawn") if place % 2 else ("drawn", "written"):
                times[name].append(seconds(calls[name], images))
    for kind, take in (("median", statistics.median), ("minimum", min)):
        one, other = take(times["written"]), take(times["drawn"])
        print(f"{kind}: written {one * 1e3:.3f} ms, drawn {other * 1e3:.3f} ms, ratio {other / one:.4f}")


if __name__ == "__main__":
    main()
