"""Nets that take their inputs as one tuple, and nets that take them one by one, on every face."""

import functools

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from torchkeras import KerasModel, Model, flop_summary, summary
from torchkeras.data.batch import call as call_net

pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in (
    ".torch.jit", r"`isinstance\(treespec, LeafSpec\)` is deprecated", "You defined a `validation_step`",
    "The '.*_dataloader' does not have many workers", "The number of training batches")]
GENERATOR = torch.Generator().manual_seed(0)
NUM, CAT = torch.randn(20, 3, generator=GENERATOR), torch.randn(20, 2, generator=GENERATOR)
Y = NUM.sum(1, keepdim=True) - CAT.sum(1, keepdim=True)


class Table(Dataset):
    """Two inputs as one tuple, and a label."""

    def __init__(self, labelled=True):
        self.labelled = labelled

    def __len__(self):
        return len(Y)

    def __getitem__(self, index):
        features = NUM[index], CAT[index]
        return (features, Y[index]) if self.labelled else (features,)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.dropout, self.layer = nn.BatchNorm1d(5), nn.Dropout(0.3), nn.Linear(5, 1)
        self.calls, self.seen, self.by_size = 0, [], {}

    def joined(self, num, cat):
        self.calls += 1
        self.seen.append(len(num))
        self.by_size[len(num)] = self.by_size.get(len(num), 0) + 1
        return self.layer(self.dropout(self.norm(torch.cat([num, cat], 1))))


class Whole(Base):
    def forward(self, x):
        num, cat = x
        return self.joined(num, cat)


class WholeOrMore(Base):
    def forward(self, x, y=None, scale=1.0):
        num, cat = x
        return self.joined(num, cat) * scale


class Indexed(Base):
    def forward(self, x, mask=None):
        return self.joined(x[0], x[1])


class Apart(Base):
    def forward(self, num, cat):
        return self.joined(num, cat)


class ApartByDefault(Base):
    def forward(self, num, cat=None):
        return self.joined(num, cat)


class Star(Base):
    def forward(self, *inputs):
        return self.joined(*inputs)


