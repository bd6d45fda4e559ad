"""Devices without float64, such as Apple's: nothing of that type is made there. Stood in for by torch's meta device."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torchkeras import metrics
from torchkeras.checks.divergence import norm
from torchkeras.keras.multi_output import Output, OutputLoss
from torchkeras.metrics import base
from torchkeras.metrics.shapes import wide
from torchkeras.weighting.averages import stack_on_cpu


class Refusing(TorchDispatchMode):
    """Raises where a tensor of float64 is made on a device."""

    def __init__(self, device):
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, torch.Tensor) and one.dtype == torch.float64 and one.device.type == self.device:
                raise TypeError(f"Cannot convert a tensor to float64 ({func})")
        return made


@pytest.fixture
def narrow(monkeypatch):
    """The widest float of a device, as it is on Apple's."""
    def set_for(device):
        monkeypatch.setattr(base, "widest", lambda one: torch.float32 if one.type == device else torch.float64)
        monkeypatch.setattr("torchkeras.metrics.shapes.widest", base.widest)
        return Refusing(device)

    return set_for


SCORES, CLASSES, MARKS = torch.rand(6, 3, device="meta"), torch.zeros(6, dtype=torch.int64, device="meta"), torch.zeros(
    6, device="meta")
COUNTED = {
    "Accuracy": (metrics.Accuracy, SCORES, CLASSES), "AUC": (metrics.AUC, MARKS, MARKS),
    "Precision": (metrics.Precision, MARKS, MARKS), "MSE": (metrics.MSE, MARKS, MARKS),
    "R2": (metrics.R2, MARKS, MARKS), "MAPE": (metrics.MAPE, MARKS, MARKS),
    "MeanLoss": (lambda: metrics.lossmetric.MeanLoss(nn.HuberLoss()), MARKS, MARKS),
    "one output's loss": (lambda: OutputLoss(Output("a", 0), nn.MSELoss()), (MARKS, MARKS), (MARKS, MARKS)),
    "an own loss": (lambda: OutputLoss(Output("a", 0), lambda preds, labels: (preds - labels).abs().mean()),
                    (MARKS,), (MARKS,)),
}


@pytest.mark.parametrize(("make", "preds", "labels"), COUNTED.values(), ids=COUNTED)
def test_counting_makes_no_float64_on_a_device_that_has_none(make, preds, labels, narrow):
    with narrow("meta"):
        metric = make()
        metric.update(preds, labels)
        metric.update(preds, labels)
    with pytest.raises(TypeError, match="float64"), Refusing("meta"):  # control
        MARKS.double()


def test_without_the_rule_the_loss_of_an_output_would_be_in_float64(narrow):
    narrow("nowhere")
    metric = OutputLoss(Output("a", 0), nn.MSELoss())
    with pytest.raises(TypeError, match="float64"), Refusing("meta"):
        metric.update((MARKS,), (MARKS,))


def test_the_norm_of_gradients_is_taken_in_what_the_device_has(narrow):
    weights = [torch.tensor([3.0]), None, torch.tensor([4.0])]
    with narrow("cpu"):
        assert norm(weights) == 5.0
        assert wide(weights[0]).dtype == torch.float32
    assert wide(weights[0]).dtype == torch.float32
    assert norm(weights) == 5.0


def test_values_from_anywhere_are_one_column_in_full_precision():
    values = [0.1, torch.tensor(0.1, dtype=torch.float64), torch.tensor(2), True, torch.tensor([3.5])]
    assert stack_on_cpu(values).tolist() == [0.1, 0.1, 2.0, 1.0, 3.5]
    assert stack_on_cpu([]).dtype == torch.float64
