"""In exact mode a device gives the bits of the plain loop there, however the data gets to it."""

import pytest
import torch
from tests.gpu.parts import (
    Rows,
    adam,
    by_fit,
    by_hand,
    cnn,
    differing,
    images,
    loader_of,
    mlp,
    sgd,
    table,
)
from torch.utils.data import DataLoader

CASES = {  # net, optimizer, data, batch size, options of fit
    "dropout and Adam": (mlp, adam, table, 33, {}),
    # batches cut from one selection begin at addresses of any alignment, which decides on kernels
    "many small odd batches": (lambda: mlp(5, 48), adam, lambda: table(inputs=5), 3, {}),
    "images and SGD": (cnn, sgd, images, 20, {}),
    "clipped gradients": (mlp, adam, table, 33, {"clip_grad_norm": 0.1}),
    "accumulated gradients": (mlp, sgd, table, 33, {"gradient_accumulation_steps": 4}),
}


def weights_of(device, case, seed, *, fitted):
    make, optimizer, data, batch, options = CASES[case]
    net = make()
    torch.manual_seed(seed)
    if fitted:
        return by_fit(device, net, optimizer(net), loader_of(data(), batch), **options)[0]
    return by_hand(device, net, optimizer(net), loader_of(data(), batch),
                   clip=options.get("clip_grad_norm"),
                   accumulation=options.get("gradient_accumulation_steps", 1))


@pytest.mark.parametrize("case", CASES)
def test_the_weights_are_bit_equal_to_those_of_the_plain_loop(device, deterministic, case):
    expected = weights_of(device, case, 7, fitted=False)
    assert differing(weights_of(device, case, 7, fitted=True), expected) == []
    assert differing(weights_of(device, case, 8, fitted=True), expected) != []  # control


LOADERS = {
    "resident": lambda data, gpu: loader_of(data),
    "moved": lambda data, gpu: DataLoader(Rows(data), 33, shuffle=True),
    "workers": lambda data, gpu: DataLoader(Rows(data), 33, shuffle=True, num_workers=2),
    "pinned": lambda data, gpu: DataLoader(Rows(data), 33, shuffle=True, pin_memory=gpu),
}


@pytest.mark.parametrize("way", ["moved", "pinned", "workers"])
def test_data_on_the_device_and_data_that_is_moved_to_it_give_the_same(device, deterministic, way):
    found = []
    for one, seed in (("resident", 7), (way, 7), (way, 8)):
        net = mlp()
        torch.manual_seed(seed)
        loader = LOADERS[one](table(), device.type == "cuda")
        found.append(by_fit(device, net, adam(net), loader)[0])
    assert differing(found[0], found[1]) == []
    assert differing(found[0], found[2]) != []  # control
