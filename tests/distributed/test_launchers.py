"""The ways in which several processes are started: torchrun on one host and on two, accelerate launch."""

import json
import os
import socket
import subprocess
import sys
import textwrap

import pytest

SCRIPT = textwrap.dedent("""
    import json, os, sys
    import torch
    from torch import nn
    from torchkeras import KerasModel, seed_everything

    seed_everything(0)
    x = torch.randn(101, 4)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    model = KerasModel(net, "mse", ["mae", "r2"], torch.optim.Adam(net.parameters(), lr=0.01))
    history = model.fit((x, x[:, :1]), validation_split=0.2, epochs=3, batch_size=8, ckpt_path="best.pt", cpu=True)
    measured = model.evaluate((x, x[:, :1]), cpu=True)
    predicted = model.predict(x, cpu=True)
    again = model.fit_ddp(2, (x, x[:, :1]), epochs=1, batch_size=8, ckpt_path=None, quiet=True, cpu=True)
    told = {"history": history.to_numpy().tolist(), "measured": measured, "predicted": predicted.sum().item(),
            "shape": list(predicted.shape), "weights": sum(weight.sum().item() for weight in net.parameters()),
            "processes": model.run.communicator.world_size}
    with open(f"told-{os.environ.get('RANK', 0)}.json", "w") as file:
        json.dump(told, file)
""")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def commands() -> dict[str, list[list[str]]]:
    """How each launch is written; two commands are what is typed on two hosts."""
    python, torchrun = [sys.executable], [sys.executable, "-m", "torch.distributed.run"]
    rendezvous = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "job",
                  "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--local-addr", "127.0.0.1"]
    return {
        "one process": [python],
        "torchrun": [[*torchrun, "--standalone", "--nproc-per-node", "2"]],
        "torchrun on two hosts": [[*torchrun, *rendezvous], [*torchrun, *rendezvous]],
        "accelerate launch": [[sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes",
                               "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
                               "--main_process_port", str(free_port())]],
    }


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """All of them at once: most of their time is imports."""
    running = {}
    for name, lines in commands().items():
        folder = tmp_path_factory.mktemp("launch")
        (folder / "script.py").write_text(SCRIPT)
        running[name] = folder, [
            subprocess.Popen([*line, "script.py"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}) for line in lines]
    found = {}
    try:
        for name, (folder, processes) in running.items():
            printed = [one.communicate(timeout=100)[0] for one in processes]
            codes = [one.returncode for one in processes]
            assert codes == [0] * len(codes), f"{name}: {codes}\n" + "\n".join(printed)
            numbers = [json.loads(file.read_text()) for file in sorted(folder.glob("told-*.json"))]
            found[name] = numbers, printed, folder
    finally:
        for one in (one for _, processes in running.values() for one in processes):
            one.kill()
            one.wait()
            one.stdout.close()
    return found


SEVERAL = [name for name in commands() if name != "one process"]


@pytest.mark.parametrize("name", SEVERAL)
def test_every_process_tells_the_numbers_of_one(told, name):
    (alone,), *_ = told["one process"]
    processes, *_ = told[name]
    assert len(processes) == 2
    assert processes[0] == processes[1]
    one = processes[0]
    assert one["processes"] == 2  # a launch that was not noticed would train twice alone, with the same numbers
    assert one["shape"] == alone["shape"] == [101, 1]
    assert sum(one["history"], []) == pytest.approx(sum(alone["history"], []), rel=1e-5)
    assert one["measured"] == pytest.approx(alone["measured"], rel=1e-5)
    assert one["predicted"] == pytest.approx(alone["predicted"], rel=1e-4)
    assert one["weights"] == pytest.approx(alone["weights"], rel=1e-4)


@pytest.mark.parametrize("name", SEVERAL)
def test_only_the_first_process_shows_the_run_and_writes_the_weights(told, name):
    _, printed, folder = told[name]
    assert "".join(printed).count("reach best val_loss") == told["one process"][1][0].count("reach best val_loss") > 0
    assert sorted(path.name for path in folder.iterdir()) == ["best.pt", "script.py", "told-0.json", "told-1.json"]
