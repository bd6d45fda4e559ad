"""What a run keeps: all of a net's state, buffers of any shape, names of the bare net, frozen weights once."""

import copy
import gc
import os
import signal
from collections import Counter

import pytest
import torch
from safetensors.torch import save_file
from tests.faults.runs import StopAt
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

from torchkeras import Callback, CheckpointCorruptError, KerasModel, load_weights
from torchkeras.checkpoint import state_folder, weight_file
from torchkeras.state.weights import checksum

X = torch.randn(48, 4, generator=torch.Generator().manual_seed(0))
Y = 2 * X[:, :1]


class At(Callback):
    """Does something at each training step or epoch, and takes down the net's state after each epoch."""

    def __init__(self, step=None, epoch=None):
        self.step, self.epoch, self.states = step, epoch, {}

    def on_epoch_start(self, model):
        if self.epoch is not None:
            self.epoch(model)

    def on_step_end(self, model):
        if self.step is not None and model.run.stage == "train":
            self.step(model)

    def on_validation_epoch_end(self, model):
        self.states[model.run.epoch] = state(model.net)


def state(net):
    """Return a copy of all parameters and buffers, those that state dicts leave out too."""
    buffers = {f"{path}.{name}": one for path, module in net.named_modules() for name, one in module._buffers.items()}
    return {name: None if one is None else one.detach().clone() for name, one in
            [*net.named_parameters(), *buffers.items()]}


def same(one, other):
    return one.keys() == other.keys() and all(
        (one[name] is None and other[name] is None) or (
            one[name] is not None and other[name] is not None and one[name].dtype == other[name].dtype
            and torch.equal(one[name], other[name])) for name in one)


def fit(net, path=None, best=None, epochs=3, **options):
    """Train; ``best`` makes an epoch the best one."""
    now = [0]
    model = KerasModel(net, "mse", {"near": lambda preds, labels: -abs(now[0] - (best or 99))},
                       torch.optim.Adam(net.parameters(), 0.05))

    class Now(Callback):
        def on_epoch_start(self, model):
            now[0] = model.run.epoch

    callbacks = [Now(), *options.pop("callbacks", ())]
    model.fit(DataLoader(TensorDataset(X, Y), 8, shuffle=True), DataLoader(TensorDataset(X, Y), 16), epochs=epochs,
              ckpt_path=path, monitor="val_near", mode="max", patience=None, seed=1, quiet=True, callbacks=callbacks,
              **options)
    return model


def stop_at(step):
    return At(step=lambda model: model.run.stop("by the test") if model.run.global_step == step else None)


# state that is no tensor


class Extra(nn.Module):
    """Counts its calls in its extra state, or has another."""

    def __init__(self, extra="count"):
        super().__init__()
        self.layer, self.extra, self.calls = nn.Linear(4, 1), extra, 0

    def forward(self, x):
        self.calls += self.training
        return self.layer(x)

    def get_extra_state(self):
        return {"calls": self.calls} if self.extra == "count" else self.extra

    def set_extra_state(self, extra):
        self.calls = extra["calls"] if self.extra == "count" else 0
        self.got = extra


@pytest.mark.parametrize("extra", [None, {"a": 1, "t": torch.ones(2)}, torch.arange(3), b"bytes", [1, (2, {"b": 3})]],
                         ids=["None", "dict", "tensor", "bytes", "nested"])
def test_extra_state_is_in_the_file_that_plain_torch_loads(extra, tmp_path):
    net, plain, own = (nn.Sequential(Extra(extra)) for _ in range(3))
    fit(net, tmp_path / "best.pt", epochs=1)
    plain.load_state_dict(torch.load(tmp_path / "best.pt", weights_only=True))
    KerasModel(own, "mse").load_ckpt(tmp_path / "best.pt")
    assert same(state(plain), state(net))
    assert same(state(own), state(net))
    assert str(plain[0].got) == str(own[0].got) == str(extra)


def test_extra_state_is_put_back_with_the_best_weights_and_goes_on_with_a_resumed_run(tmp_path):
    net = nn.Sequential(Extra())
    fit(net, tmp_path / "best.pt", best=2)
    assert net[0].calls == 12  # six steps an epoch
    fit(nn.Sequential(Extra()), tmp_path / "run.pt", resume=True, callbacks=[stop_at(8)])
    again = nn.Sequential(Extra())
    fit(again, tmp_path / "run.pt", resume=True)
    assert again[0].calls == 18


