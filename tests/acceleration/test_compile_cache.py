"""Compiled graphs are code: they are kept where nobody else can write, or not at all."""

import json
import os
import stat
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from tests.acceleration.test_fast import needs_compiler
from torch import nn

from torchkeras import KerasModel
from torchkeras.acceleration import autotuner, compile_cache
from torchkeras.acceleration.candidates import Candidate
from torchkeras.acceleration.compile_cache import SWITCH, VARIABLE, CompileCache, remove_old
from torchkeras.acceleration.private_folder import Untrusted, cache_home, open_private

posix = pytest.mark.skipif(os.name == "nt", reason="owners and modes of files are POSIX's")
BATCH = [torch.zeros(4, 6), torch.zeros(4, dtype=torch.int64)]
OTHER = 12345  # some user's number


def step_of(net=None, loss=None):
    return SimpleNamespace(net=net or nn.Linear(6, 3), loss_fn=loss or nn.CrossEntropyLoss(), metrics_dict={},
                           optimizer=SimpleNamespace(), config=SimpleNamespace(mixed_precision="no"),
                           accelerator=SimpleNamespace(device=torch.device("cpu")))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty folder for the user's caches, which is switched on."""
    monkeypatch.delenv(SWITCH, raising=False)
    monkeypatch.delenv(VARIABLE, raising=False)
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "caches"))
    return tmp_path / "caches"


def test_the_folder_is_the_users_alone_and_apart_for_each_set_of_versions(home, monkeypatch):
    cache = CompileCache(step_of(), BATCH)
    assert cache.folder.parent == home.resolve() / "torchkeras" / "compiled"
    assert cache.note == ""
    if os.name != "nt":
        assert {stat.S_IMODE(one.stat().st_mode) for one in (cache.folder, *cache.folder.parents[:2])} == {0o700}
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    assert CompileCache(step_of(), BATCH).folder != cache.folder


@pytest.mark.parametrize("given", ["", "relative/folder"])
def test_without_a_folder_of_its_own_the_usual_place_is_taken(monkeypatch, given):
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    monkeypatch.setenv("LOCALAPPDATA", given)
    assert cache_home().is_relative_to(os.path.expanduser("~"))


