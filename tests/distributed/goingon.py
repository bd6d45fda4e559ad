"""Runs in several processes that are stopped and go on; nets, losses and steps that hold more than weights."""

import tempfile
from functools import partial
from pathlib import Path

import torch
from tests.distributed.cases import OWN, REFUSED, WORLD, case
from tests.distributed.cases.refusals import refused
from tests.distributed.parts import WIDTH, LearnedScale, classes, face, features, fitted, flat, mlp
from torch import nn
from torch.optim import lr_scheduler as schedules

from torchkeras import Callback, StepRunner
from torchkeras.checkpoint.run_state import optimizer_state
from torchkeras.state.module_state import bare_state_dict


class Blocks(nn.Module):
    """Blocks of uneven sizes, tied weights, a buffer, a frozen layer, and a state that is no tensor."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(WIDTH, 5), nn.Tanh(), nn.Linear(5, WIDTH))
                                     for _ in range(2)])
        self.first, self.last = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        self.last.weight = self.first.weight
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.head, self.scale = nn.Linear(WIDTH, 3), nn.Parameter(torch.ones(1))  # fewer numbers than processes
        self.register_buffer("seen", torch.zeros(()))
        self.calls = 0

    def forward(self, x):
        if self.training:
            self.seen += 1
            self.calls += 1
        x = self.last(self.first(x)) + self.frozen(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x) * (self.scale + self.seen / 100)

    def get_extra_state(self):
        return {"calls": self.calls}

    def set_extra_state(self, state):
        self.calls = state["calls"]


def groups(net):
    heads = {id(weight) for weight in net.head.parameters()}
    return [{"params": [weight for weight in net.parameters() if id(weight) not in heads]},
            {"params": list(net.head.parameters()), "lr": 0.03, "weight_decay": 0.0}]


OPTIMIZERS = {
    "AdamW in groups": lambda net, loss: torch.optim.AdamW(groups(net), lr=0.01, weight_decay=0.1),
    "SGD without momentum": lambda net, loss: torch.optim.SGD(net.parameters(), lr=0.1),
    "NAdam and a loss that learns": lambda net, loss: torch.optim.NAdam(
        [*net.parameters(), *loss.parameters()], lr=0.01),
}


class Stop(Callback):
    """Asks for the end at a step of a pass."""

    def __init__(self, stage, epoch, step):
        self.at = stage, epoch, step

    def on_step_end(self, model):
        if (model.run.stage, model.run.epoch, model.run.step) == self.at:
            model.run.stop("to go on later")


def built(name, seed):
    """Net, loss, optimizer and schedule made anew, with all that they remember."""
    net, loss = Blocks(seed), LearnedScale() if "loss" in name else nn.CrossEntropyLoss()
    optimizer = OPTIMIZERS[name](net, loss)
    return face(net, loss, ["accuracy"], optimizer, schedules.StepLR(optimizer, 1, 0.7))


def left(model):
    """Everything a run leaves in the model, by name."""
    modules = model.learners()
    found = {f"{number}.{name}": value for number, one in enumerate(modules) for name, value in bare_state_dict(one).items()}
    state = optimizer_state(model.optimizer, modules)["state"]
    return found | {f"{at}.{name}": value for at, one in state.items() for name, value in one.items()}


def alike(one, other):
    """The names under which two runs left other values; the same to the last bit."""
    pairs = [(name, one.get(name), other.get(name)) for name in {**one, **other}]
    return [name for name, mine, its in pairs if not (torch.equal(mine, its) if isinstance(mine, torch.Tensor)
                                                      and isinstance(its, torch.Tensor) else mine == its)]


def run(make, data, path=None, stop=None, **options):
    """One start of the script."""
    model = make()
    callbacks = [] if stop is None else [Stop(*stop)]
    options = {"batch_size": 4, "epochs": 2, "gradient_accumulation_steps": 2} | options
    return model, fitted(model, *data, ckpt_path=path, callbacks=callbacks, **options)


STOPS = [("train", 1, 3), ("val", 1, 1), ("train", 2, 2)]


def broken(make, data, whole, stops=STOPS, changed=None, **options):
    """Stop a run here and there, start it again each time; what it leaves beside the run without a break."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "best.pt"
        for number, stop in enumerate([*stops, None]):
            how = options | (changed or {}) if number else options
            model, result = run(make, data, path, stop, resume=True, **how)
        result.pop("weights_at_the_end")  # of the last start alone, which may have nothing left to train
        return model, result, {
            "unlike": alike(left(model), left(whole[0])),
            "unlike_numbers": alike(result, {name: whole[1][name] for name in result}),
            "unlike_control": len(alike(left(make()), left(whole[0]))) > 3}


