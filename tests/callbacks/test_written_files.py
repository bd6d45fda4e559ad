"""Files of rows that cannot be written for a while, that others have saved, and that spreadsheets open."""

import csv
import errno
import io
import json
import os
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from torchkeras import Callback, KerasModel
from torchkeras.callbacks import rows as rows_module
from torchkeras.checkpoint.weight_file import read_weights
from torchkeras.core import files
from torchkeras.display.report import ReportWriter
from torchkeras.kerascallbacks import CSVLogger, EpochCheckpoint, JSONLLogger, VisMetric

X = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
HELD = PermissionError(errno.EACCES, "Permission denied")
FULL = OSError(errno.ENOSPC, "No space left on device")


def fit(*callbacks, epochs=3, metrics=None, **options):
    torch.manual_seed(0)
    model = KerasModel(nn.Linear(3, 1), "mse", metrics)
    model.fit((X, X[:, :1]), (X, X[:, :1]), epochs=epochs, quiet=True, patience=None,
              callbacks=callbacks, **{"ckpt_path": None, **options})
    return model


def epochs_in(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line)["epoch"] for line in text.splitlines()]
    return [int(row["epoch"]) for row in csv.DictReader(text.splitlines())]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(files, "PATIENCE", 0.02)
    monkeypatch.setattr(files, "waited_for", set())


class Refuse:
    """Lets os.replace and opening fail for files of a suffix, so many times."""

    def __init__(self, monkeypatch, suffix, times, error=HELD):
        self.suffix, self.times, self.error = suffix, times, error
        self.real, self.open = os.replace, CSVLogger.opened
        monkeypatch.setattr(os, "replace", self.replace)
        monkeypatch.setattr(CSVLogger, "opened", lambda log: self.ask(log.path) or self.open(log))

    def ask(self, path):
        if os.fspath(path).endswith(self.suffix) and self.times:
            self.times -= 1
            raise self.error

    def replace(self, source, target):
        self.ask(target)
        self.real(source, target)


@pytest.mark.parametrize("kind", [CSVLogger, JSONLLogger])
def test_a_refusal_that_lasts_a_moment_is_no_word_worth(kind, monkeypatch, tmp_path, recwarn):
    log = kind(tmp_path / f"a{kind.suffix}")
    Refuse(monkeypatch, log.path.name, 1)
    fit(log)
    assert epochs_in(log.path) == [1, 2, 3]
    assert [str(one.message) for one in recwarn if "could not be written" in str(one.message)] == []


@pytest.mark.parametrize("kind", [CSVLogger, JSONLLogger])
@pytest.mark.parametrize("error", [HELD, FULL], ids=["held", "full"])
def test_a_file_that_stays_refused_is_told_of_once_and_its_rows_are_in_another(kind, error, monkeypatch, tmp_path):
    log = kind(tmp_path / f"a{kind.suffix}")
    Refuse(monkeypatch, log.path.name, 999, error)
    with pytest.warns(UserWarning, match="could not be written") as told:
        fit(log)
    assert len(told) == 2
    [other] = tmp_path.iterdir()
    assert epochs_in(other) == [1, 2, 3]
    assert str(other) in str(told[1].message)
    assert str(log.path) in str(told[1].message)


def test_where_no_file_can_be_written_at_all_the_rows_are_in_the_history(monkeypatch, tmp_path):
    Refuse(monkeypatch, ".csv", 999, FULL)
    with pytest.warns(UserWarning, match="could not be written") as told:
        model = fit(CSVLogger(tmp_path / "a.csv"))
    assert "model.history" in str(told[-1].message)
    assert model.history["epoch"] == [1, 2, 3]
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_a_row_is_written_writes_it_once(monkeypatch, tmp_path):
    log = CSVLogger(tmp_path / "a.csv")
    Refuse(monkeypatch, "a.csv", 1, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        fit(log)
    assert epochs_in(log.path) == [1]


def test_weights_a_picture_and_a_report_that_cannot_be_written_end_no_run(monkeypatch, tmp_path):
    def refuse(*args, **options):
        raise FULL

    def torchs(content, file, save=torch.save, **options):
        if isinstance(file, io.BytesIO):
            return save(content, file, **options)
        try:
            refuse()
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", torchs)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", refuse)
    monkeypatch.setattr("torchkeras.display.report.write_atomically", refuse)
    with pytest.warns() as told:
        model = fit(EpochCheckpoint(tmp_path / "w"), VisMetric(save_path=tmp_path / "a.png"),
                    ReportWriter(tmp_path / "a.html"), epochs=1, ckpt_path=tmp_path / "best.pt")
    text = " ".join(str(one.message) for one in told)
    assert model.history["epoch"] == [1]
    assert all(str(tmp_path / name) in text for name in ("w/epoch_1.pt", "a.png", "a.html", "best.pt"))
    assert text.count("No space left on device") >= 5


