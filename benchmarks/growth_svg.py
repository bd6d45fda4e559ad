"""What the picture of a drawn net costs as the net grows: CPU seconds for 500 layers, and the exponent of the growth.

Run with ``python -m benchmarks.growth_svg``; prints one line of JSON.
"""

import json
import math
import time

from torch import nn

from torchkeras.functional import FunctionalModel, Input, build, to_svg

LAYERS = (125, 500)


def net_of(layers: int) -> FunctionalModel:
    """A chain of small layers."""
    x = value = Input((4,))
    for _ in range(layers):
        value = nn.Linear(4, 4)(value)
    return build(x, value)


def seconds(net: FunctionalModel, times: int = 5) -> float:
    """CPU seconds of one picture, the best of several."""
    found = []
    for _ in range(times):
        start = time.process_time()
        to_svg(net)
        found.append(time.process_time() - start)
    return min(found)


def main() -> None:
    """Measure and print."""
    few, many = (seconds(net_of(layers)) for layers in LAYERS)
    exponent = math.log(many / few) / math.log(LAYERS[1] / LAYERS[0])
    print(json.dumps({"to_svg of 500 layers, s": round(many, 4), "exponent 125 to 500": round(exponent, 2)}))


if __name__ == "__main__":
    main()