class Unknown:
    """Of no kind that can be loaded without running code."""


class Hooked(nn.Module):
    """Adds a value to its state dict."""

    def __init__(self, value):
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self._register_state_dict_hook(lambda module, found, prefix, _: found.update({f"{prefix}more": value}))
        self.register_load_state_dict_pre_hook(lambda module, found, prefix, *_: found.pop(f"{prefix}more", None))

    def forward(self, x):
        return self.layer(x)


class WithoutSetter(nn.Linear):
    def get_extra_state(self):
        return {"a": 1}


class Kept(nn.Module):
    """A net with a buffer of any kind."""

    def __init__(self, buffer):
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.register_buffer("odd", buffer)

    def forward(self, x):
        return self.layer(x)


class Sub(torch.Tensor):
    """A subclass of Tensor that torch does not know."""


@pytest.mark.parametrize(("net", "name", "words"), [
    (lambda: nn.Sequential(Extra(Unknown())), "best.pt", "0._extra_state is a Unknown.*ckpt_path=None"),
    (lambda: nn.Sequential(Extra({"a": 1})), "best.safetensors", "0._extra_state is a dict.*best.pt"),
    (lambda: Hooked(Unknown()), "best.pt", "more is a Unknown"),
    (lambda: WithoutSetter(4, 1), "best.pt", "set_extra_state"),
    (lambda: Kept(torch.ones(2).as_subclass(Sub)), "best.pt", "odd is a Sub"),
    (lambda: Kept(torch.eye(2).to_sparse()), "best.safetensors", "odd is a tensor of torch.float32, torch.sparse_coo"),
    (lambda: Kept(torch.ones(2, dtype=torch.complex128)), "best.safetensors", "odd is a tensor of torch.complex128"),
], ids=["extra", "safetensors", "hook", "no setter", "subclass", "sparse", "complex"])
def test_what_a_file_cannot_hold_is_refused_before_training(net, name, words, tmp_path):
    net = net()
    before = state(net) if not name.endswith("odd") else None
    with pytest.raises(ValueError, match=words):
        fit(net, tmp_path / name)
    with pytest.raises(ValueError, match=words):
        KerasModel(net, "mse").save_ckpt(tmp_path / name)
    assert not list(tmp_path.iterdir())
    assert all(torch.equal(net.get_parameter(key), before[key]) for key, _ in net.named_parameters())


@pytest.mark.parametrize("buffer", [torch.eye(2).to_sparse(), torch.ones(2, dtype=torch.complex128)])
def test_a_state_that_safetensors_cannot_hold_is_refused_before_the_first_step(buffer, tmp_path):
    net = Kept(buffer)
    before = net.layer.weight.detach().clone()
    with pytest.raises(TypeError, match="odd: received.*Without resume and save_every"):
        fit(net, tmp_path / "best.pt", resume=True)
    assert torch.equal(net.layer.weight, before)


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_nets_file_holds_its_weights(tmp_path):
    def build():
        part = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear}, dtype=torch.qint8)
        return nn.ModuleDict({"part": part, "head": nn.Linear(4, 1)})

    saved, plain, own = build(), build(), build()
    path = tmp_path / "best.pt"
    KerasModel(saved, "mse", optimizer=torch.optim.SGD(saved["head"].parameters(), 0.1)).save_ckpt(path)
    plain.load_state_dict(torch.load(path, weights_only=True))
    load_weights(own, path)
    for net in (plain, own):
        assert torch.equal(net["head"](net["part"](X)), saved["head"](saved["part"](X)))
    with pytest.raises(ValueError, match=r"part.0._packed_params.dtype is a dtype.*best.pt"):
        KerasModel(saved, "mse").save_ckpt(tmp_path / "best.safetensors")


class Versioned(nn.Linear):
    """Changed in its second version: files of the first hold another sign."""

    _version = 2

    def _load_from_state_dict(self, found, prefix, metadata, *others):
        if metadata.get("version", 1) < 2:
            found[f"{prefix}weight"] = -found[f"{prefix}weight"]
        super()._load_from_state_dict(found, prefix, metadata, *others)


