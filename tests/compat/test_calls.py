"""Calls of older notebooks, as they are written there, with the values that they give."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torchkeras
from torchkeras import KerasModel, Model, StepRunner, VLog, summary
from torchkeras.metrics import IOU, Accuracy

X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1, keepdim=True) > 0).float()


def loader(size=10):
    return DataLoader(TensorDataset(X, Y), batch_size=size)


def keras_model(kind=KerasModel, net=None, **parts):
    torch.manual_seed(0)
    net = net or nn.Linear(4, 1)
    return kind(net, nn.BCEWithLogitsLoss(), **{"optimizer": torch.optim.SGD(net.parameters(), lr=0.5)} | parts)


def compiled(**options):
    torch.manual_seed(0)
    model = Model(nn.Linear(4, 1))
    model.compile(loss_func=nn.BCEWithLogitsLoss(), optimizer=torch.optim.SGD(model.parameters(), lr=0.5), **options)
    return model


# --- fit, compile and evaluate ---


def test_fit_takes_its_loaders_by_position(capsys):
    named, placed, bare = compiled(), compiled(), compiled()
    expected = named.fit(2, dl_train=loader(), dl_val=loader(), log_step_freq=2)
    assert placed.fit(2, loader(), loader(), log_step_freq=2).equals(expected)
    assert compiled().fit(2, loader(), loader(), 2).equals(expected)
    assert compiled().fit(2, loader(), dl_val=loader()).equals(expected)
    printed = capsys.readouterr().out
    assert printed.count("{'step': 2") == 4 * 2
    assert printed.count("{'step': 1,") == 2  # the last one prints every step
    assert list(bare.fit(1, loader(), verbose=0).columns) == ["epoch", "loss"]
    with pytest.raises(TypeError, match="dl_train twice, by position and by name"):
        compiled().fit(2, loader(), dl_train=loader())
    with pytest.raises(TypeError, match="epochs without dl_train"):  # control
        compiled().fit(2)


def test_a_device_is_named_in_compile():
    model = compiled(device=torch.device("cpu"))
    assert model.fit(1, loader(), verbose=0).equals(compiled().fit(1, loader(), verbose=0))
    assert model.engine.run.config.cpu
    assert not compiled(device=None).compilation.cpu  # control
    assert compiled(device="cpu").evaluate(loader()).keys() == {"val_loss"}
    for wrong, error in (("meta", ValueError), ("gpu", ValueError), (0, TypeError)):
        with pytest.raises(error, match="device: received"):
            compiled(device=wrong)


def test_evaluate_is_told_to_be_quiet_or_not(capsys):
    model = keras_model(metrics_dict={"acc": Accuracy()})
    assert model.evaluate(loader(), quiet=True) == model.evaluate(loader())
    assert capsys.readouterr().out == ""
    found = model.evaluate(loader(), quiet=False)
    assert capsys.readouterr().out == f"val_loss: {found['val_loss']:.6g}  val_acc: {found['val_acc']:.6g}\n"


def test_the_size_of_a_loader_is_the_number_of_its_batches_in_an_epoch():
    steps = []

    class Count:
        def on_step_end(self, model):
            steps.append(model.run.stage)

    train, val = loader(), loader()
    train.size, val.size = 3, 2
    keras_model().fit(train, val, epochs=1, ckpt_path=None, quiet=True, callbacks=[Count()])
    assert (steps.count("train"), steps.count("val")) == (3, 2)


def test_an_epoch_0_has_rate_0():
    model = keras_model()
    model.from_scratch = False
    history = model.fit(loader(), loader(), epochs=1, ckpt_path=None, quiet=True)
    assert history["epoch"].tolist() == [0, 1]
    assert history["lr"].tolist() == [0.0, 0.5]


# --- metrics ---


def test_iou_of_one_class_is_that_of_background_and_foreground(capsys):
    preds, labels = torch.tensor([[1.0, -1.0, 2.0, -3.0]]), torch.tensor([[1, 0, 0, 0]])
    metric = IOU(num_classes=1, if_print=True)
    metric.update(preds, labels)
    # background: 2 of 3, foreground: 1 of 2
    assert metric.compute().item() == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert capsys.readouterr().out == "right: 0.7500, IoU of each class: 0.6667, 0.5000\n"
    silent = IOU(num_classes=1)
    silent.update(preds, labels)
    assert silent.compute() == metric.compute()
    capsys.readouterr()
    silent.compute()
    assert capsys.readouterr().out == ""
    keras_model(net=nn.Linear(4, 1), metrics_dict={"iou": IOU(num_classes=1, if_print=True)}).fit(
        loader(), loader(), epochs=2, ckpt_path=None, quiet=True)
    assert capsys.readouterr().out.count("right: ") == 4  # once a pass


def test_metrics_come_in_a_module_dict():
    history = keras_model(metrics_dict=nn.ModuleDict({"acc": Accuracy()})).fit(
        loader(), epochs=1, ckpt_path=None, quiet=True)
    expected = keras_model(metrics_dict={"acc": Accuracy()}).fit(loader(), epochs=1, ckpt_path=None, quiet=True)
    assert history.equals(expected)


# --- weights ---


def test_without_a_path_save_and_load_mean_that_of_the_last_fit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = keras_model()
    model.save_ckpt()
    assert os.listdir() == ["checkpoint"]
    model.fit(loader(), epochs=1, ckpt_path=tmp_path / "mine", quiet=True)
    best = model.net.weight.detach().clone()
    nn.init.zeros_(model.net.weight)
    model.load_ckpt()
    assert torch.equal(model.net.weight, best)
    nn.init.ones_(model.net.weight)
    model.save_ckpt()
    assert torch.load(tmp_path / "mine")["weight"].sum() == 4
    assert torch.load("checkpoint")["weight"].sum() != 4  # control


class Lora(nn.Module):
    """A linear layer with an adapter."""

    def __init__(self, layer):
        super().__init__()
        self.base, self.scale = layer, 1.0
        self.lora_A = nn.ModuleDict({"default": nn.Linear(4, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 1, bias=False)})
        nn.init.zeros_(self.lora_B["default"].weight)

    def forward(self, x):
        return self.base(x) + self.lora_B["default"](self.lora_A["default"](x))


class Adapted(nn.Module):
    """Saves and loads adapters, in a folder, as peft does: loading makes new parameters in the shared base."""

    def __init__(self, base):
        super().__init__()
        self.base_model = base
        self.inject()

    def inject(self):
        inner = self.base_model[0]
        self.base_model[0] = Lora(inner.base if isinstance(inner, Lora) else inner)
        self.base_model[0].base.requires_grad_(False)

    def forward(self, *args, **kwargs):
        return self.base_model(*args, **kwargs)

    def save_pretrained(self, folder):
        Path(folder).mkdir(exist_ok=True)
        found = {name: value for name, value in self.state_dict().items() if "lora_" in name}
        save_file(found, Path(folder) / "adapter_model.safetensors")
        (Path(folder) / "adapter_config.json").write_text(json.dumps({"r": 2}))

    @classmethod
    def from_pretrained(cls, base, folder, is_trainable=False):
        found = cls(base)
        found.load_state_dict(load_file(Path(folder) / "adapter_model.safetensors"), strict=False)
        for parameter in found.parameters():
            parameter.requires_grad_(is_trainable and parameter.requires_grad)
        return found


class Adapters(KerasModel):
    """As LoRA notebooks write it."""

    def save_ckpt(self, ckpt_path="checkpoint", accelerator=None):
        accelerator.unwrap_model(self.net).save_pretrained(ckpt_path)

    def load_ckpt(self, ckpt_path="checkpoint"):
        self.net = self.net.from_pretrained(self.net.base_model, ckpt_path)
        self.from_scratch = False


def adapters(net):
    learning = [one for one in net.parameters() if one.requires_grad]
    return keras_model(Adapters, net, optimizer=torch.optim.AdamW(learning, lr=0.1))


def test_a_folder_of_adapters_is_a_checkpoint_in_every_fit(tmp_path):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(4, 1))
    frozen = base[0].weight.detach().clone()
    model, losses = adapters(Adapted(base)), []
    for _ in range(3):
        history = model.fit(loader(), loader(), epochs=3, ckpt_path=tmp_path / "lora", quiet=True)
        losses.append(history["val_loss"].min())
        assert model.evaluate(loader())["val_loss"] == pytest.approx(losses[-1])
        assert sorted(os.listdir(tmp_path / "lora")) == ["adapter_config.json", "adapter_model.safetensors"]
    assert losses[0] > losses[1] > losses[2]  # the optimizer moves the new parameters
    assert torch.equal(model.net.base_model[0].base.weight, frozen)
    assert sum(one.requires_grad for one in model.net.parameters()) == 2
    held = {id(one) for group in model.optimizer.param_groups for one in group["params"]}
    assert held == {id(one) for one in model.net.parameters() if one.requires_grad}
    assert set(model.optimizer.state) == set(model.optimizer.param_groups[0]["params"])


def test_a_folder_whose_weights_cannot_be_compared_is_told_of(tmp_path):
    torch.manual_seed(0)
    model = adapters(Adapted(nn.Sequential(nn.Linear(4, 1))))
    for _ in range(2):
        model.fit(loader(), loader(), epochs=1, ckpt_path=tmp_path / "lora", quiet=True)
    assert any("load_ckpt puts other parameters in the place of the net's" in note for note in model.run.notes)


def test_a_folder_that_is_loaded_into_the_same_net_competes_as_epoch_0(tmp_path):
    class InPlace(Adapters):
        def load_ckpt(self, ckpt_path="checkpoint"):
            self.net.load_state_dict(load_file(Path(ckpt_path) / "adapter_model.safetensors"), strict=False)

    torch.manual_seed(0)
    net = Adapted(nn.Sequential(nn.Linear(4, 1)))
    learning = [one for one in net.parameters() if one.requires_grad]
    model = keras_model(InPlace, net, optimizer=torch.optim.SGD(learning, lr=0.5))
    first = model.fit(loader(), loader(), epochs=2, ckpt_path=tmp_path / "lora", quiet=True)["val_loss"].min()
    model.optimizer.param_groups[0]["lr"] = 100.0
    before = (tmp_path / "lora" / "adapter_model.safetensors").read_bytes()
    assert model.fit(loader(), loader(), epochs=1, ckpt_path=tmp_path / "lora", quiet=True)["val_loss"].min() > first
    assert (tmp_path / "lora" / "adapter_model.safetensors").read_bytes() == before
    assert model.evaluate(loader())["val_loss"] == pytest.approx(first)


def test_control_a_folder_is_no_file_for_our_own_save_ckpt(tmp_path):
    with pytest.raises(ValueError, match="ckpt_path: received the folder"):
        keras_model().fit(loader(), epochs=1, ckpt_path=tmp_path, quiet=True)


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@pytest.mark.parametrize("trainable", [True, False])
def test_adapters_of_peft_are_kept_in_a_folder(tmp_path, trainable):
    peft = pytest.importorskip("peft")

    class OfPeft(Adapters):
        def load_ckpt(self, ckpt_path="checkpoint"):
            self.net = self.net.from_pretrained(self.net.base_model.model, ckpt_path, is_trainable=trainable)

    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    net = peft.get_peft_model(base, peft.LoraConfig(target_modules=["0", "2"], r=2))
    learning = [one for one in net.parameters() if one.requires_grad]
    model = keras_model(OfPeft, net, optimizer=torch.optim.AdamW(learning, lr=0.05))
    losses = [model.fit(loader(), loader(), epochs=3, ckpt_path=tmp_path / "lora", quiet=True)["val_loss"].min()
              for _ in range(3)]
    assert losses[0] > losses[1] > losses[2]
    assert model.evaluate(loader())["val_loss"] == pytest.approx(losses[-1], rel=1e-5)
    assert (tmp_path / "lora" / "adapter_model.safetensors").exists()


# --- nets that learn without gradients ---


class Values(nn.Module):
    """A table of values."""

    def __init__(self, buffer):
        super().__init__()
        if buffer:
            self.register_buffer("table", torch.zeros(5))
        else:
            self.table = nn.Parameter(torch.zeros(5), requires_grad=False)

    def forward(self, states):
        return self.table[states]


def learn(step, batch):
    states, returns = batch
    if step.stage == "train":
        for state, value in zip(states, returns, strict=True):
            step.net.table[state] += 0.5 * (value - step.net.table[state])
    return {step.stage + "_loss": (step.net(states) - returns).square().mean().item()}, {}


class OldStep:
    def __init__(self, net, loss_fn, accelerator, stage="train", metrics_dict=None, optimizer=None, lr_scheduler=None):
        self.net, self.stage, self.accelerator, self.metrics_dict = net, stage, accelerator, metrics_dict

    def __call__(self, batch):
        return learn(self, batch)


class OwnStep(StepRunner):
    def __call__(self, batch):
        return learn(self, batch)


@pytest.mark.parametrize("step", [OldStep, OwnStep])
@pytest.mark.parametrize("buffer", [True, False])
def test_a_step_of_ones_own_teaches_a_net_without_gradients(step, buffer, tmp_path):
    data = DataLoader(TensorDataset(torch.arange(20) % 5, (torch.arange(20) % 5).float()), batch_size=5)
    model = KerasModel(Values(buffer), None)
    model.StepRunner = step
    history = model.fit(data, data, epochs=3, ckpt_path=tmp_path / "q", quiet=True)
    expected = torch.arange(5) * (1 - 0.5 ** 12)
    assert torch.allclose(model.net.table, expected)
    assert history["val_loss"].is_monotonic_decreasing
    assert torch.equal(torch.load(tmp_path / "q")["table"], model.net.table.detach())
    wrong = DataLoader(TensorDataset(torch.arange(5), torch.full((5,), -9.0)), batch_size=5)
    model.fit(wrong, data, epochs=1, ckpt_path=tmp_path / "q", quiet=True)  # only makes it worse
    assert torch.allclose(model.net.table, expected)  # the best values are back
    with pytest.raises(ValueError, match="needs a StepRunner with a __call__ of its own"):  # control
        KerasModel(Values(buffer), "mse").fit(data, ckpt_path=None, quiet=True)


# --- the rest ---


def test_the_sizes_of_a_summary_are_those_of_one_sample_with_data_too():
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 15 * 15, 1))
    shape = summary(net, input_shape=(3, 32, 32), write=lambda text: None)
    for data in ({"input_data": torch.zeros(50, 3, 32, 32)}, {"input_data": [torch.zeros(7, 3, 32, 32)]},
                 {"input_data_args": (torch.zeros(1, 3, 32, 32),)}):
        found = summary(net, **data, write=lambda text: None)
        assert (found.input_mb, found.forward_backward_mb) == pytest.approx((shape.input_mb, shape.forward_backward_mb))
    whole = summary(net, input_data=torch.zeros(50, 3, 32, 32), batch_size=50, write=lambda text: None)
    assert whole.input_mb == pytest.approx(50 * shape.input_mb)  # control


def test_colours_and_small_helpers_have_their_names():
    assert torchkeras.colorful("a", "purple") == torchkeras.colorful("a", "magenta")
    assert torchkeras.colorful("a", "purple") != torchkeras.colorful("a", "red")
    assert torchkeras.utils.is_jupyter() is False


def test_vlog_names_its_own_argument():
    vlog = VLog(3, "val_acc", "max", write=lambda line: None)
    with pytest.raises(ValueError, match="monitor_metric: received 'val_acc'; expected one of 'val_accuracy'. Did you"):
        vlog.log_epoch({"val_accuracy": 0.5})


def test_the_run_of_wandb_has_its_id_and_best_score(tmp_path):
    pytest.importorskip("wandb")
    code = """