class Passing(nn.Module):
    """A wrapper that says nothing of what its net takes."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, *args, **kwargs):
        return self.net(*args, **kwargs)


class TypedTuple(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 1)

    def forward(self, x: tuple[torch.Tensor, torch.Tensor]):
        return self.layer(torch.cat([x[0], x[1]], 1))


class TypedList(TypedTuple):
    def forward(self, x: list[torch.Tensor]):
        return self.layer(torch.cat([x[0], x[1]], 1))


def partial_of():
    net = WholeOrMore()
    net.forward = functools.partial(net.forward, scale=1.0)
    return net


NETS = {
    "one tuple": Whole, "one tuple and defaults": WholeOrMore, "by index": Indexed, "two": Apart,
    "one and a default": ApartByDefault, "any number": Star, "in Sequential": lambda: nn.Sequential(WholeOrMore()),
    "in a wrapper": lambda: Passing(Whole()), "two in a wrapper": lambda: Passing(Apart()),
    "compiled": lambda: torch.compile(WholeOrMore(), backend="eager"),
    "two compiled": lambda: torch.compile(ApartByDefault(), backend="eager"),
    "DataParallel": lambda: nn.DataParallel(WholeOrMore()), "functools.partial": partial_of,
    "scripted, a tuple": lambda: torch.jit.script(TypedTuple()),
    "scripted, a list": lambda: torch.jit.script(TypedList()),
}
every_net = pytest.mark.parametrize("kind", NETS)


def build(kind):
    torch.manual_seed(0)
    net = NETS[kind]()
    torch.manual_seed(1)
    return net


def together(kind):
    return kind not in ("two", "one and a default", "any number", "two in a wrapper", "two compiled")


def call(net, kind, features):
    return net(tuple(features)) if together(kind) else net(*features)


def by_hand(kind, epochs=2):
    """Return the weights of a plain loop."""
    net = build(kind)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(epochs):
        for features, labels in DataLoader(Table(), batch_size=6):
            nn.functional.mse_loss(call(net, kind, features), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    return net


def weights(net):
    return nn.utils.parameters_to_vector(net.parameters()).detach()


def keras_model(net):
    return KerasModel(net, nn.MSELoss(), optimizer=torch.optim.SGD(net.parameters(), lr=0.05))


@every_net
def test_fit_evaluate_and_predict_call_it_as_the_plain_loop_does(kind):
    once, expected, model = by_hand(kind, epochs=1), by_hand(kind), keras_model(build(kind))
    model.fit(DataLoader(Table(), batch_size=6), epochs=2, ckpt_path=None, restore_best=False, quiet=True)
    assert torch.equal(weights(model.net), weights(expected))
    assert not torch.equal(weights(model.net), weights(once))  # control
    expected.eval()
    with torch.no_grad():
        preds = call(expected, kind, (NUM, CAT))
    for data in (DataLoader(Table(), batch_size=6), DataLoader(Table(labelled=False), batch_size=6), ((NUM, CAT),)):
        assert torch.allclose(model.predict(data), preds, atol=1e-6)
    found = model.evaluate(((NUM, CAT), Y))["val_loss"]
    assert found == pytest.approx(nn.functional.mse_loss(preds, Y).item(), rel=1e-6)


@every_net
def test_the_kind_is_found_out_without_a_trace(kind):
    net, states = build(kind), []
    before = [one.clone() for one in net.buffers()]
    for _ in range(2):  # the second time it is known
        torch.manual_seed(7)
        keras_model(net).evaluate(DataLoader(Table(), batch_size=6))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    assert all(map(torch.equal, net.buffers(), before))
    counted = [module.calls for module in net.modules() if isinstance(module, Base)]
    assert counted in ([8], [])  # twice 4 batches; a scripted net has no such count
    inner = [module for module in net.modules() if isinstance(module, Base)]
    assert [module.seen for module in inner] in ([[6, 6, 6, 2] * 2], [])
    assert [module.by_size for module in inner] in ([{6: 6, 2: 2}], [])


@every_net
def test_the_keras_face_takes_a_list_of_inputs(kind):
    net = build(kind)
    model = Model(net)
    model.compile(optimizer=torch.optim.SGD(net.parameters(), lr=0.05), loss="mse")
    before = weights(net).clone()
    model.fit([NUM, CAT], Y, batch_size=6, verbose=0)
    assert not torch.equal(weights(net), before)
    net.eval()
    with torch.no_grad():
        preds = call(net, kind, (NUM, CAT))
    assert torch.allclose(torch.from_numpy(model.predict([NUM, CAT])), preds, atol=1e-6)
    assert model.evaluate([NUM, CAT], Y) == pytest.approx(nn.functional.mse_loss(preds, Y).item(), rel=1e-5)


@every_net
def test_the_lightning_face_takes_it_too(kind):
    pytest.importorskip("pytorch_lightning")
    from torchkeras import LightModel

    expected, net = by_hand(kind), build(kind)
    model = LightModel(net, nn.MSELoss(), optimizer=torch.optim.SGD(net.parameters(), lr=0.05), quiet=True)
    trainer = LightModel.Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
                                 enable_progress_bar=False, enable_model_summary=False, inference_mode=False)
    trainer.fit(model, DataLoader(Table(), batch_size=6))
    assert torch.allclose(weights(net), weights(expected), atol=1e-6)
    assert sum(map(len, trainer.predict(model, DataLoader(Table(), batch_size=6)))) == 20


@pytest.mark.parametrize("kind", [one for one in NETS if "scripted" not in one])
@pytest.mark.parametrize("data", [{"input_data": (NUM, CAT)}, {"input_data": [NUM, CAT]}, {"input_shape": [(3,), (2,)]}])
def test_a_summary_takes_a_tuple_a_list_and_shapes(kind, data):
    net = build(kind)
    found = summary(net, **data, write=lambda text: None)
    assert [row.name.partition("-")[0] for row in found.rows] == ["BatchNorm1d", "Dropout", "Linear"]
    assert found.rows[-1].shapes == ((-1, 1),)
    samples = 20 if "input_data" in data else 1
    assert flop_summary(net, **data, write=lambda text: None) == samples * 2 * 5


def test_a_summary_takes_a_dict_by_name_or_whole():
    class Named(Base):
        def forward(self, num, cat):
            return self.joined(num, cat)

    class OneDict(Base):
        def forward(self, batch, flag=False):
            return self.joined(batch["num"], batch["cat"])

    for net in (Named(), OneDict(), Passing(OneDict()), Passing(Named())):
        found = summary(net, input_data={"num": NUM, "cat": CAT}, write=lambda text: None)
        assert found.total_params == 16
        assert found.rows[-1].shapes == ((-1, 1),)
    with pytest.raises(TypeError, match="expected the inputs of Named.forward"):  # control
        summary(Named(), input_data={"num": NUM, "kat": CAT}, write=lambda text: None)


def test_a_forward_that_does_different_things_in_the_two_ways_is_refused():
    class Either(Base):
        def forward(self, x, other=None):
            return self.joined(x[0], x[1]) if isinstance(x, tuple) else self.joined(x, other) + 1

    for run in (lambda model: model.fit(DataLoader(Table(), batch_size=6), ckpt_path=None, quiet=True),
                lambda model: model.evaluate(DataLoader(Table(), batch_size=6)),
                lambda model: model.predict(DataLoader(Table(), batch_size=6)),
                lambda model: model.summary(input_data=(NUM, CAT))):
        torch.manual_seed(0)
        model = keras_model(Either())
        before = weights(model.net).clone()
        with pytest.raises(ValueError, match=r"Either.forward\(x, other=None\) makes one thing as arguments"):
            run(model)
        assert torch.equal(weights(model.net), before)


def test_where_neither_way_works_the_error_tells_both():
    class Three(Base):
        def forward(self, x, mask=None):
            num, cat, more = x
            return self.joined(num, cat)

    with pytest.raises(ValueError, match="too many values to unpack") as error:
        keras_model(Three()).evaluate(DataLoader(Table(), batch_size=6))
    assert any("With all inputs in one container: ValueError: not enough values" in note
               for note in error.value.__notes__)


def test_a_net_that_cannot_be_tried_says_so():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.LazyLinear(1)

        def forward(self, x, mask=None):
            num, cat = x
            return self.layer(torch.cat([num, cat], 1))

    with pytest.raises(ValueError, match="too many values") as error:
        call_net(Lazy(), (NUM, CAT))
    assert any("lazy and sharded nets are not tried" in note for note in error.value.__notes__)
    with pytest.raises(RuntimeError) as error:  # control: its forward says what it takes
        call_net(Whole().eval(), (NUM[:, :1], CAT))
    assert not any("lazy" in note for note in getattr(error.value, "__notes__", []))


def test_a_forward_that_is_replaced_is_looked_at_again():
    model = keras_model(ApartByDefault())
    first = model.evaluate(DataLoader(Table(), batch_size=6))
    model.net.forward = lambda x, mask=None: ApartByDefault.forward(model.net, x[0], x[1])
    assert model.evaluate(DataLoader(Table(), batch_size=6)) == first


def test_named_inputs_reach_a_wrapped_net_that_takes_one_dict():
    class OneDict(Base):
        def forward(self, batch):
            return self.joined(batch["num"], batch["cat"])

    data = ({"num": NUM, "cat": CAT}, Y)
    wrapped, bare = Passing(OneDict()), OneDict()
    bare.load_state_dict(wrapped.net.state_dict())
    assert keras_model(wrapped).evaluate(data) == keras_model(bare).evaluate(data)


def test_a_list_of_images_is_no_tuple_of_inputs():
    class Sizes(nn.Module):
        def forward(self, images):
            return torch.stack([image.mean() for image in images])

    images = [torch.full((3, size, 8), float(size)) for size in (4, 5)]
    found = KerasModel(Sizes(), nn.MSELoss()).predict([(images,), (images,)])
    assert found.tolist() == [4.0, 5.0, 4.0, 5.0]


def test_the_fast_way_calls_it_alike():
    def trained(kind, speed):
        model = keras_model(build(kind))
        model.fit(DataLoader(Table(), batch_size=5), epochs=3, ckpt_path=None, quiet=True, speed=speed)
        return weights(model.net)

    for kind in ("one tuple and defaults", "one and a default"):
        assert torch.allclose(trained(kind, "fast"), trained(kind, "exact"), atol=1e-5)
