"""A run whose loss or net remembers something is the plain loop bit for bit, wherever that is kept."""

import array
import contextlib
import contextvars
import functools
import io
import itertools
import random
import sys
import threading
import time
import types
from collections import OrderedDict, deque

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from torchkeras import KerasModel, StepRunner
from torchkeras.core.communicator import Communicator
from torchkeras.core.stop import Request
from torchkeras.state.memento import Memento, memento_of
from torchkeras.weighting.own_attributes import ONCE

X = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1, keepdim=True) > 0).float()
VX, VY = X[:10] + 0.1, Y[:10]
COUNTS, CALLS = [0], 0
SETTINGS = types.ModuleType("settings_of_a_user")
SETTINGS.calls = 0
sys.modules["settings_of_a_user"] = SETTINGS


def scaled(preds, labels, calls):
    """The loss of call number ``calls``: a mean over samples at each."""
    return ((preds - labels) ** 2).mean() * (1 + 0.1 * float(calls))


def in_a_nonlocal():
    calls = 0

    def loss(preds, labels):
        nonlocal calls
        calls += 1
        return scaled(preds, labels, calls)

    return loss


def in_a_nonlocal_that_is_empty_first():
    def loss(preds, labels):
        nonlocal calls
        try:
            calls += 1
        except NameError:
            calls = 1
        return scaled(preds, labels, calls)

    if False:
        calls = 0
    return loss


def in_a_list_of_a_closure():
    seen = []
    return lambda preds, labels: (seen.append(1), scaled(preds, labels, len(seen)))[1]


def in_a_dict_of_a_closure():
    seen = {}

    def loss(preds, labels):
        seen[len(seen)] = True
        return scaled(preds, labels, len(seen))

    return loss


def in_a_tensor_of_a_closure():
    calls = torch.zeros(5000)
    return lambda preds, labels: scaled(preds, labels, calls.add_(1)[0])


def in_a_function_deep_down():
    inner = in_a_nonlocal()
    return lambda preds, labels: (lambda: inner(preds, labels))()


def in_a_global():
    global CALLS
    CALLS = 0

    def loss(preds, labels):
        global CALLS
        CALLS += 1
        return scaled(preds, labels, CALLS)

    return loss


def in_a_list_of_the_module():
    COUNTS[:] = [0]

    def loss(preds, labels):
        COUNTS[0] += 1
        return scaled(preds, labels, COUNTS[0])

    return loss


def helper(preds, labels):
    COUNTS[0] += 1
    return scaled(preds, labels, COUNTS[0])


def in_a_global_of_a_function_that_is_called():
    COUNTS[:] = [0]
    return lambda preds, labels: helper(preds, labels)


def in_a_module_of_the_user():
    SETTINGS.calls = 0

    def loss(preds, labels):
        SETTINGS.calls += 1
        return scaled(preds, labels, SETTINGS.calls)

    return loss


def in_a_module_imported_within():
    SETTINGS.calls = 0

    def loss(preds, labels):
        import settings_of_a_user

        settings_of_a_user.calls += 1
        return scaled(preds, labels, settings_of_a_user.calls)

    return loss


def in_an_attribute_of_the_function():
    def loss(preds, labels):
        loss.calls = getattr(loss, "calls", 0) + 1
        return scaled(preds, labels, loss.calls)

    return loss


def in_a_class():
    class Loss:
        calls = 0

        def __call__(self, preds, labels):
            type(self).calls += 1
            return scaled(preds, labels, self.calls)

    return Loss()


def in_a_class_that_is_named():
    class Counter:
        calls = 0

    def loss(preds, labels):
        Counter.calls += 1
        return scaled(preds, labels, Counter.calls)

    return loss


def in_a_method():
    class Losses:
        seen = []

        def loss(self, preds, labels):
            self.seen.append(1)
            return scaled(preds, labels, len(self.seen))

    return Losses().loss


def in_a_class_method():
    class Losses:
        calls = 0

        @classmethod
        def loss(cls, preds, labels):
            cls.calls += 1
            return scaled(preds, labels, cls.calls)

    return Losses.loss


def in_a_global_of_a_method_of_a_method():
    COUNTS[:] = [0]

    class Loss:
        @property
        def calls(self):
            COUNTS[0] += 1
            return COUNTS[0]

        def value(self, preds, labels):
            return scaled(preds, labels, self.calls)

        def __call__(self, preds, labels):
            return self.value(preds, labels)

    return Loss()