def samples(seed):
    x, y = features(22, seed), classes(22, seed)
    y[::5] = -100  # labels that do not count, unevenly spread over the processes
    return (x, y), (x[:9], y[:9])


@case(*OPTIMIZERS, worlds=(2,))
def divided_and_stopped(name, seed):
    """With FSDP: stopped in windows, in a validation and in epochs, a run ends as the one without a break."""
    data, make = samples(seed), partial(built, name, seed)
    whole = run(make, data, fsdp=True)
    _, result, found = broken(make, data, whole, fsdp=True)
    return result | found


@case(("with", "without", None), ("without", "with", None), ("with", "without", ("train", 1, 3)), worlds=(2,))
def divided_in_a_part_of_a_run(first, then, stop, seed):
    """A state is of one kind: what FSDP wrote is gone on with without it, and the other way around."""
    data, make = samples(seed), partial(built, "AdamW in groups", seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "best.pt"
        run(make, data, path, stop, epochs=1, resume=True, fsdp=first == "with")
        model, result = run(make, data, path, resume=True, fsdp=then == "with")
    return result | {"left": left(model), "told": any("resume: fsdp has changed" in note for note in model.run.notes)}


class Centred(nn.Module):
    """A loss with a moving centre of what it saw in training, as self-distillation has one."""

    def __init__(self):
        super().__init__()
        self.register_buffer("centre", torch.zeros(3))
        self.seen = []

    def forward(self, preds, labels):
        if torch.is_grad_enabled():
            self.centre = 0.7 * self.centre + 0.3 * preds.detach().mean(dim=0)
            self.seen.append(self.centre)
        return nn.functional.cross_entropy(preds - self.centre, labels)


def normed(seed):
    """A net and a loss that keep what each process saw of a batch."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 3))
    return face(net, Centred(), optimizer=torch.optim.AdamW(net.parameters(), lr=0.02))


@case(False, True, among=OWN, worlds=(2,))  # in three, the last batch has a part of one sample
def buffers_of_net_and_loss(fsdp, seed):
    """Buffers are process 0's after a pass, and each process's own where a run goes on in the middle of one."""
    x, y = features(24, seed) + 1, classes(24, seed)
    data, make = ((x, y), (x[:9], y[:9])), partial(normed, seed)
    whole = run(make, data, fsdp=fsdp)
    model, result, found = broken(make, data, whole, fsdp=fsdp)
    first = whole[0].loss_fn.seen
    return result | found | {"own_seen": first, "centre": model.loss_fn.centre, "mean": model.net[1].running_mean,
                             **model.evaluate((x, y), batch_size=5)}


class Adversarial(StepRunner):
    """Two nets and two optimizers that learn against each other."""

    def __init__(self, *args, critic, critic_optimizer, seldom=1, **kwargs):
        super().__init__(*args, **kwargs)
        self.both, self.critic_optimizer = [critic], critic_optimizer
        self.seldom, self.done = seldom, 0

    def judged(self, x, real):
        scores = self.both[0](x)
        return self.loss_fn(scores, torch.full_like(scores, real))

    def __call__(self, batch):
        x, y = batch
        if self.training:
            self.accelerator.backward(self.judged(x[:, :3], 1.0) + self.judged(self.net(x).detach(), 0.0))
            if self.accelerator.sync_gradients:
                self.critic_optimizer.step()
                self.critic_optimizer.zero_grad()
        self.done += 1
        loss = self.judged(self.net(x), 1.0)
        if self.training and self.done % self.seldom == 0:
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                self.optimizer.step()
                self.optimizer.zero_grad()
                self.critic_optimizer.zero_grad()
        return {f"{self.stage}_loss": loss.detach()}, {}


def adversarial(seed, seldom=1):
    net, critic = mlp(seed), mlp(seed + 7, outputs=1, inputs=3)
    made = torch.optim.Adam(critic.parameters(), lr=0.02)
    return face(net, nn.BCEWithLogitsLoss(), optimizer=torch.optim.Adam(net.parameters(), lr=0.02), step=Adversarial,
                critic=critic, critic_optimizer=made, seldom=seldom)


@case((1, 1, False), (3, 1, False), (1, 2, False), (1, 1, True), worlds=(2,))
def two_nets_and_two_optimizers(steps, seldom, fsdp, seed):
    """A net given to a step of one's own shares its gradients too, over parts of unequal size."""
    model = adversarial(seed, seldom)
    x, y = features(15, seed), classes(15, seed)
    result = fitted(model, (x, y), (x, y), batch_size=7, epochs=2, gradient_accumulation_steps=steps, fsdp=fsdp)
    state = model.step_objects["critic_optimizer"].state_dict()["state"]
    return result | {"critic": flat(model.step_objects["critic"]), "state": [one["exp_avg"] for one in state.values()]}


class Hasty(Adversarial):
    """The same, which updates with local gradients."""

    def __call__(self, batch):
        if self.training:
            self.critic_optimizer.step()
        return super().__call__(batch)


class Around(Adversarial):
    """The same, which calls the parts of the critic."""

    def judged(self, x, real):
        for part in self.both[0].children():
            x = part(x)
        return self.loss_fn(x, torch.full_like(x, real))


@case("hasty", "around", "part", among=REFUSED, worlds=(2,))
def a_second_net_that_cannot_be_shared(how, seed):
    model, x, y = adversarial(seed), features(15, seed), classes(15, seed)
    if how == "part":
        model.step_objects["critic"] = model.net[0]
        return refused(model, (x, y)) if WORLD > 1 else {"error": None}
    model.StepRunner = Hasty if how == "hasty" else Around
    return refused(model, (x, y), batch_size=5, gradient_accumulation_steps=3 if how == "hasty" else 1)


class Measuring(Callback):
    """Measures and predicts in the middle of an epoch, on batches for which nothing is drawn."""

    def __init__(self, data):
        self.data, self.found = data, []

    def on_step_end(self, model):
        if model.run.stage == "train" and model.run.step == 2:
            self.found += [model.evaluate(self.data)["val_loss"], model.predict(self.data)]


@case(None, 2, worlds=(2,))
def divided_and_looked_at(stop, seed):
    """With FSDP a callback measures what was learned so far; a run that ends in its first epoch leaves that."""
    make = partial(built, "AdamW in groups", seed)
    (x, y), val = samples(seed)
    measuring, model = Measuring([(x[:8], y[:8]), (x[8:11], y[8:11])]), make()
    result = fitted(model, (x, y), val, batch_size=4, epochs=2, fsdp=True, callbacks=[
        measuring, *([] if stop is None else [Stop("train", 1, stop)])])
    return result | {"found": measuring.found, "left": left(model)}


class Freezing(Callback):
    """Freezes a layer when the run has begun."""

    def on_epoch_start(self, model):
        model.net[0].requires_grad_(False)


REFUSALS = {
    "freezing": lambda net: {"callbacks": [Freezing()]},
    "Adafactor": lambda net: {"optimizer": torch.optim.Adafactor(net.parameters())},
    "a number": lambda net: net.register_parameter("factor", nn.Parameter(torch.ones(()))) or {},
}


@case(*REFUSALS, among=REFUSED, worlds=(2,))
def undividable(what, seed):
    net = mlp(seed)
    options = REFUSALS[what](net)
    net.register_forward_hook(lambda module, given, out: out * getattr(module, "factor", 1))
    model = face(net, "cross_entropy", optimizer=options.pop("optimizer", None))
    return refused(model, (features(8, seed), classes(8, seed)), fsdp=True, **options)