def test_a_report_of_a_failed_run_that_cannot_be_written_keeps_nobody_else_from_hearing_of_the_end(
        monkeypatch, tmp_path):
    def refuse(*args):
        raise HELD

    class Boom(Callback):
        def on_epoch_start(self, model):
            if model.run.epoch == 2:
                raise RuntimeError("boom")

    monkeypatch.setattr("torchkeras.display.report.write_atomically", refuse)
    log = CSVLogger(tmp_path / "a.csv")
    Refuse(monkeypatch, "a.csv", 3)
    with pytest.warns(UserWarning, match="could not be written"), pytest.raises(RuntimeError, match="boom"):
        fit(ReportWriter(tmp_path / "a.html"), Boom(), log)
    assert epochs_in(log.path) == [1]


def test_an_old_file_that_is_held_is_removed_with_a_later_one(monkeypatch, tmp_path):
    real, held = type(tmp_path).unlink, [True]

    def unlink(path, missing_ok=False):
        if path.name == "epoch_1.pt" and held:
            held.clear()
            raise HELD
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(type(tmp_path), "unlink", unlink)
    fit(EpochCheckpoint(tmp_path / "w", max_ckpt=1))
    assert os.listdir(tmp_path / "w") == ["epoch_3.pt"]


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\n=x", "＝1"])
def test_a_column_that_begins_like_a_formula_is_a_text_for_spreadsheets(name, tmp_path):
    log = CSVLogger(tmp_path / "a.csv", append=True)
    log.append, log.rows, log.sound, log.columns = True, [], False, []
    log.write({"epoch": 1, name: 0.5, "train_loss": -2.0}, None)
    with log.path.open(encoding="utf-8", newline="") as file:
        head, row = csv.reader(file)
    assert head == ["epoch", f"'{name}", "train_loss"]
    assert row == ["1", "0.5", "-2.0"]  # numbers stay numbers
    assert rows_module.unescaped(head[1]) == name


def test_names_that_were_made_harmless_are_found_again(tmp_path):
    path = tmp_path / "a.csv"
    for start in (1, 3):
        log = CSVLogger(path, append=True)
        log.rows, log.sound, log.columns = log.parse(path.read_text()) if path.exists() else [], False, []
        log.write({"epoch": start, "=x": 0.5, "'y": 1.0}, None)
    assert path.read_text().splitlines() == ["epoch,'=x,'y", "1,0.5,1.0", "3,0.5,1.0"]


EXCEL = "epoch,train_loss,精度\r\n1,0.5,0.25\r\n2,0.25,0.5\r\n"


@pytest.mark.parametrize("text", [EXCEL, EXCEL.replace("\r\n", "\n"), "\r\n" + EXCEL, EXCEL + "\r\n"],
                         ids=["Excel", "Unix", "line before", "line after"])