def in_a_default():
    def loss(preds, labels, seen=[]):  # noqa: B006
        seen.append(1)
        return scaled(preds, labels, len(seen))

    return loss


def in_a_default_of_a_keyword():
    def loss(preds, labels, *, seen={}):  # noqa: B006
        seen[len(seen)] = 1
        return scaled(preds, labels, len(seen))

    return loss


def counted(preds, labels, seen):
    seen.calls += 1
    return scaled(preds, labels, seen.calls)


def in_a_partial():
    return functools.partial(counted, seen=types.SimpleNamespace(calls=0))


def in_slots():
    class Loss:
        __slots__ = ("calls",)

        def __call__(self, preds, labels):
            self.calls = getattr(self, "calls", 0) + 1
            return scaled(preds, labels, self.calls)

    return Loss()


class Holder:
    def __init__(self, held, call):
        self.held, self.call = held, call

    def __call__(self, preds, labels):
        return scaled(preds, labels, self.call(self.held))


def pushed(held):
    held.append(1)
    return len(held) / 1000


def in_a_builtin_method():
    seen = []
    push = seen.append
    length = seen.__len__
    return lambda preds, labels: (push(1), scaled(preds, labels, length()))[1]


def in_a_queue_of_a_net():
    return Holder(torch.zeros(100_000), lambda held: held.add_(1).mean())


def in_a_large_array():
    def count(held):
        held += 1
        return held[0]

    return Holder(np.zeros(10_000), count)


def in_an_array_of_objects():
    def count(held):
        held[0] = held[0] + 1
        return held[0]

    return Holder(np.array([0, None], dtype=object), count)


def in_bytes():
    def count(held):
        held[0] += 1
        return held[0]

    return Holder(bytearray(2), count)


def in_an_array_of_c():
    def count(held):
        held.append(1)
        return len(held)

    return Holder(array.array("l"), count)


def in_an_iterator_of_an_iterator():
    numbers = iter(range(1000))
    chained = itertools.islice(zip(itertools.chain([0.5], numbers), itertools.count(2, 3), strict=False), 900)

    def loss(preds, labels):
        one, other = next(chained)
        return scaled(preds, labels, one + other + next(numbers))

    return loss


def in_an_iterator_of_a_list():
    return Holder([itertools.count(1)], lambda held: next(held[0]))


def in_an_iterator_by_default():
    return lambda preds, labels, numbers=iter(range(1, 99)): scaled(preds, labels, next(numbers))  # noqa: B008


def in_a_generator_of_torch():
    generator = torch.Generator().manual_seed(3)
    return lambda preds, labels: scaled(preds, labels, torch.rand((), generator=generator))


def in_a_generator_of_numpy():
    return lambda preds, labels, rng=np.random.default_rng(0): scaled(preds, labels, rng.random())  # noqa: B008


def in_a_module():
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            calls = itertools.cycle(range(1, 18))
            self.scale = lambda: next(calls)

        def forward(self, preds, labels):
            return scaled(preds, labels, self.scale())

    return Loss()


def in_a_context():
    variable = contextvars.ContextVar("calls", default=0)
    variable.set(0)

    def loss(preds, labels):
        variable.set(variable.get() + 1)
        return scaled(preds, labels, variable.get())

    return loss


def in_a_thread_local():
    local = threading.local()

    def loss(preds, labels):
        local.calls = getattr(local, "calls", 0) + 1
        return scaled(preds, labels, local.calls)

    return loss


def in_the_order_of_a_dict():
    def count(held):
        held.move_to_end(next(iter(held)))
        return next(iter(held))

    return Holder(OrderedDict.fromkeys(range(17)), count)


def in_a_cached_function():
    seen = []

    @functools.lru_cache(maxsize=0)
    def count():
        seen.append(1)
        return len(seen)

    return lambda preds, labels: scaled(preds, labels, count())


def in_a_wrapped_function():
    calls = 0

    @contextlib.contextmanager
    def counting():
        nonlocal calls
        calls += 1
        yield calls

    def loss(preds, labels):
        with counting() as number:
            return scaled(preds, labels, number)

    return loss


