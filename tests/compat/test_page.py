"""Every line of code on the page for notebooks of earlier versions runs, in both languages."""

import re
from pathlib import Path

import pytest
import torch
from tests.test_readme import blocks, code
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torchkeras
from torchkeras import KerasModel, Model, StepRunner, VLog, summary
from torchkeras.kerascallbacks import VisMetric, WandbCallback
from torchkeras.metrics import AUC, IOU, Accuracy
from torchkeras.tools import catboost

DOCS = Path(__file__).parents[2] / "docs"
ENGLISH, CHINESE = DOCS / "from-torchkeras-3-and-4.md", DOCS / "from-torchkeras-3-and-4.zh-CN.md"
RUNNABLE = re.compile(r"\w\(|^import |^from | = ")
LEFT_OUT = 9  # rows of the last table


def rows(path):
    """The tables' rows as their cells."""
    lines = re.findall(r"^\| (`.*) \|$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [re.split(r" \| (?![^`]*`[^`]*\|)", line) for line in lines]


def runnable(cell):
    """The lines of code in a cell; `lr` and other names are none."""
    return [one for one in re.findall(r"`([^`]+)`", cell) if RUNNABLE.search(one) and not one.startswith("forward(")]


def setting(folder):
    """What a notebook has before a line."""
    torch.manual_seed(0)
    x = torch.randn(40, 4)
    y = (x.sum(1, keepdim=True) > 0).float()
    data, net = TensorDataset(x, y), nn.Linear(4, 1)
    optimizer, loss_fn = torch.optim.SGD(net.parameters(), lr=0.1), nn.BCEWithLogitsLoss()
    dl_train, dl_val = DataLoader(data, batch_size=10), DataLoader(data, batch_size=20)
    model = KerasModel(net, loss_fn, {"acc": Accuracy()}, optimizer)
    history = model.fit(dl_train, dl_val, epochs=1, ckpt_path=folder / "checkpoint", quiet=True)
    keras = Model(net)
    keras.compile(loss_func=loss_fn, optimizer=optimizer)
    return {"x": x, "net": net, "loss_fn": loss_fn, "optimizer": optimizer, "dl_train": dl_train, "dl_val": dl_val,
            "model": model, "keras": keras, "history": history, "mae": lambda preds, labels: (preds - labels).abs().mean(),
            "torch": torch, "nn": nn, "KerasModel": KerasModel, "Accuracy": Accuracy, "IOU": IOU, "AUC": AUC,
            "summary": summary, "flop_summary": torchkeras.flop_summary, "plot_metric": torchkeras.plot_metric,
            "VLog": VLog, "VisMetric": VisMetric, "WandbCallback": WandbCallback, "catboost": catboost,
            "seed_everything": torchkeras.seed_everything, "printlog": torchkeras.printlog,
            "colorful": torchkeras.colorful}


def test_both_pages_hold_the_same_code():
    assert code(ENGLISH.read_text(encoding="utf-8")) == code(CHINESE.read_text(encoding="utf-8"))
    mine, other = ([[runnable(cell) for cell in row] for row in rows(path)] for path in (ENGLISH, CHINESE))
    assert mine == other
    assert len(mine) > 35
    assert all(len(row) == 2 and row[0] for row in mine)


@pytest.mark.filterwarnings("ignore:(?s).*LeafSpec|.*does not have many workers|You defined a .validation_step")
@pytest.mark.parametrize("row", [row for row in rows(ENGLISH)[:-LEFT_OUT]
                                 if "fit_ddp" not in row[0] and "wandb" not in row[0]], ids=lambda row: row[0][:60])
def test_each_line_runs(row, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lightning = "LightModel" in row[0]
    if lightning:
        pytest.importorskip("pytorch_lightning")
    for cell in row:
        for line in runnable(cell):
            here = setting(tmp_path) | ({"LightModel": torchkeras.LightModel} if lightning else {})
            if "best.ckpt" in line:
                trainer = here["LightModel"].Trainer(gpus=0, max_epochs=1, logger=False, enable_checkpointing=False,
                                                     enable_progress_bar=False, enable_model_summary=False)
                trainer.fit(here["LightModel"](here["net"], here["loss_fn"], quiet=True), here["dl_train"])
                trainer.save_checkpoint("best.ckpt")
            exec(line, here)


def test_the_lines_for_wandb_and_processes_are_calls_with_known_arguments(monkeypatch, tmp_path):
    """They run in tests of their own: here the arguments are compared."""
    monkeypatch.setattr(KerasModel, "fit", lambda self, train, val=None, wandb=False, num_processes=1, cpu=False: seen.append(
        (wandb, num_processes, cpu)))
    found = [row for row in rows(ENGLISH) if "fit_ddp" in row[0] or "wandb" in row[0]]
    seen, here = [], {"model": KerasModel(nn.Linear(4, 1)), "dl_train": 1, "dl_val": 2}
    for row in found:
        exec(runnable(row[0])[0], here)
    assert seen == [("project", 1, False), (False, 2, True)]


@pytest.mark.parametrize("row", rows(ENGLISH)[-LEFT_OUT:], ids=lambda row: row[0])
def test_each_import_that_is_left_out_says_what_to_use(row):
    [line] = runnable(row[0])
    with pytest.raises(ModuleNotFoundError, match="From torchkeras 3 and 4"):
        exec(line, {})


def test_the_blocks_run(tmp_path):
    class Values(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", torch.zeros(5))

        def forward(self, states):
            return self.table[states]

    here = {"KerasModel": KerasModel, "StepRunner": StepRunner}
    for _, block in blocks(ENGLISH.read_text(encoding="utf-8")):
        exec(block, here)
    model = KerasModel(Values(), None)
    model.StepRunner = here["Teach"]
    data = DataLoader(TensorDataset(torch.arange(20) % 5, (torch.arange(20) % 5).float()), batch_size=5)
    history = model.fit(data, data, epochs=3, ckpt_path=None, quiet=True)
    assert history["val_loss"].iloc[-1] < 0.01 < history["val_loss"].iloc[0]

    class Peft(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.base_model = nn.Module()
            self.base_model.model, self.adapter = model, nn.Linear(4, 1)

        def forward(self, x):
            return self.base_model.model(x) + self.adapter(x)

        def save_pretrained(self, folder):
            Path(folder).mkdir(exist_ok=True)
            torch.save(self.adapter.state_dict(), Path(folder) / "adapter")

        @classmethod
        def from_pretrained(cls, base, folder):
            found = cls(base)
            found.adapter.load_state_dict(torch.load(Path(folder) / "adapter"))
            return found

    x, net = torch.randn(40, 4), Peft(nn.Linear(4, 1).requires_grad_(False))
    adapters = here["Adapters"](net, "mse", optimizer=torch.optim.SGD(net.adapter.parameters(), lr=0.1))
    losses = [adapters.fit((x, x[:, :1]), (x, x[:, :1]), epochs=2, ckpt_path=tmp_path / "lora", quiet=True)["val_loss"].min()
              for _ in range(2)]
    assert losses[0] > losses[1]
    assert adapters.net is not net


def test_readmes_lead_to_the_page():
    for readme, page in (("README.md", ENGLISH), ("README.zh-CN.md", CHINESE)):
        assert f"(docs/{page.name})" in (DOCS.parent / readme).read_text(encoding="utf-8")
