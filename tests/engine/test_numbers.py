"""Losses and metrics are the same at every batch size, and those of all samples at once."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchkeras import KerasModel
from torchkeras.weighting import weighing

N = 70
SIZES = [1, 3, 7, 32, 69, 70]


def problem(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 5, generator=generator, dtype=dtype)
    y = torch.randint(0, 4, (N,), generator=generator)
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4)).to(dtype), x, y


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("size", SIZES)
def test_evaluate_gives_the_loss_and_accuracy_of_all_samples_at_once(size, dtype, tolerance):
    net, x, y = problem(dtype)
    found = KerasModel(net, "cross_entropy", ["accuracy"]).evaluate((x, y), batch_size=size)
    with torch.no_grad():
        whole = nn.functional.cross_entropy(net(x), y).item()
    assert found["val_loss"] == pytest.approx(whole, rel=tolerance)
    assert found["val_accuracy"] == pytest.approx((net(x).argmax(1) == y).double().mean().item(), rel=tolerance)


def test_control_a_mean_of_batch_means_is_another_number():
    net, x, y = problem()
    with torch.no_grad():
        whole = nn.functional.cross_entropy(net(x), y).item()
        means = [nn.functional.cross_entropy(net(a), b).item() for a, b in zip(x.split(32), y.split(32), strict=True)]
    assert abs(sum(means) / len(means) - whole) > 1e-6


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("loss_fn", [
    nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)),
    nn.CrossEntropyLoss(ignore_index=2), nn.CrossEntropyLoss(reduction="sum"),
    nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64), ignore_index=1),
], ids=["weight", "ignore_index", "sum", "both"])
def test_losses_with_their_own_denominator_are_right_too(size, loss_fn):
    net, x, y = problem()
    found = KerasModel(net, loss_fn).evaluate((x, y), batch_size=size)["val_loss"]
    with torch.no_grad():
        assert found == pytest.approx(loss_fn(net(x), y).item(), rel=1e-12)


@pytest.mark.parametrize("size", [1, 7, 70])
def test_history_gives_the_same_training_loss_at_every_batch_size(size):
    net, x, y = problem()
    frozen = torch.optim.SGD(net.parameters(), lr=0.0)
    history = KerasModel(net, "cross_entropy", ["accuracy"], frozen).fit(
        (x, y), val_data=(x, y), epochs=1, batch_size=size, ckpt_path=None, quiet=True)
    with torch.no_grad():
        whole = nn.functional.cross_entropy(net(x), y).item()
    assert history["train_loss"][0] == pytest.approx(whole, rel=1e-12)
    assert history["val_loss"][0] == pytest.approx(whole, rel=1e-12)
    assert history["train_accuracy"][0] == pytest.approx(history["val_accuracy"][0], rel=1e-12)


def accumulated(size: int, steps: int, loss_fn=None, **options) -> torch.Tensor:
    net, x, y = problem()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    KerasModel(net, loss_fn or nn.CrossEntropyLoss(), optimizer=optimizer).fit(
        (x, y), epochs=1, batch_size=size, shuffle=False, gradient_accumulation_steps=steps, ckpt_path=None, quiet=True,
        **options)
    return nn.utils.parameters_to_vector(net.parameters())


@pytest.mark.parametrize(("size", "steps"), [(8, 4), (5, 4), (16, 2), (3, 10)])
def test_accumulated_batches_equal_the_big_batch_on_the_last_shorter_window_too(size, steps):
    big = accumulated(size * steps, 1)
    assert torch.allclose(accumulated(size, steps), big, rtol=0, atol=1e-12)
    assert not torch.allclose(accumulated(size, steps * 2), big, rtol=0, atol=1e-6)


def test_accumulation_with_class_weights_in_the_loss_equals_the_big_batch():
    loss_fn = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64))
    assert torch.allclose(accumulated(8, 4, loss_fn), accumulated(32, 1, loss_fn), rtol=0, atol=1e-12)


def test_accumulation_of_a_summed_loss_equals_the_big_batch():
    loss_fn = nn.CrossEntropyLoss(reduction="sum")
    assert torch.allclose(accumulated(8, 4, loss_fn), accumulated(32, 1, loss_fn), rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [1, 9, 70])
def test_sample_weights_give_the_weighted_sum_over_the_number_of_samples(size):
    net, x, y = problem()
    weights = torch.linspace(0, 2, N, dtype=torch.float64)
    with torch.no_grad():
        expected = (nn.functional.cross_entropy(net(x), y, reduction="none") * weights).sum().item() / N
        unweighted = nn.functional.cross_entropy(net(x), y).item()
    found = KerasModel(net, "cross_entropy").evaluate((x, y, weights), batch_size=size)["val_loss"]
    assert found == pytest.approx(expected, rel=1e-12)
    assert abs(found - unweighted) > 1e-3


def test_class_weights_weigh_training_and_leave_validation_alone():
    net, x, y = problem()
    history = KerasModel(net, nn.functional.cross_entropy, optimizer=torch.optim.SGD(net.parameters(), lr=0.0)).fit(
        (x, y), (x, y), epochs=1, class_weight={0: 5.0, 2: 0.0}, ckpt_path=None, quiet=True)
    with torch.no_grad():
        losses = nn.functional.cross_entropy(net(x), y, reduction="none")
    weights = torch.tensor([5.0, 1.0, 0.0, 1.0], dtype=torch.float64)[y]
    assert history["train_loss"][0] == pytest.approx((losses * weights).mean().item(), rel=1e-12)
    assert history["val_loss"][0] == pytest.approx(losses.mean().item(), rel=1e-12)


def test_a_net_that_brings_its_own_loss_trains_on_dict_batches():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 4)

        def forward(self, x, labels=None):
            logits = self.layer(x)
            return {"logits": logits, "loss": nn.functional.cross_entropy(logits, labels)}

    _, x, y = problem(torch.float32)
    model = KerasModel(Own(), metrics_dict={"acc": "accuracy"}, optimizer="sgd")
    rows = [{"x": a, "labels": b} for a, b in zip(x.split(10), y.split(10), strict=True)]
    history = model.fit(rows, rows, epochs=3, ckpt_path=None, quiet=True)
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
    assert 0 <= history["val_acc"].iloc[-1] <= 1


def test_nets_with_two_inputs_train_on_nested_tuples_and_dicts():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 1)

        def forward(self, left, right):
            return self.layer(left) - self.layer(right)

    x = torch.randn(40, 5)
    y = x.sum(1, keepdim=True)
    one, other = Two(), Two()
    other.load_state_dict(one.state_dict())
    for net, features in ((one, (x, -x)), (other, {"left": x, "right": -x})):
        model = KerasModel(net, "mse", optimizer=torch.optim.SGD(net.parameters(), lr=0.01))
        model.fit((features, y), epochs=2, ckpt_path=None, quiet=True, seed=1)
    assert torch.equal(one.layer.weight, other.layer.weight)


def test_a_function_metric_sees_all_samples_at_once():
    net, x, y = problem()

    def spread(preds, labels):
        return float(preds.double().std())

    model = KerasModel(net, "cross_entropy", {"spread": spread})
    with torch.no_grad():
        whole = float(net(x).std())
        by_batch = sum(float(net(part).std()) for part in x.split(10)) / 7
    assert model.evaluate((x, y), batch_size=10)["val_spread"] == pytest.approx(whole, rel=1e-12)
    assert abs(by_batch - whole) > 1e-3


def test_predict_gives_each_sample_once_in_order_at_every_batch_size():
    net, x, y = problem(torch.float32)
    model = KerasModel(net, "cross_entropy")
    with torch.no_grad():
        whole = net(x)
    for size in SIZES:
        preds, labels = model.predict((x, y), batch_size=size, with_labels=True)
        assert torch.allclose(preds, whole, atol=1e-6)
        assert torch.equal(labels, y)
    assert not torch.allclose(model.predict(x.flip(0)), whole)
    streamed = list(model.predict(x, batch_size=32, stream=True))
    assert [len(part) for part in streamed] == [32, 32, 6]
    assert torch.allclose(torch.cat(streamed), whole, atol=1e-6)


def test_predict_reads_outputs_as_the_loss_understands_them():
    net, x, y = problem(torch.float32)
    with torch.no_grad():
        raw = net(x)
    model = KerasModel(net, "cross_entropy")
    assert torch.allclose(model.predict(x, output="probabilities"), raw.softmax(1))
    assert torch.equal(model.predict(x, output="classes"), raw.argmax(1))
    assert model.predict(x, as_numpy=True).shape == (N, 4)
    binary = KerasModel(nn.Sequential(net, nn.Linear(4, 1)), "bce_with_logits")
    with torch.no_grad():
        logits = binary.net(x)
    assert torch.allclose(binary.predict(x, output="probabilities"), logits.sigmoid())
    assert torch.equal(binary.predict(x, output="classes"), (logits >= 0).long())
    with pytest.raises(ValueError, match="output: received .* mse|MSELoss"):
        KerasModel(net, "mse").predict(x, output="classes")


def test_batchnorm_and_dropout_do_not_move_in_evaluate_and_predict():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 4))
    _, x, y = problem(torch.float32)
    model, before = KerasModel(net, "cross_entropy"), {k: v.clone() for k, v in net.state_dict().items()}
    assert torch.equal(model.predict(x), model.predict(x))
    model.evaluate((x, y))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training
    net(x)
    assert not torch.equal(net[1].running_mean, before["1.running_mean"])  # control: a training pass does move it


def test_mixed_precision_bf16_trains_on_the_cpu_with_weights_in_float32():
    _, x, y = problem(torch.float32)
    torch.manual_seed(3)
    net = nn.Linear(5, 4)
    seen = []
    net.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    history = KerasModel(net, "cross_entropy", ["accuracy"]).fit(
        (x, y), (x, y), epochs=2, mixed_precision="bf16", ckpt_path=None, quiet=True)
    assert set(seen) == {torch.bfloat16}
    assert net.weight.dtype == torch.float32
    assert all(map(math.isfinite, history["val_loss"]))
    seen.clear()
    KerasModel(net, "cross_entropy").fit((x, y), epochs=1, ckpt_path=None, quiet=True)  # a second fit, other precision
    assert set(seen) == {torch.float32}


def test_loader_and_dataset_and_arrays_give_the_same_numbers():
    net, x, y = problem(torch.float32)
    model = KerasModel(net, "cross_entropy")
    found = [model.evaluate(data) for data in ((x, y), TensorDataset(x, y), DataLoader(TensorDataset(x, y), 32),
                                               (x.numpy(), y.numpy()), {"input": x, "labels": y},
                                               [(x[:40], y[:40]), (x[40:], y[40:])])]
    assert all(one["val_loss"] == pytest.approx(found[0]["val_loss"], rel=1e-6) for one in found)


def test_an_epochs_loss_has_the_same_bits_however_often_it_was_read_on_the_way():
    from torchkeras.weighting.averages import AverageMeter

    losses = torch.rand(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    seldom, often = AverageMeter(), AverageMeter()
    for number, loss in enumerate(losses):
        for means in (seldom, often):
            means.add({"train_loss": loss}, 7 + number % 3)
        if number % 11 == 0:
            often.result()
    assert seldom.result()["train_loss"].hex() == often.result()["train_loss"].hex()
    products, weight = [loss * (7 + number % 3) for number, loss in enumerate(losses)], sum(
        7 + number % 3 for number in range(1000))
    by_parts = {(sum(sum(products[begin:begin + size]) for begin in range(0, 1000, size)) / weight).hex()
                for size in range(2, 60)}
    assert len(by_parts) > 1  # the order of additions does show


def test_the_table_of_class_weights_is_built_once():
    weighing.class_column.cache_clear()
    labels, table = torch.tensor([0, 2, 1, 7]), {0: 2.0, 2: 0.5}
    for _ in range(3):
        found = weighing.class_weights_of(table, torch.zeros(4, 8), labels, None)
        assert found.tolist() == [2.0, 0.5, 1.0, 1.0]
    assert weighing.class_column.cache_info().misses == 1
    table[0] = 3.0  # another table, though the same object
    assert weighing.class_weights_of(table, torch.zeros(4, 8), labels, None).tolist() == [3.0, 0.5, 1.0, 1.0]