def test_rows_are_added_to_a_table_that_excel_has_saved(text, tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    fit(CSVLogger(path, append=True), epochs=1)
    found = path.read_text(encoding="utf-8").splitlines()
    assert found[0].split(",") == ["epoch", "train_loss", "精度", "lr", "val_loss"]
    assert found[1:3] == ["1,0.5,0.25,,", "2,0.25,0.5,,"]
    assert epochs_in(path) == [1, 2, 1]


@pytest.mark.parametrize(("content", "words"), [
    (EXCEL.replace(",", ";").encode("utf-8-sig"), "has ';' between its columns"),
    (EXCEL.replace(",", "\t").encode("utf-8-sig"), "has '.t' between its columns"),
    (EXCEL.encode("gbk"), "not UTF-8 text"), ("epoch,größe\r\n1,2\r\n".encode("cp1252"), "not UTF-8 text"),
    (EXCEL.encode("utf-16"), "not UTF-8 text"), (b"epoch,a,a\n1,2,3\n", "a column twice"),
    (b"epoch,a\n1,2,3\n", "3 values in a row and 2 columns"), (b"epoch,a\n1," + b"9" * 200_000 + b"\n", "as a table"),
    (b"epoch,a\n1,0.5\n2,0.123", "may be cut off")], ids=lambda one: one if isinstance(one, str) else "")
def test_a_table_to_which_no_row_can_be_added_is_refused_before_training_and_left_as_it_is(content, words, tmp_path):
    path, heard = tmp_path / "a.csv", []
    path.write_bytes(content)

    class Ear(Callback):
        def on_epoch_start(self, model):
            heard.append(model)

    with pytest.raises(ValueError, match=f"a.csv'.*{words}") as caught:
        fit(CSVLogger(path, append=True), Ear())
    assert "path: received" in str(caught.value)
    assert path.read_bytes() == content
    assert heard == []


def test_a_last_line_that_was_cut_off_within_its_columns_is_left_out_with_a_word(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"epoch,a,b\n1,0.5,0.5\n2,0.1")
    model = fit(CSVLogger(path, append=True), epochs=1)
    assert epochs_in(path) == [1, 1]
    assert "'2,0.1'" in " ".join(model.run.notes)


@pytest.mark.parametrize(("last", "kept"), [('{"epoch": 2}', [1, 2, 1]), ('{"epoch": 2, "a', [1, 1])])
def test_a_last_object_without_a_line_break_stays_and_half_a_one_does_not(last, kept, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"epoch": 1}\n' + last)
    fit(JSONLLogger(path, append=True), epochs=1)
    assert epochs_in(path) == kept


def test_a_resumed_run_writes_its_table_anew_where_a_program_has_spoiled_it(tmp_path):
    path, best = tmp_path / "a.csv", tmp_path / "best.pt"
    fit(CSVLogger(path), epochs=2, ckpt_path=best, resume=True)
    path.write_bytes("第一,轮\r\n".encode("gbk"))
    model = fit(CSVLogger(path), epochs=3, ckpt_path=best, resume=True)
    assert epochs_in(path) == [1, 2, 3]
    assert "written anew" in " ".join(model.run.notes)


def test_what_others_read_of_a_run_has_the_name_of_its_file_and_not_the_folders(monkeypatch, tmp_path):
    home = tmp_path / "anna"
    monkeypatch.setenv("HOME", str(home))
    report = home / "a.html"

    class Notes(Callback):
        def on_epoch_start(self, model):
            model.run.notes.append(f"a note of {str(home / 'data')!r}")
            model.run.stop(f"{home / 'signal'} is there")

    model = fit(Notes(), ReportWriter(report), ckpt_path=home / "best.pt")
    text = report.read_text(encoding="utf-8")
    assert "anna" not in text
    assert all(words in text for words in ("best.pt", "~/data", "~/signal"))
    assert model.run.config.to_share()["ckpt_path"] == "best.pt"
    assert fit().run.config.to_share()["ckpt_path"] is None


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_best_weights_that_are_held_for_a_moment_are_written_without_a_word(suffix, monkeypatch, tmp_path, recwarn):
    path = tmp_path / f"best.{suffix}"
    Refuse(monkeypatch, path.name, 1)
    model = fit(ckpt_path=path)
    assert [str(one.message) for one in recwarn if "could not be written" in str(one.message)] == []
    assert torch.equal(read_weights(path)["weight"], model.net.weight)


@pytest.mark.parametrize("error", [HELD, FULL], ids=["held", "full"])
def test_best_weights_that_are_held_for_ever_are_in_the_net_and_waited_for_once(error, monkeypatch, tmp_path):
    slept = []
    monkeypatch.setattr(files, "time", SimpleNamespace(sleep=slept.append))
    monkeypatch.setattr(files, "PATIENCE", 2.0)
    expected = fit(epochs=6).net.weight
    Refuse(monkeypatch, "best.pt", 999, error)
    with pytest.warns(RuntimeWarning, match="best.pt") as told:
        model = fit(ckpt_path=tmp_path / "best.pt", epochs=6)
    assert len(told) == 2
    assert torch.equal(model.net.weight, expected)
    assert sum(slept) == (pytest.approx(2.0) if error is HELD else 0)
    assert list(tmp_path.iterdir()) == []