import torch, wandb
from torch import nn
from torchkeras import KerasModel
x = torch.randn(40, 4)
run = wandb.init(project="p")
model = KerasModel(nn.Linear(4, 1), "mse", optimizer="sgd")
history = model.fit((x, x[:, :1]), (x, x[:, :1]), epochs=3, ckpt_path="best", quiet=True, wandb="p")
assert model.run_id == run.id
assert run.summary["best_score"] == history["val_loss"].min() == run.summary["best_val_loss"]
run.finish()

import os
from torchkeras.kerascallbacks import WandbCallback

class Folder(KerasModel):
    def save_ckpt(self, ckpt_path="checkpoint", accelerator=None):
        os.makedirs(ckpt_path, exist_ok=True)
        torch.save(self.net.state_dict(), ckpt_path + "/adapter")

    def load_ckpt(self, ckpt_path="checkpoint"):
        self.net.load_state_dict(torch.load(ckpt_path + "/adapter"))

logged = []
wandb.Run.log_artifact = lambda run, artifact, **options: logged.append(sorted(artifact.manifest.entries))
other = Folder(nn.Linear(4, 1), "mse")
other.fit((x, x[:, :1]), epochs=1, ckpt_path="folder", quiet=True, callbacks=[WandbCallback("p", save_ckpt=True)])
assert logged == [["adapter"]], logged
assert other.run_id != model.run_id
print("done")
"""
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.strip().endswith("done"), done.stderr  # a process of its own: wandb leaves one running