@pytest.mark.parametrize("name", ["best.pt", "best.safetensors"])
def test_versions_of_modules_are_in_the_file_and_in_the_state(name, tmp_path):
    net, other, again = (Versioned(4, 1) for _ in range(3))
    fit(net, tmp_path / name, resume=True)
    KerasModel(other, "mse").load_ckpt(tmp_path / name)
    fit(again, tmp_path / name, resume=True)
    assert same(state(other), state(net))
    assert same(state(again), state(net))
    bare = Versioned(4, 1)
    bare.load_state_dict(dict(net.state_dict()))  # control: without the versions
    assert not same(state(bare), state(net))


# buffers whose shapes follow the data


class Bank(nn.Module):
    """Remembers what it saw in a buffer that grows, changes its type, or comes and goes."""

    def __init__(self, how="grows", empty=True, persistent=True, fails=False):
        super().__init__()
        torch.manual_seed(5)
        self.layer, self.how, self.fails = nn.Linear(4, 1), how, fails
        self.register_buffer("bank", torch.zeros(0, 4) if empty else None, persistent=persistent)
        self.register_buffer("seen", torch.tensor(0), persistent=persistent)

    def forward(self, x):
        if self.training:
            self.remember(x.detach())
        if self.fails:
            raise ValueError("the net's own error")
        shift = 0.0 if self.bank is None or not self.bank.numel() else 1e-3 * self.bank.float().mean()
        return self.layer(x) + shift

    def remember(self, x):
        before = x[:0] if self.bank is None else self.bank
        if self.how == "grows":
            self.bank = torch.cat([before, x])
        elif self.how == "alias":
            self.bank = x
        elif self.how == "type":
            self.bank = torch.cat([before.float(), x]).double()
        elif self.how == "comes and goes":
            self.bank = x if self.bank is None else None
        elif self.how == "scalar":
            self.seen = torch.arange(self.seen.numel() + 1)


WAYS = [(how, empty, persistent) for how in ("grows", "alias", "type", "comes and goes", "scalar")
        for empty in (True, False) for persistent in (True, False)]


@pytest.mark.parametrize("way", WAYS)
def test_buffers_of_the_best_epoch_come_back_in_their_shapes(way, tmp_path):
    net, at, data = Bank(*way), At(), X.clone()
    fit(net, None, best=2, callbacks=[at])
    assert same(state(net), at.states[2])
    assert not same(at.states[3], at.states[2])  # control
    assert torch.equal(X, data)  # a buffer may be the batch itself: nothing was written into it


@pytest.mark.parametrize("way", WAYS)
def test_a_first_batch_that_fails_is_reported_as_itself_and_leaves_buffers_as_they_were(way):
    net = Bank(*way, fails=True)
    before = state(net)
    with pytest.raises(ValueError, match="the net's own error"):
        fit(net)
    assert same(state(net), before)


@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_run_has_the_buffers_of_the_run_without_a_break(way, tmp_path):
    whole = Bank(*way)
    fit(whole)
    fit(Bank(*way), tmp_path / "best.pt", resume=True, save_every=4, callbacks=[stop_at(9)])
    again = Bank(*way)
    fit(again, tmp_path / "best.pt", resume=True)
    assert same(state(again), state(whole))


@pytest.mark.parametrize("name", ["best.pt", "best.safetensors"])
@pytest.mark.parametrize("empty", [True, False])
def test_a_file_with_a_larger_buffer_is_loaded_into_a_fresh_net(name, empty, tmp_path):
    net, fresh = Bank("grows", empty), Bank("grows", empty)
    fit(net, tmp_path / name, epochs=1)
    report = KerasModel(fresh, "mse").load_ckpt(tmp_path / name)
    assert same(state(fresh), state(net))
    assert "bank" in report.loaded


@pytest.mark.parametrize("build", [lambda n: nn.Linear(4, n), lambda n: nn.BatchNorm1d(n, affine=False)])
def test_parameters_and_buffers_of_torchs_layers_of_another_shape_are_refused(build):
    with pytest.raises(ValueError, match="in the source"):
        load_weights(build(2), build(3).state_dict())


def test_a_lazy_net_takes_weights():
    full, lazy = (nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d()) for _ in range(2))
    full(X)
    load_weights(lazy, full.state_dict())
    assert same(state(lazy), state(full))


# wrapped parts


class Parts(nn.Module):
    """A net of which parts may be wrapped."""

    def __init__(self, first=lambda part: part, second=lambda part: part):
        super().__init__()
        torch.manual_seed(3)
        self.features = first(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)))
        self.rest = nn.ModuleDict({"a": nn.ModuleList([second(first(nn.Linear(6, 1)))])})

    def forward(self, x):
        return self.rest["a"][0](self.features(x))