def in_a_long_queue_of_tensors():
    def count(held):
        held.append(held.popleft() + 1)
        return float(held[-1])

    return Holder(deque([torch.zeros(())] * 2 + [torch.ones(())] * 1500, maxlen=1502), count)


def in_text():
    return Holder(io.StringIO(), lambda held: held.write("a") and len(held.getvalue()))


PLACES = {name: make for name, make in list(globals().items()) if name.startswith("in_")} | {
    "in_a_counter": lambda: Holder(itertools.count(1), next),
    "in_a_long_list": lambda: Holder([1] * 5000, pushed),
    "in_a_long_deque": lambda: Holder(deque([1] * 5000), pushed),
}


def net_of():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 1))


def by_hand(net, loss, val, before=0):
    """The weights after the loop that a careful person writes."""
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    loader = DataLoader(TensorDataset(X, Y), 7, shuffle=True)
    for _ in range(before):
        loss(net(X), Y)
    torch.manual_seed(5)
    for _ in range(2):
        net.train()
        for x, y in loader:
            loss(net(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
        net.eval()
        for x, y in DataLoader(TensorDataset(VX, VY), 7) if val else ():
            with torch.no_grad():
                loss(net(x), y)
    return [weight.detach() for weight in net.parameters()]


class Epochs:
    """A metric that rises by one each epoch."""

    def __init__(self):
        self.epochs = 0

    def update(self, preds, labels): ...

    def compute(self):
        self.epochs += 1
        return self.epochs

    def reset(self): ...


def by_fit(net, loss, val, **options):
    model = KerasModel(net, loss, {"epochs": Epochs()}, optimizer=torch.optim.SGD(net.parameters(), 0.05))
    data = DataLoader(TensorDataset(VX, VY), 7) if val else None
    model.fit(DataLoader(TensorDataset(X, Y), 7, shuffle=True), data, epochs=2, ckpt_path=None, quiet=True, seed=5,
              monitor="train_epochs", mode="max", **options)  # the last weights are compared, so each epoch is the best
    return [weight.detach() for weight in net.parameters()], model


def equal(one, other):
    return all(map(torch.equal, one, other))


@pytest.mark.parametrize("val", [False, True], ids=["alone", "with validation"])
@pytest.mark.parametrize("name", PLACES)
def test_a_loss_that_remembers_is_the_plain_loop(name, val):
    wanted = by_hand(net_of(), PLACES[name](), val)
    found, model = by_fit(net_of(), PLACES[name](), val)
    assert equal(found, wanted)
    assert ONCE not in model.run.notes
    assert not [note for note in model.run.notes if "not tried before its turn" in note]
    assert not equal(by_hand(net_of(), PLACES[name](), val, before=1), wanted)  # control: one call more


class Net(nn.Module):
    """A net whose forward remembers, as a loss may."""

    def __init__(self, remember):
        super().__init__()
        self.inner, self.remember = net_of(), remember

    def forward(self, x):
        return self.inner(x) + self.remember(x, 0 * x)


def plain_loss(preds, labels):
    return ((preds - labels) ** 2).mean()


@pytest.mark.parametrize("val", [False, True], ids=["alone", "with validation"])
@pytest.mark.parametrize("name", PLACES)
def test_a_net_that_remembers_is_the_plain_loop(name, val):
    wanted = by_hand(Net(PLACES[name]()), plain_loss, val)
    assert equal(by_fit(Net(PLACES[name]()), plain_loss, val)[0], wanted)
    assert not equal(by_hand(Net(PLACES[name]()), plain_loss, val, before=1), wanted)


@pytest.mark.parametrize("name", PLACES)
def test_a_step_of_ones_own_that_remembers_is_the_plain_loop(name):
    def fitted():
        remember = PLACES[name]()

        class Step(StepRunner):
            def loss(self, preds, labels, weights=None):
                return remember(preds, labels)

        net = net_of()
        model = KerasModel(net, nn.MSELoss(), {"epochs": Epochs()}, torch.optim.SGD(net.parameters(), 0.05))
        model.StepRunner = Step
        model.fit(DataLoader(TensorDataset(X, Y), 7, shuffle=True), DataLoader(TensorDataset(VX, VY), 7), epochs=2,
                  ckpt_path=None, quiet=True, seed=5, monitor="train_epochs", mode="max")
        return [weight.detach() for weight in net.parameters()]

    assert equal(fitted(), by_hand(net_of(), PLACES[name](), True))


def test_control_without_a_memento_all_of_these_differ(monkeypatch):
    monkeypatch.setattr(Memento, "__enter__", lambda self: self)
    monkeypatch.setattr(Memento, "restore", lambda self: None)
    same = [name for name in PLACES
            if equal(by_fit(net_of(), PLACES[name](), True)[0], by_hand(net_of(), PLACES[name](), True))]
    assert same == []


def test_an_iterator_stays_the_one_that_others_know():
    numbers = itertools.count()
    found, _ = by_fit(net_of(), Holder(numbers, next), True)
    assert next(numbers) == 2 * (4 + 2)  # two epochs of four and two batches
    assert equal(found, by_hand(net_of(), Holder(itertools.count(), next), True))


def numbers_of(file=None):
    number = 0
    while True:
        number += 1
        yield number


def a_generator():
    return Holder(numbers_of(), next)


def a_generator_in_a_closure():
    numbers = numbers_of()
    return lambda preds, labels: scaled(preds, labels, next(numbers))


def a_map_of_a_generator():
    return Holder(map(float, numbers_of()), next)


def an_iterator_in_a_tuple():
    return Holder((itertools.count(1),), lambda held: next(held[0]))


READ_ONCE = [a_generator, a_generator_in_a_closure, a_map_of_a_generator, an_iterator_in_a_tuple]


@pytest.mark.parametrize("val", [False, True], ids=["alone", "with validation"])
@pytest.mark.parametrize("make", READ_ONCE)
def test_what_can_be_read_only_once_is_not_called_ahead(make, val):
    found, model = by_fit(net_of(), make(), val)
    assert equal(found, by_hand(net_of(), make(), val))
    assert not equal(found, by_hand(net_of(), make(), val, before=1))
    assert model.run.notes.count(ONCE) == 1


@pytest.mark.parametrize("make", READ_ONCE)
def test_what_can_be_read_only_once_is_refused_where_batches_are_put_together(make):
    with pytest.raises(ValueError, match=r"^loss_fn: received .* read only once .*StepRunner\.count"):
        by_fit(net_of(), make(), True, gradient_accumulation_steps=2)


def test_the_refusal_names_a_way_that_works():
    class Step(StepRunner):
        def count(self, batch):
            return len(batch[0])

    model = KerasModel(net_of(), a_generator(), optimizer="sgd")
    model.StepRunner = Step
    model.fit((X, Y), epochs=1, ckpt_path=None, quiet=True, gradient_accumulation_steps=2)


def test_evaluate_before_does_not_hide_the_refusal():
    model = KerasModel(net_of(), a_generator())
    model.evaluate((VX, VY))
    with pytest.raises(ValueError, match="read only once"):
        model.fit((X, Y), epochs=1, ckpt_path=None, quiet=True, gradient_accumulation_steps=2)


def test_a_file_that_a_loss_writes_has_a_line_for_each_batch(tmp_path):
    with open(tmp_path / "log", "w") as log:
        def loss(preds, labels):
            log.write("a line\n")
            return plain_loss(preds, labels)

        by_fit(net_of(), loss, True)
    assert len((tmp_path / "log").read_text().splitlines()) == 2 * (4 + 2)


LOG = numbers_of()
WIDTH, WEIGHTS = 2.0, torch.ones(3)


def reading(preds, labels):
    """Reads globals, and has an attribute with the name of a generator."""
    numbers = types.SimpleNamespace(LOG=1)
    return plain_loss(preds, labels) * WIDTH * WEIGHTS.mean() * numbers.LOG


def test_a_function_that_only_reads_globals_is_looked_at():
    assert not memento_of(reading).one_shot
    _, model = by_fit(net_of(), reading, True, gradient_accumulation_steps=2)
    assert ONCE not in model.run.notes
    assert memento_of(lambda: next(LOG)).one_shot  # control


def test_a_loss_that_shows_something_is_looked_at():
    assert not memento_of(Holder(sys.stdout, print), lambda: print(1, file=sys.stderr)).one_shot


class Touchy:
    """Nobody may ask it anything."""

    def __getattr__(self, name):
        raise AssertionError(name)

    def __len__(self):
        raise AssertionError

    __eq__ = __bool__ = __iter__ = __hash__ = __len__

    @property
    def value(self):
        raise AssertionError

    @property
    def __class__(self):
        raise AssertionError


class TouchyList(list):
    __iter__ = __len__ = clear = extend = __eq__ = lambda self, *other: 1 / 0


class TouchyDict(dict):
    __iter__ = __len__ = items = values = keys = clear = __eq__ = lambda self, *other: 1 / 0


def test_no_code_of_the_user_runs():
    held, touchy, listed, named = Touchy(), Touchy(), TouchyList(), TouchyDict(a=1)
    object.__setattr__(held, "inner", touchy)

    def loss():
        return held, listed, named

    with memento_of(loss, held, (touchy,), listed, named):
        list.append(listed, 1)
        dict.__setitem__(named, "b", 2)
        vars_of = object.__getattribute__(held, "__dict__")
        vars_of["more"] = 1
    assert list.__len__(listed) == 0
    assert dict.__len__(named) == 1
    assert list(vars_of) == ["inner"]


class Big(Dataset):
    def __init__(self):
        self.x, self.rows = torch.zeros(100_000), [object() for _ in range(50_000)]

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.x


def cost(*roots):
    found = []
    for _ in range(5):
        start = time.process_time()
        with memento_of(*roots):
            pass
        found.append(time.process_time() - start)
    return min(found)


def test_a_loss_that_holds_the_net_or_data_costs_little():
    net, data = nn.Sequential(*[nn.Linear(8, 8) for _ in range(200)]), Big()

    def loss(preds, labels):
        return plain_loss(preds, labels) + 0 * sum(weight.sum() for weight in net.parameters()) + 0 * len(data)

    assert cost(loss) < 0.1  # 6 ms of CPU time here
    assert len(memento_of(loss).seen) < 5000  # the rows are left alone


def test_large_tensors_are_watched_where_there_is_no_copy(monkeypatch):
    queue = torch.zeros(5000)
    for numbers, lost, left in ((0, True, 1.0), (5000, False, 0.0)):
        queue.zero_()
        with Memento([queue], numbers=numbers) as memento:
            queue.fill_(1.0)
        assert memento.lost is lost
        assert float(queue[0]) == left


def test_a_stop_that_is_asked_for_meanwhile_is_kept():
    holder = Holder(Communicator(), abs)
    with memento_of(holder):
        holder.held.request = Request("terminated")
        holder.call = max
    assert holder.held.request == Request("terminated")
    assert holder.call is abs  # control: what the holder itself holds is restored


def test_the_items_of_a_huge_list_are_left_alone():
    rows = [torch.zeros(3) for _ in range(20_000)]
    with memento_of(rows) as memento:
        rows.pop()
    assert len(rows) == 20_000
    assert len(memento.seen) < 10


def test_a_generator_without_a_state_is_no_obstacle():
    assert not memento_of(random.SystemRandom()).one_shot


def test_a_tensor_that_got_another_shape_gets_its_own_back():
    tensor, rows = torch.zeros(3), np.zeros(3)
    with memento_of([tensor, rows]):
        tensor.resize_(5).fill_(2.0)
        rows.resize(6, refcheck=False)
        rows += 1
    assert torch.equal(tensor, torch.zeros(3))
    assert rows.tolist() == [0, 0, 0]


def test_iterators_of_datasets_still_count_as_read_once():
    assert Memento(itertools.count()).one_shot
    assert Memento([iter([1])]).one_shot
    assert not memento_of([iter([1])]).one_shot


@pytest.mark.filterwarnings("ignore:.*nested tensors")
def test_tensors_of_all_makes_are_no_obstacle():
    with torch.inference_mode():
        inferred = torch.ones(9000)
    nested, nan = torch.nested.nested_tensor([torch.ones(1)]), torch.tensor([float("nan")])
    weight = nn.Linear(2, 1).weight
    before = weight.detach().clone()
    with memento_of([inferred, nested, nan, weight, torch.empty(1, device="meta"), torch.ones(1).expand(6),
                     torch.eye(2).to_sparse()]), torch.no_grad():
        nan.fill_(1.0)
        weight.add_(1.0)
    assert bool(nan.isnan())
    assert torch.equal(weight, before)