@pytest.mark.parametrize(("variable", "value"), [(SWITCH, "0"), (VARIABLE, "/somewhere/else")])
def test_it_is_off_where_the_user_says_so_or_chose_a_folder_for_torch(home, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    cache = CompileCache(step_of(), BATCH)
    cache.remember({"one graph a step": 0.5})
    with cache.used():
        assert os.environ.get(variable) == value
    assert (cache.folder, cache.note, cache.verdicts()) == (None, "", {})
    assert not home.exists()


def test_the_compiler_works_in_it_for_as_long_as_it_is_used(home):
    from torch._inductor import config

    cache, before = CompileCache(step_of(), BATCH), (dict(os.environ), config.get_config_copy())
    with cache.used():
        assert os.environ[VARIABLE] == str(cache.folder)
        assert not config.cpp_cache_precompile_headers
    assert (dict(os.environ), config.get_config_copy()) == before


def test_runs_in_two_threads_use_it_one_after_the_other_and_leave_the_variable_as_it_was(home):
    caches, before = [CompileCache(step_of(), BATCH) for _ in range(2)], os.environ.get(VARIABLE)
    inside, done, seen, opened = threading.Event(), threading.Event(), [], []

    def first():
        with caches[0].used():
            inside.set()
            done.wait(0.2)  # as long as it takes to compile
            seen.append(os.environ[VARIABLE])

    def second():
        inside.wait()
        opened.append(CompileCache(step_of(), BATCH))  # control: without waiting, the folder seems to be the user's choice
        with caches[1].used():
            done.set()
            time.sleep(0.01)
            seen.append(os.environ[VARIABLE])

    threads = [threading.Thread(target=one) for one in (first, second)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert seen == [str(caches[0].folder)] * 2
    assert opened[0].folder == caches[0].folder
    assert os.environ.get(VARIABLE) == before


def a_link(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    folder.rmdir()
    folder.symlink_to(tmp_path / "elsewhere")


def a_file(folder, tmp_path):
    folder.rmdir()
    folder.write_text("no folder")


ATTACKS = {
    "a link in the place of the folder": a_link,
    "a file in the place of the folder": a_file,
    "a folder that the group can write to": lambda folder, _: folder.chmod(0o770),
    "a folder that others can read": lambda folder, _: folder.chmod(0o755),
    "a link among the files": lambda folder, _: (folder / "x.so").symlink_to("/etc/passwd"),
    "a pipe among the files": lambda folder, _: os.mkfifo(folder / "x.so"),
    "a link deep among the files": lambda folder, _: (
        (folder / "a").mkdir(), (folder / "a" / "x").symlink_to("/tmp")),
}


@posix
@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("attack", ATTACKS)
def test_what_others_may_have_made_is_not_used(home, tmp_path, attack, level):
    folder = CompileCache(step_of(), BATCH).folder
    assert CompileCache(step_of(), BATCH).folder == folder  # control: it is used as long as nobody did anything
    target = (folder, *folder.parents)[level]
    if "among the files" in attack:
        target = folder
    elif level:
        for path in (folder, *folder.parents)[:level]:
            path.rmdir()
    ATTACKS[attack](target, tmp_path)
    refused = CompileCache(step_of(), BATCH)
    assert refused.folder is None
    assert refused.note.startswith("fast: compiled graphs are not kept: ")
    assert not (tmp_path / "elsewhere").exists() or not any((tmp_path / "elsewhere").iterdir())


@posix
def test_what_belongs_to_another_user_is_not_used(home, monkeypatch):
    folder = open_private("torchkeras", "compiled")
    (folder / "planted.so").write_text("code")
    open_private("torchkeras", "compiled")  # control
    lstat = os.DirEntry if os.geteuid() else None
    if lstat is None:  # root may give files away
        os.chown(folder / "planted.so", OTHER, OTHER)
        with pytest.raises(Untrusted, match=r"planted\.so belongs to another user"):
            open_private("torchkeras", "compiled")
        os.chown(folder / "planted.so", 0, 0)
        os.chown(folder, OTHER, OTHER)
        with pytest.raises(Untrusted, match="compiled belongs to another user"):
            open_private("torchkeras", "compiled")
    else:
        monkeypatch.setattr(os, "geteuid", lambda: OTHER)
        with pytest.raises(Untrusted, match="write|another user"):
            open_private("torchkeras", "compiled")


def test_a_folder_that_cannot_be_written_to_is_said_and_not_used(home, monkeypatch):
    assert CompileCache(step_of(), BATCH).folder is not None  # control
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # nothing keeps root from writing
    cache = CompileCache(step_of(), BATCH)
    assert cache.folder is None
    assert cache.note.startswith("fast: compiled graphs are not kept: ")
    assert cache.note.endswith("cannot be written to")


@posix
def test_a_folder_above_that_others_can_write_to_is_refused(home):
    home.mkdir()
    home.chmod(0o777)
    with pytest.raises(Untrusted, match="others can write to"):
        open_private("torchkeras")
    home.chmod(0o1777)  # control: there nobody can replace what is another's
    assert open_private("torchkeras").is_dir()


@posix
def test_a_home_that_cannot_be_written_to_is_said_and_nothing_else(home, monkeypatch):
    home.parent.joinpath("plain file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home.parent / "plain file" / "caches"))
    cache = CompileCache(step_of(), BATCH)
    assert cache.folder is None
    assert "plain file" in cache.note


def test_verdicts_are_kept_by_net_code_shapes_and_threads(home):
    class Own(nn.Linear):
        def forward(self, x):
            return super().forward(x)

    class Other(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    Other.__name__ = Other.__qualname__ = "Own"
    CompileCache(step_of(Own(6, 3)), BATCH).remember({"one graph a step": 0.5})
    CompileCache(step_of(Own(6, 3)), BATCH).remember({"compiled net": 1.5})
    assert CompileCache(step_of(Own(6, 3)), BATCH).verdicts() == {"one graph a step": 0.5, "compiled net": 1.5}
    for step, batch in [(step_of(Other(6, 3)), BATCH), (step_of(Own(6, 4)), BATCH),
                        (step_of(Own(6, 3), nn.MSELoss()), BATCH), (step_of(Own(6, 3)), [BATCH[0][:2], BATCH[1][:2]])]:
        assert CompileCache(step, batch).verdicts() == {}


@pytest.mark.parametrize("content", ["", "[1]", "[" * 9000, '{"a": "b"}', '{"a": true}', '{"a": -1}', '{"a": 1e999}',
                                     '{"a": NaN}', '{"' + "a" * 20_000 + '": 1}'])
def test_verdicts_that_are_none_are_ignored(home, content):
    cache = CompileCache(step_of(), BATCH)
    cache.remember({"compiled net": 1.5})
    assert cache.verdicts() == {"compiled net": 1.5}  # control
    cache.file.write_text(content)
    assert cache.verdicts() == {}


def test_old_files_go_first_where_there_is_too_much_and_new_ones_stay(home, monkeypatch):
    folder = CompileCache(step_of(), BATCH).folder
    monkeypatch.setattr(compile_cache, "LARGEST", 250)
    for age, name in enumerate(["new", "middle", "old", "oldest"]):
        (folder / name).write_bytes(b"x" * 100)
        written = time.time() - 1000 * age
        os.utime(folder / name, (written, written))
    remove_old(folder.parent)
    assert sorted(one.name for one in folder.iterdir()) == ["middle", "new"]
    monkeypatch.setattr(compile_cache, "LARGEST", 0)
    remove_old(folder.parent)
    assert [one.name for one in folder.iterdir()] == ["new"]  # another process may be about to read it


def test_a_verdict_that_cannot_be_written_leaves_nothing_behind(home, monkeypatch):
    cache = CompileCache(step_of(), BATCH)
    cache.remember({"compiled net": 1.5})  # control
    written = sorted(home.rglob("*"))
    assert cache.file.resolve() in written

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compile_cache.files, "replace", full)
    cache.remember({"compiled net": 3.0})
    assert sorted(home.rglob("*")) == written
    assert cache.verdicts() == {"compiled net": 1.5}


def test_python_code_that_may_be_damaged_is_removed_after_a_failure_for_torch_to_write_it_anew(home, monkeypatch):
    folder = CompileCache(step_of(), BATCH).folder

    def left(failing):
        for name, age in (("old.py", 1000), ("new.py", 0), ("old.so", 1000)):
            (folder / name).write_text("cut of")
            os.utime(folder / name, (time.time() - age, time.time() - age))

        class Tried(Pretended):
            def __init__(self, *arguments):
                super().__init__(*arguments)
                if failing:
                    raise ImportError("cannot import name 'exte'")

        monkeypatch.setattr(autotuner, "candidates_for", lambda took, ahead: [Tried])
        fit(monkeypatch, {})
        return {one.name for one in folder.iterdir()} & {"old.py", "new.py", "old.so"}

    monkeypatch.setattr(autotuner, "COMPILE_TIME", 1e-6)
    assert left(failing=False) == {"old.py", "new.py", "old.so"}  # control
    assert left(failing=True) == {"new.py", "old.so"}  # another process may be about to read the new one


def fit(monkeypatch, found, epochs=40, net=None):
    """The note of a run in fast mode, of which an earlier run is known to have found something."""
    monkeypatch.setattr(CompileCache, "verdicts", lambda cache: found)
    kept = {}
    monkeypatch.setattr(CompileCache, "remember", lambda cache, more: kept.update(more))
    x, y = torch.randn(320, 6), torch.randint(0, 3, (320,))
    model = KerasModel(net or nn.Linear(6, 3), "cross_entropy")
    model.fit((x, y), epochs=epochs, batch_size=8, ckpt_path=None, patience=None, quiet=True, speed="fast")
    return next(one for one in model.run.notes[::-1] if "(plain" in one), kept


def test_a_way_that_was_slower_before_is_skipped_and_tried_again_later(monkeypatch):
    monkeypatch.setattr(autotuner, "COMPILE_TIME", 1e-6)
    note, kept = fit(monkeypatch, {"one graph a step": 2.0}, epochs=1)
    assert "one graph a step took 2.0 times as long in an earlier run" in note
    assert kept == {"one graph a step": 1.5}  # closer to SLOWER with each run that skips it


def test_a_run_too_short_for_compiling_opens_no_cache(home, monkeypatch):
    model = KerasModel(nn.Linear(6, 3), "cross_entropy")
    model.fit((torch.randn(320, 6), torch.randint(0, 3, (320,))), epochs=1, batch_size=8, ckpt_path=None,
              patience=None, quiet=True, speed="fast")
    assert model.run.notes[-1].endswith("too few steps are left to pay for compiling)")
    assert not home.exists()


class Pretended(Candidate):
    """Looks compiled, and takes no time to compile."""

    name, compiles, counters = "compiled net", 1, {}

    def __init__(self, step, batch, tuner):
        self.where = os.environ.get(VARIABLE)


@posix
def test_a_refused_folder_is_said_and_compiled_without(home, monkeypatch):
    monkeypatch.setattr(autotuner, "COMPILE_TIME", 1e-6)
    monkeypatch.setattr(autotuner, "CompiledTrainStep", Pretended)
    folder, runs = CompileCache(step_of(), BATCH).folder, []
    for mode in (0o700, 0o777):
        folder.chmod(mode)
        model = KerasModel(nn.Linear(6, 3), "cross_entropy")
        with monkeypatch.context() as patch:
            patch.setattr(Pretended, "end", lambda way: runs.append(way.where))
            model.fit((torch.randn(320, 6), torch.randint(0, 3, (320,))), epochs=2, batch_size=8, ckpt_path=None,
                      patience=None, quiet=True, speed="fast")
        assert any("compiled net" in one for one in model.run.notes)
        assert any("not kept: others can read or write" in one for one in model.run.notes) == (mode == 0o777)
    assert set(runs[:1]) == {str(folder)}
    assert set(runs[-1:]) == {None}


@needs_compiler
def test_a_second_run_compiles_nothing(home, monkeypatch):
    from torch._dynamo.utils import counters
    from torch._inductor import config

    monkeypatch.setattr(autotuner, "COMPILE_TIME", 1e-6)
    monkeypatch.setattr(compile_cache, "compiler_settings", lambda: config.patch({  # as is quickest in an empty folder
        "cpp_cache_precompile_headers": False, "cpp.vec_isa_ok": True}))

    def run():
        counters.clear()
        torch.manual_seed(0)
        model = KerasModel(nn.Linear(6, 3), "cross_entropy", optimizer="sgd")
        model.fit((torch.randn(160, 6), torch.randint(0, 3, (160,))), epochs=24, batch_size=16, ckpt_path=None,
                  patience=None, quiet=True, speed="fast")
        return model, counters["aot_autograd"]["autograd_cache_hit"]

    torch.compiler.reset()
    (first, hits), (second, more) = run(), run()
    assert (hits, more) == (0, 1)
    assert torch.equal(first.net.weight, second.net.weight)
    [verdicts] = (CompileCache(step_of(), BATCH).folder / "verdicts").glob("*.json")
    assert json.loads(verdicts.read_text()).keys() == {"one graph a step", "8 steps a graph"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process that has all in memory needs fork")
def test_two_processes_may_write_at_once(home):
    def write():
        cache = CompileCache(step_of(), BATCH)
        for _ in range(200):
            cache.remember({"one graph a step": 0.5})
            if cache.verdicts() != {"one graph a step": 0.5}:
                return 1
        return 0

    child = os.fork()
    if child == 0:
        os._exit(write())
    assert write() == 0
    assert os.waitpid(child, 0)[1] == 0
    assert [one.suffix for one in CompileCache(step_of(), BATCH).file.parent.iterdir()] == [".json"]