class Named(nn.Module):
    """Has parts that are called as wrappers call theirs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.module, self._orig_mod, self.weight = nn.Linear(4, 4), nn.Linear(4, 1), nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self._orig_mod(self.module(x)) * self.weight


def compiled(part):
    return torch.compile(part, backend="eager")


WRAPPED = {"bare": Parts, "compiled": lambda: Parts(compiled), "parallel": lambda: Parts(nn.DataParallel),
           "both": lambda: Parts(compiled, nn.DataParallel), "around": lambda: nn.DataParallel(Parts(compiled))}


@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.parametrize("name", ["best.pt", "best.safetensors"])
def test_files_have_the_names_of_the_bare_net_and_load_into_nets_wrapped_in_any_way(kind, name, tmp_path):
    net = WRAPPED[kind]()
    with torch.no_grad():
        net.get_parameter(next(name for name, _ in net.named_parameters())).add_(1)
    KerasModel(net, "mse").save_ckpt(tmp_path / name)
    torch.save(net.state_dict(), tmp_path / "own names.pt")  # as 5.0.0a1 wrote them
    values = list(net.state_dict().values())
    assert set(weight_file.read_weights(tmp_path / name)) == set(Parts().state_dict())
    for build in WRAPPED.values():
        for source in (name, "own names.pt"):
            other = build()
            load_weights(other, tmp_path / source)
            assert all(torch.equal(*both) for both in zip(other.state_dict().values(), values, strict=True))


@pytest.mark.filterwarnings("ignore")  # torch's own, of gradients within compiled parts
@pytest.mark.parametrize("kind", ["compiled", "around"])
def test_a_run_goes_on_with_a_net_that_is_wrapped_in_another_way(kind, tmp_path):
    whole = Parts()
    fit(whole)
    fit(WRAPPED[kind](), tmp_path / "best.pt", resume=True, save_every=4, callbacks=[stop_at(9)])
    again = WRAPPED["both"]()
    fit(again, tmp_path / "best.pt", resume=True)
    assert list(map(torch.Tensor.tolist, again.parameters())) == list(map(torch.Tensor.tolist, whole.parameters()))


@pytest.mark.parametrize("build", [Named, lambda: AveragedModel(Parts())])
@pytest.mark.parametrize("wrap", [lambda net: net, nn.DataParallel, compiled])
def test_parts_that_are_called_like_wrappers_keep_their_names(build, wrap, tmp_path):
    net = wrap(build())
    KerasModel(net, "mse").save_ckpt(tmp_path / "best.pt")
    assert list(torch.load(tmp_path / "best.pt")) == list(build().state_dict())
    for source in (tmp_path / "best.pt", net.state_dict()):
        other = build()
        load_weights(other, source)
        assert all(torch.equal(*both) for both in zip(other.state_dict().values(), net.state_dict().values(),
                                                      strict=True))


# frozen weights


class Probe(nn.Module):
    """A frozen backbone and a head that learns."""

    def __init__(self, width=2000):
        super().__init__()
        torch.manual_seed(4)
        self.body = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 4)).requires_grad_(False)
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.body(x))


def moves(model):
    model.net.body[0].weight.data.mul_(0.99)  # does not count as a change for torch


def thaws(model):
    if model.run.epoch == 3:
        model.net.body[2].requires_grad_(True)


def freezes(model):
    model.net.head.bias.requires_grad_(model.run.epoch != 2)


CHANGES = {"nothing": {}, "moves": {"step": moves}, "thaws": {"epoch": thaws}, "freezes": {"epoch": freezes}}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("best", [1, 3, 4])
@pytest.mark.parametrize("name", ["best.pt", None])
def test_the_best_weights_come_back_whatever_happened_to_frozen_ones(change, best, name, tmp_path):
    net, at = Probe(), At(**CHANGES[change])
    fit(net, name and tmp_path / name, best, epochs=4, callbacks=[at])
    assert same(state(net), at.states[best])
    if name:
        assert same(dict(torch.load(tmp_path / name)), at.states[best])
        assert [one.name for one in tmp_path.iterdir()] == [name]


def test_frozen_weights_that_were_changed_after_the_best_come_from_its_file_and_without_one_it_is_told(tmp_path):
    def late(model):
        if model.run.epoch == 3:
            model.net.body[0].weight.data.zero_()

    net, at = Probe(), At(epoch=late)
    fit(net, tmp_path / "best.pt", 2, callbacks=[at])
    assert same(state(net), at.states[2])
    net, at = Probe(), At(epoch=late)
    model = fit(net, None, 2, callbacks=[at])
    assert not same(state(net), at.states[2])
    assert any("body.0.weight did not learn and changed" in note for note in model.run.notes)


@pytest.mark.parametrize("change", CHANGES)
def test_a_resumed_run_has_the_frozen_weights_of_the_run_without_a_break(change, tmp_path):
    whole, again = Probe(), Probe()
    fit(whole, None, epochs=4, callbacks=[At(**CHANGES[change])])
    fit(Probe(), tmp_path / "best.pt", epochs=4, resume=True, save_every=2,
        callbacks=[At(**CHANGES[change]), stop_at(15)])
    fit(again, tmp_path / "best.pt", epochs=4, resume=True, callbacks=[At(**CHANGES[change])])
    assert same(state(again), state(whole))


def test_frozen_weights_are_copied_by_nobody_during_a_run():
    net = Probe(2003)  # no other test's
    most = []

    def look(model):
        gc.collect()
        own = {one.data_ptr() for one in model.net.parameters()}
        found = copies_of(model.net, own)
        most.append(max(found.values(), default=0))

    looks = At(step=look)
    looks.on_validation_epoch_end = lambda model: None  # else its own copies are found
    gc.freeze()  # what there was before takes long to look through
    try:
        fit(net, None, callbacks=[looks])
        copies = copy.deepcopy(net.body)
        assert max(copies_of(net, {one.data_ptr() for one in net.parameters()}).values()) == 1  # control
        del copies
    finally:
        gc.unfreeze()
    assert max(most) == 0


def copies_of(net, own):
    """Return how many tensors other than the net's have the shape of each large frozen weight."""
    shapes = {tuple(weight.shape) for weight in net.body.parameters() if weight.numel() > 100}
    return Counter(tuple(one.shape) for one in gc.get_objects() if type(one) in (torch.Tensor, nn.Parameter)
                   and tuple(one.shape) in shapes and one.data_ptr() not in own)


