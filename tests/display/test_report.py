"""The report of a run: whole, true, and in need of nothing else."""

import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchkeras import KerasModel
from torchkeras.data import batches
from torchkeras.display import page, png
from torchkeras.display.classes import Wrong, confusion, judge
from torchkeras.display.report import ReportWriter, write_report
from torchkeras.display.stopwatch import Stopwatch
from torchkeras.training.arguments import with_default_callbacks

GOLDEN = Path(__file__).parents[1] / "golden"
X = torch.randn(90, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(90) % 3


def classifier(loss="cross_entropy", outputs=3):
    torch.manual_seed(0)
    return KerasModel(nn.Sequential(nn.Flatten(), nn.Linear(64, outputs)), loss, optimizer="sgd")


def fit(model, labels=Y, *callbacks, **options):
    model.fit((X, labels), (X, labels), epochs=2, ckpt_path=None, quiet=True, callbacks=callbacks, **options)
    return model


class Reader(HTMLParser):
    """Every tag is closed in order; addresses are gathered."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.tags = [], [], set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.addresses += [value for name, value in attributes if name in ("href", "src")]
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_report_is_one_file_with_everything_and_asks_the_network_for_nothing(tmp_path):
    model = fit(classifier())
    path = write_report(model, tmp_path / "new" / "run.html", (X, Y), class_names=["a<b", "b", "c"])
    text = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert "script" not in reader.tags
    assert all(address.startswith("data:") for address in reader.addresses)
    assert "url(" not in text
    titles = re.findall("<h2>(.*?)</h2>", text)
    assert titles == ["Curves", "Epochs", "Confusion matrix", "Most wrong samples", "Where the time went",
                      "What was trained", "Configuration", "Layers", "Environment"]
    assert f"{model.history['val_loss'][-1]:.4f}" in text
    assert "Linear-2" in text
    assert "a&lt;b" in text
    assert "a<b" not in text
    assert "prefers-color-scheme:dark" in text
    assert "@media print" in text
    assert [one.name for one in tmp_path.iterdir()] == ["new"]
    assert [one.name for one in path.parent.iterdir()] == ["run.html"]


def test_without_data_a_report_leaves_out_what_needs_it(tmp_path):
    text = write_report(fit(classifier()), tmp_path / "run.html").read_text(encoding="utf-8")
    assert "Confusion" not in text
    assert "Total params: 195" in text
    regression = KerasModel(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), "mse")
    fit(regression, Y[:, None].float())
    text = write_report(regression, tmp_path / "run.html", (X, Y[:, None].float())).read_text(encoding="utf-8")
    assert "Confusion" not in text
    assert "Linear-2" in text


@pytest.mark.parametrize("batch_size", [7, 90])
def test_the_confusion_matrix_counts_each_sample_once_at_any_batch_size(batch_size):
    model = fit(classifier())
    found = judge(model, DataLoader(TensorDataset(X, Y), batch_size=batch_size), most=5)
    guesses = model.net(X).argmax(1)
    assert torch.equal(found.confusion, confusion(Y, guesses, 3))
    assert found.confusion.sum() == 90
    assert not torch.equal(found.confusion, confusion(guesses, Y, 3))
    truth = model.net(X).softmax(1)[torch.arange(90), Y].double()
    expected = sorted(truth[guesses != Y].tolist())[:5]
    assert [one.truth for one in found.worst] == pytest.approx(expected, abs=1e-6)


def test_the_samples_shown_are_those_that_were_wrong_even_from_a_shuffled_loader():
    model = fit(classifier())
    found = judge(model, DataLoader(TensorDataset(X, Y), batch_size=8, shuffle=True), most=90)
    assert found.worst
    for one in found.worst:
        place = int((one.sample == X).flatten(1).all(1).nonzero())
        assert Y[place] == one.label
        assert model.net(X[place:place + 1]).argmax() == one.guess != one.label


def test_binary_outputs_of_one_column_are_two_classes():
    labels = (X.sum((1, 2, 3)) > 0).float()[:, None]
    model = fit(classifier("bce_with_logits", 1), labels)
    found = judge(model, (X, labels))
    guesses = (model.net(X).sigmoid() >= 0.5).long()[:, 0]
    assert torch.equal(found.confusion, confusion(labels[:, 0].long(), guesses, 2))


def test_outputs_that_are_not_one_class_a_sample_have_no_confusion_matrix():
    several = (torch.rand(90, 3) > 0.5).float()
    assert judge(fit(classifier("bce_with_logits", 3), several), (X, several)) is None
    soft = torch.rand(90, 3).softmax(1)
    assert judge(fit(classifier(), soft), (X, soft)) is None


def test_labels_that_are_none_do_not_count():
    labels = Y.clone()
    labels[:10] = -100
    found = judge(fit(classifier(), labels), (X, labels))
    assert found.confusion.sum() == 80
    assert all(one.label >= 0 for one in found.worst)


def test_many_classes_are_a_list_of_what_is_taken_for_what():
    counts = torch.eye(30, dtype=torch.int64)
    counts[3, 4] = 7
    drawn = page.matrix(counts.tolist(), [str(number) for number in range(30)])
    assert "3 taken for 4" in drawn
    assert "confusion" not in drawn
    assert "30 of 37 right" in drawn


def test_a_report_asked_of_fit_is_there_when_it_ends_and_when_it_fails(tmp_path):
    fit(classifier(), Y, ReportWriter(tmp_path / "good.html", (X, Y)))
    good = (tmp_path / "good.html").read_text(encoding="utf-8")
    assert "✓ done" in good
    assert "Confusion matrix" in good

    class Boom:
        def on_train_epoch_end(self, model):
            if model.run.epoch == 2:
                raise RuntimeError("boom")

    with pytest.raises(RuntimeError):
        fit(classifier(), Y, Boom(), ReportWriter(tmp_path / "bad.html", (X, Y)))
    bad = (tmp_path / "bad.html").read_text(encoding="utf-8")
    assert "✗ failed" in bad
    assert "RuntimeError: boom" in bad


def test_what_fit_hands_over_for_a_report_is_enough(tmp_path):
    loader = DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True)
    listeners = with_default_callbacks(None, plot=True, wandb=False, quiet=True, report=tmp_path / "run.html",
                          val_data=batches(loader, name="val_data"))
    assert [type(one) for one in listeners] == [Stopwatch, ReportWriter]
    fit(classifier(), Y, listeners[1])
    assert "of 90 right" in (tmp_path / "run.html").read_text(encoding="utf-8")
    assert [type(one) for one in with_default_callbacks(None, plot=True, wandb=False, quiet=True)] == [Stopwatch]


def test_data_that_can_be_read_only_once_costs_its_part_of_the_report_alone(tmp_path):
    once = iter([(X, Y)])
    next(once)
    with pytest.warns(UserWarning, match="part on val_data of the report"):
        fit(classifier(), Y, ReportWriter(tmp_path / "run.html", once))
    text = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert "Confusion" not in text
    assert "✓ done" in text


def test_a_page_is_the_one_on_file():
    drawn = page.page("A <page>", [
        ("", page.facts({"epochs": 3, "loss": "CrossEntropyLoss()"})), ("Nothing", ""),
        ("Time", page.parts({"training": 30.0, "validation": 90.0})),
        ("Confusion", page.matrix([[3, 1], [0, 0]], ["a", "b"])),
        ("Wrong", page.samples([Wrong(torch.tensor([0.25, 1.0]), 0, 1, 0.9, 0.1)], ["a", "b"]))])
    assert drawn == (GOLDEN / "page.html").read_text(encoding="utf-8")


def test_a_report_that_cannot_be_written_costs_no_result(tmp_path):
    class Full(ReportWriter):
        def on_fit_end(self, model):
            self.file = tmp_path / "run.html" / "not a folder"
            super().on_fit_end(model)

    (tmp_path / "run.html").write_text("")
    model = classifier()
    with pytest.warns(UserWarning, match="could not be written"):
        fit(model, Y, Full(tmp_path / "other.html"))
    assert model.history["epoch"] == [1, 2]


@pytest.mark.parametrize(("path", "error", "words"), [
    (3, TypeError, "path: received 3"), ("run.txt", ValueError, r"ends in .html or .htm"),
    ("", ValueError, "a folder"), ("/proc/nothing/run.html", ValueError, "cannot be written")])
def test_a_path_that_cannot_be_is_refused_before_any_work(path, error, words):
    with pytest.raises(error, match=words):
        write_report(fit(classifier()), path)


def test_a_report_needs_a_run_and_a_name_for_each_class(tmp_path):
    with pytest.raises(ValueError, match="Call fit first"):
        write_report(classifier(), tmp_path / "run.html")
    with pytest.raises(ValueError, match="class_names: received 2 names; expected a name for each of 3 classes"):
        write_report(fit(classifier()), tmp_path / "run.html", (X, Y), class_names=["a", "b"])


def test_the_parts_of_the_time_add_up_to_the_whole():
    model = fit(classifier())
    assert list(model.run.timings) == ["start", "training", "validation and keeping the best", "between epochs"]
    assert all(value >= 0 for value in model.run.timings.values())
    assert model.run.timings["training"] > 0
    drawn = page.parts({"training": 30.0, "validation": 10.0})
    assert ["75%" in drawn, "25%" in drawn, page.parts({})] == [True, True, ""]


def test_a_picture_is_a_png_with_the_pixels_given():
    shades = torch.arange(3 * 9 * 10, dtype=torch.uint8).reshape(3, 9, 10)
    data = png.encode(shades)
    assert data.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", data[16:24])
    assert (width, height) == (10, 9)
    start = data.index(b"IDAT") + 4
    body = zlib.decompress(data[start:data.index(b"IEND") - 8])
    assert len(body) == 9 * (1 + 30)
    assert body[1:4] == bytes(shades[:, 0, 0].tolist())
    assert png.picture(X[0]).startswith("data:image/png;base64,")
    assert [png.picture(one) for one in (X[0].flatten(), torch.zeros(2, 8, 8), "text", torch.zeros(3, 4, 4))] == [
        None] * 4
    assert png.to_bytes(torch.tensor([[[0.0, 5.0, float("nan")]]])).tolist() == [[[0, 255, 0]]]


def test_a_sample_that_is_no_picture_is_told_in_numbers():
    drawn = page.samples([Wrong(torch.tensor([0.25, 1.0]), 0, 1, 0.9, 0.1)], ["a", "b"])
    assert "0.25, 1" in drawn
    assert "<img" not in drawn
    assert page.in_words({"x": torch.zeros(9), "y": (1, 2)}) == "x: 0, 0, …, y: 1, 2"
