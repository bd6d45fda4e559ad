"""Function metrics pair the values of nested batches by key and by place, over batches and processes."""

from collections import namedtuple

import pytest
import torch
from torch import nn

from torchkeras import KerasModel
from torchkeras.checkpoint import metric_state
from torchkeras.distributed import reducible_metrics
from torchkeras.metrics import FunctionMetric

Pair = namedtuple("Pair", "near far")


def gap(preds, labels):
    return (preds["a"] - labels["a"]).abs().mean() + 10 * (preds["b"] - labels["b"]).abs().mean()


def batches():
    """Two batches with the same values, of which the second has its keys in the other order."""
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([5.0, 7.0])
    zero = torch.zeros(2)
    return [({"a": a, "b": b}, {"a": zero, "b": zero}), ({"b": b, "a": a}, {"b": zero, "a": zero})]


def test_values_of_dicts_belong_together_by_their_keys():
    metric = FunctionMetric(gap)
    for batch in batches():
        metric.update(*batch)
    assert metric.compute().item() == pytest.approx(1.5 + 10 * 6.0)
    assert metric.compute().item() != pytest.approx(11 * 3.75)  # control: paired by place


def test_nested_dicts_in_tuples_are_paired_too():
    metric = FunctionMetric(lambda preds, labels: (preds[1].far["x"] - labels).abs().sum())
    one, two, far = torch.zeros(2), torch.full((2,), 9.0), torch.tensor([3.0, 4.0])
    metric.update((one, Pair(two, {"y": two, "x": far})), one)
    metric.update((one, Pair(two, {"x": far, "y": two})), one)
    assert metric.compute() == 14


def alike(preds):
    return preds, torch.zeros(2)


@pytest.mark.parametrize(("second", "text"), [
    ({"a": torch.zeros(2)}, r"a batch with the keys \['a'\] in preds; expected \['a', 'b'\], as in the first batch"),
    ({"a": torch.zeros(2), "c": torch.zeros(2)}, r"the keys \['a', 'c'\] in preds; expected \['a', 'b'\]"),
    ({"a": torch.zeros(2), "b": (torch.zeros(2),)}, r"a tuple in preds\['b'\]; expected a tensor"),
    (torch.zeros(2), "a Tensor in preds; expected a dict"),
    ((torch.zeros(2), torch.zeros(2)), "a tuple in preds; expected a dict")])
def test_a_batch_of_another_structure_is_refused_in_words(second, text):
    metric = FunctionMetric(lambda preds, labels: 1.0, name="it")
    metric.update(*alike({"a": torch.zeros(2), "b": torch.zeros(2)}))
    with pytest.raises(ValueError, match=f"metric 'it': received .*{text}"):
        metric.update(*alike(second))
    metric.update(*alike({"b": torch.zeros(2), "a": torch.zeros(2)}))  # control
    metric.reset()
    metric.update(*alike(second))  # another pass may have another structure


def test_lists_of_another_length_and_lists_of_samples_are_refused():
    metric = FunctionMetric(lambda preds, labels: 1.0)
    metric.update([torch.zeros(2), torch.zeros(2)], torch.zeros(2))
    with pytest.raises(ValueError, match="3 values in preds; expected 2, as in the first batch"):
        metric.update([torch.zeros(2)] * 3, torch.zeros(2))
    boxes = [torch.zeros(3, 4), torch.zeros(5, 4)]  # of two images
    with pytest.raises(ValueError, match=r"a list in preds of tensors with \[3, 5\] rows; expected a list of outputs"):
        FunctionMetric(lambda preds, labels: 1.0).update(boxes, torch.zeros(2))
    FunctionMetric(lambda preds, labels: 1.0).update({"boxes": boxes[0], "scale": torch.zeros(())}, torch.zeros(2))


def test_several_processes_pair_by_keys_whatever_order_theirs_are_in():
    parts = [FunctionMetric(gap), FunctionMetric(gap)]
    for metric, batch in zip(parts, batches(), strict=True):
        metric.update(*batch)
    whole = reducible_metrics.reduced(parts[0], [reducible_metrics.local_state(one) for one in parts], [[0], [1]])
    assert whole.compute().item() == pytest.approx(61.5)
    other = FunctionMetric(gap)
    other.update({"a": torch.zeros(2), "c": torch.zeros(2)}, {"a": torch.zeros(2), "b": torch.zeros(2)})
    with pytest.raises(ValueError, match="unlike structure in several processes"):
        reducible_metrics.reduced(parts[0], [reducible_metrics.local_state(one) for one in (parts[0], other)], [[0], [1]])
    silent = FunctionMetric(gap)  # a process without a batch
    whole = reducible_metrics.reduced(parts[0], [reducible_metrics.local_state(one) for one in (parts[0], silent)], [[0], []])
    assert whole.compute().item() == pytest.approx(61.5)


def test_a_state_goes_on_with_keys_in_another_order():
    first, second = batches()
    metric, fresh = FunctionMetric(gap), FunctionMetric(gap)
    metric.update(*first)
    metric_state.load_metric_state_dict(fresh, metric_state.metric_state_dict(metric))
    fresh.update(*second)
    assert fresh.compute().item() == pytest.approx(61.5)


def test_a_state_of_version_5_0_goes_on():
    """Its tensors were numbered in the order of the first batch, not in that of the keys."""
    state = {"kept": {"part0": [torch.tensor([5.0])], "part1": [torch.tensor([1.0])], "part2": [torch.zeros(1)],
                      "part3": [torch.zeros(1)]}, "lists": ("part0", "part1", "part2", "part3"),
             "learned": {"layout": ({"b": 0, "a": 1}, {"a": 2, "b": 3}), "waiting": 0}}
    metric = FunctionMetric(gap)
    metric_state.load_metric_state_dict(metric, state)
    metric.update({"a": torch.tensor([2.0]), "b": torch.tensor([7.0])}, {"a": torch.zeros(1), "b": torch.zeros(1)})
    assert metric.compute().item() == pytest.approx(61.5)


class TwoHeads(nn.Module):
    """Puts out a dict whose keys change their order with the size of the batch."""

    def forward(self, x):
        found = {"a": x[:, 0], "b": x[:, 1]}
        return found if len(x) % 2 else dict(reversed(found.items()))


def test_a_model_gives_one_number_at_every_batch_size():
    x = torch.arange(20.0).reshape(10, 2)
    y = {"a": torch.zeros(10), "b": torch.ones(10)}

    def loss(preds, labels):
        return (preds["a"] - labels["a"]).mean()

    model = KerasModel(TwoHeads(), loss, {"gap": gap})
    found = {model.evaluate((x, y), batch_size=size)["val_gap"] for size in (10, 3, 5)}
    assert len(found) == 1
    assert found.pop() == pytest.approx((x[:, 0].mean() + 10 * (x[:, 1] - 1).abs().mean()).item())