def test_frozen_weights_are_written_once_while_the_run_goes_on(tmp_path):
    sizes = []

    def look(model):
        sizes.append({one.name: one.stat().st_size for one in tmp_path.iterdir() if one.is_file()})

    fit(Probe(), tmp_path / "best.pt", None, epochs=4, callbacks=[At(epoch=look)])
    assert sizes[1].keys() == {"best.pt"}
    assert sizes[3]["best.pt.learning"] < sizes[3]["best.pt"] / 10
    assert [one.name for one in tmp_path.iterdir()] == ["best.pt"]


def test_states_link_frozen_weights_in_place_of_writing_them_again(tmp_path):
    fit(Probe(), tmp_path / "best.pt", resume=True)
    places = [one for one in sorted((tmp_path / "best.pt.state").iterdir()) if one.is_dir()]
    frozen = [one / "frozen.safetensors" for one in places]
    assert len(places) == 2
    assert len({one.stat().st_ino for one in frozen}) == 1
    assert all((one / "weights.safetensors").stat().st_size < frozen[0].stat().st_size / 10 for one in places)


def killed(path, epoch, **options):
    """Train in another process, which is killed as an epoch begins."""
    def kill(model):
        if model.run.epoch == epoch:
            os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        try:
            fit(Probe(), path, epochs=4, callbacks=[At(epoch=kill)], **options)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("name", ["best.pt", "best.safetensors"])
def test_what_a_killed_run_left_beside_its_file_is_loaded_with_it_and_never_with_another(name, tmp_path):
    path = tmp_path / name
    killed(path, 4)
    assert (tmp_path / f"{name}.learning").exists()
    third, found, at = Probe(), Probe(), At()
    fit(third, None, epochs=3, callbacks=[at])
    report = KerasModel(found, "mse").load_ckpt(path)
    assert same(state(found), at.states[3])
    assert f"{name}.learning" in str(report)
    other = Probe()
    with torch.no_grad():
        other.head.weight.add_(1)
    torch.save(other.state_dict(), path) if name.endswith("pt") else save_file(other.state_dict(), path)
    report = load_weights(found, path)
    assert same(state(found), state(other))
    assert "left aside" in str(report)
    KerasModel(other, "mse").save_ckpt(path)
    assert [one.name for one in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_resumed_run_makes_the_file_of_a_killed_one_whole(tmp_path):
    killed(tmp_path / "best.pt", 4, resume=True)
    whole, again = Probe(), Probe()
    fit(whole, None, epochs=4)
    fit(again, tmp_path / "best.pt", epochs=4, resume=True)
    assert same(state(again), state(whole))
    assert same(dict(torch.load(tmp_path / "best.pt")), state(whole))
    assert not (tmp_path / "best.pt.learning").exists()


def test_a_run_that_fails_leaves_one_whole_file(tmp_path):
    def fails(model):
        if model.run.epoch == 4:
            raise ValueError("the callback's own")

    net, at = Probe(), At(epoch=fails)
    with pytest.raises(ValueError, match="the callback's own"):
        fit(net, tmp_path / "best.pt", None, epochs=4, callbacks=[at])
    assert same(dict(torch.load(tmp_path / "best.pt")), at.states[3])
    assert [one.name for one in tmp_path.iterdir()] == ["best.pt"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.bool, torch.complex64])
def test_a_checksum_changes_with_any_number_and_with_their_order(dtype):
    value = torch.randn(3001).mul(100).to(dtype) if dtype != torch.bool else torch.randn(3001) > 0
    other, swapped = value.clone(), value.clone()
    other[2999] = ~other[2999] if dtype == torch.bool else other[2999] + 1
    first = int((value != value[0]).nonzero()[0])
    swapped[0], swapped[first] = value[first], value[0]
    assert checksum(value) == checksum(value.clone())
    assert len({checksum(one) for one in (value, other, swapped, value[1:], value.reshape(1, -1))}) == 5


@pytest.mark.parametrize("change", [
    lambda: (torch.randn(64, 64, dtype=torch.float64), lambda one: -one),
    lambda: (torch.randn(64, 64, dtype=torch.complex64), lambda one: one.conj().resolve_conj()),
    lambda: (torch.eye(512, dtype=torch.float64), lambda one: one.flip(0)),
    lambda: (torch.zeros(4096), lambda one: one.neg())])
def test_a_checksum_sees_signs_and_places(change):
    value, changed = change()
    assert checksum(value) != checksum(changed(value))


class ThawInMidEpoch(Callback):
    def on_step_end(self, model):
        if model.run.stage == "train" and model.run.global_step == 6:
            model.net[0].weight.requires_grad_(True)
            model.optimizer.add_param_group({"params": [model.net[0].weight], "lr": 0.1})


@pytest.mark.parametrize("path", ["best.pt", None])
@pytest.mark.parametrize("stops", [(), (5, 9), (7,)])
def test_weights_that_a_callback_thaws_in_mid_epoch_come_back_as_they_were_at_the_best(tmp_path, path, stops):
    if path is None and stops:
        pytest.skip("a run without a path keeps no state")
    x, y = torch.randn(32, 4, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 3
    for stop in (*stops, None):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
        net[0].weight.requires_grad_(False)
        frozen = net[0].weight.detach().clone()
        model = KerasModel(net, "cross_entropy", optimizer=torch.optim.SGD(net[2].parameters(), lr=0.01))
        model.fit((x, y), (x, y), epochs=4, batch_size=8, seed=0, quiet=True, mode="max", patience=None,
                  resume=bool(stops),
                  ckpt_path=path and tmp_path / path,
                  callbacks=[ThawInMidEpoch(), *([] if stop is None else [StopAt(stop)])])
    assert model.run.monitor.best_epoch == 1
    assert torch.equal(net[0].weight, frozen)
    assert not any("did not learn" in note for note in model.run.notes)
    assert path is None or torch.equal(torch.load(tmp_path / path)["0.weight"], frozen)


def test_a_state_of_a_newer_version_is_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr(state_folder, "VERSION", 9)
    monkeypatch.setattr(state_folder, "FIRST_LINE", "torchkeras-state 9")
    monkeypatch.setattr(state_folder.format_manifest, "__defaults__", ("torchkeras-state 9",))
    fit(Parts(), tmp_path / "best.pt", resume=True)
    monkeypatch.undo()
    with pytest.raises(CheckpointCorruptError, match="newer torchkeras.*state format 9.*update torchkeras"):
        fit(Parts(), tmp_path / "best.pt", resume=True)
