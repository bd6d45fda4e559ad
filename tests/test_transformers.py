"""Nets of transformers fit, evaluate, predict and are summed up, with the loss they bring and with one's own."""

import os
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install transformers")

from torchkeras import KerasModel  # noqa: E402
from torchkeras.display.classes import judge  # noqa: E402

WORDS, LENGTH, N, CLASSES = 40, 6, 10, 3
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "vocab_size": WORDS, "max_position_embeddings": 16}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def tokens(seed=0):
    return torch.randint(2, WORDS, (N, LENGTH), generator=torch.Generator().manual_seed(seed))


IDS, KINDS, MASK = tokens(), tokens(1)[:, 0] % CLASSES, torch.ones(N, LENGTH, dtype=torch.int64)
BATCH = {"input_ids": IDS, "attention_mask": MASK, "labels": KINDS}


def bert(**more):
    torch.manual_seed(0)
    config = transformers.BertConfig(**TINY, **{"num_labels": CLASSES, **more})
    return transformers.BertForSequenceClassification(config)


def tagger():
    torch.manual_seed(0)
    return transformers.BertForTokenClassification(transformers.BertConfig(**TINY, num_labels=CLASSES))


def gpt():
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=WORDS, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=1))


def t5():
    torch.manual_seed(0)
    return transformers.T5ForConditionalGeneration(transformers.T5Config(
        vocab_size=WORDS, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0))


def ready(data, size=4):
    return [{name: value[start:start + size] for name, value in data.items()} for start in range(0, N, size)]


def through(net, data):
    with torch.no_grad():
        return net.eval()(**data)


NETS = {"bert": (bert, BATCH), "tagger": (tagger, BATCH | {"labels": IDS % CLASSES}),
        "gpt": (gpt, BATCH | {"labels": IDS}), "t5": (t5, BATCH | {"labels": tokens(2)})}


@pytest.mark.parametrize("name", NETS)
def test_a_net_with_its_own_loss_fits_and_predicts_what_it_measures(name, tmp_path):
    make, data = NETS[name]
    net = make()
    model = KerasModel(net, None, optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
    history = model.fit(ready(data), ready(data), epochs=2, ckpt_path=None, quiet=True)
    assert history["train_loss"].iloc[1] < history["train_loss"].iloc[0]
    expected = through(net, data)
    assert model.evaluate(ready(data, N))["val_loss"] == pytest.approx(expected.loss.item(), rel=1e-5)
    found, labels = model.predict(ready(data), with_labels=True)
    assert type(found) is type(expected)
    assert torch.allclose(found.logits, expected.logits, atol=1e-5)
    assert torch.equal(labels, data["labels"])
    assert "loss" not in found
    assert "past_key_values" not in found
    assert torch.equal(model.predict(ready(data), output="classes"), found.logits.argmax(-1))
    assert torch.allclose(model.predict(ready(data), output="probabilities"), found.logits.softmax(-1))
    assert isinstance(model.predict(ready(data), as_numpy=True)["logits"], type(found.logits.numpy()))
    assert model.report(tmp_path / "run.html", ready(data)).exists()


@pytest.mark.parametrize("name", NETS)
def test_summary_takes_the_keywords_of_a_net(name, capsys):
    make, data = NETS[name]
    net = make()
    KerasModel(net).summary(input_data_kwargs=data)
    assert f"{sum(one.numel() for one in net.parameters()):,}" in capsys.readouterr().out


def test_a_metric_sees_the_logits_with_a_loss_of_the_net_and_one_of_ones_own():
    rows, models = [], []
    for loss_fn in (None, "cross_entropy", nn.CrossEntropyLoss(), lambda preds, labels: F.cross_entropy(preds, labels)):
        net = bert()
        models.append(KerasModel(net, loss_fn, ["accuracy"], torch.optim.SGD(net.parameters(), lr=0.1)))
        models[-1].fit(ready(BATCH), ready(BATCH), epochs=2, ckpt_path=None, quiet=True)
        rows.append(models[-1].evaluate(ready(BATCH)))
    expected = through(models[0].net, BATCH)
    assert rows[0]["val_accuracy"] == pytest.approx((expected.logits.argmax(1) == KINDS).float().mean().item())
    for row, model in zip(rows[1:], models[1:], strict=True):
        assert row == pytest.approx(rows[0], rel=1e-5)
        assert torch.allclose(model.predict(ready(BATCH)).logits, expected.logits, atol=1e-5)
    assert rows[0] != KerasModel(bert(), None, ["accuracy"]).evaluate(ready(BATCH))  # control: it learned
    assert torch.equal(models[1].predict(ready(BATCH), output="classes"), expected.logits.argmax(1))


def test_class_weights_go_with_logits():
    net = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    each = F.cross_entropy(through(net, {"input_ids": IDS, "attention_mask": MASK}).logits, KINDS, reduction="none")
    model = KerasModel(net, "cross_entropy", optimizer=torch.optim.SGD(net.parameters(), lr=0.0))
    history = model.fit(BATCH, epochs=1, ckpt_path=None, quiet=True, class_weight={0: 5.0})
    expected = (each * torch.where(KINDS == 0, 5.0, 1.0)).mean().item()
    assert history["train_loss"].iloc[0] == pytest.approx(expected, rel=1e-5)
    assert expected != pytest.approx(each.mean().item(), rel=1e-2)  # control


@pytest.mark.parametrize("name", ["tagger", "gpt"])
def test_a_loss_of_ones_own_over_tokens_takes_the_logits(name):
    make, data = NETS[name]
    net = make()

    def over_tokens(logits, labels):
        return F.cross_entropy(logits.transpose(1, 2), labels)

    model = KerasModel(net, over_tokens)
    expected = over_tokens(through(net, {"input_ids": IDS, "attention_mask": MASK}).logits, data["labels"]).item()
    assert model.evaluate(ready(data))["val_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_net_without_logits_is_measured_whole_and_predicts_its_states():
    torch.manual_seed(0)
    net = transformers.BertModel(transformers.BertConfig(**TINY))

    def spread(preds, labels):
        return preds["last_hidden_state"].std() + 0 * labels.sum()

    model = KerasModel(net, lambda preds, labels: (preds.pooler_output[:, 0] - labels).square().mean(), {"std": spread})
    history = model.fit(ready(BATCH), ready(BATCH), epochs=1, ckpt_path=None, quiet=True)
    expected = through(net, {"input_ids": IDS, "attention_mask": MASK})
    assert history["val_std"].iloc[0] == pytest.approx(expected.last_hidden_state.std().item(), rel=1e-4)
    found = model.predict(ready(BATCH))
    assert torch.allclose(found.last_hidden_state, expected.last_hidden_state, atol=1e-5)
    assert torch.allclose(found["pooler_output"], expected.pooler_output, atol=1e-5)
    with pytest.raises(ValueError, match="the loss '<lambda>'"):
        model.predict(ready(BATCH), output="classes")
    with pytest.raises(ValueError, match="outputs without logits"):
        KerasModel(net).predict({"input_ids": IDS}, output="classes")


def test_several_labels_a_sample_are_read_by_a_sigmoid_each_and_numbers_are_refused():
    many = KerasModel(bert(problem_type="multi_label_classification"))
    logits = many.predict({"input_ids": IDS}).logits
    assert torch.allclose(many.predict({"input_ids": IDS}, output="probabilities"), logits.sigmoid())
    assert torch.equal(many.predict({"input_ids": IDS}, output="classes"), (logits >= 0).long())
    assert judge(many, ready(BATCH)) is None
    with pytest.raises(ValueError, match="problem_type='regression'"):
        KerasModel(bert(problem_type="regression")).predict({"input_ids": IDS}, output="classes")
    with pytest.raises(ValueError, match=r"logits of shape \(10, 1\)"):
        KerasModel(bert(num_labels=1)).predict({"input_ids": IDS}, output="classes")


def test_states_and_attentions_of_every_layer_are_joined_by_samples():
    net = bert(output_hidden_states=True)
    expected, found = through(net, {"input_ids": IDS}), KerasModel(net).predict({"input_ids": IDS}, batch_size=3)
    assert len(found.hidden_states) == len(expected.hidden_states) == 2
    for one, other in zip(found.hidden_states, expected.hidden_states, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_the_confusion_matrix_of_a_net_with_its_own_loss():
    net = bert()
    judged = judge(KerasModel(net), ready(BATCH))
    guesses = through(net, {"input_ids": IDS, "attention_mask": MASK}).logits.argmax(1)
    pairs = list(zip(KINDS.tolist(), guesses.tolist(), strict=True))
    assert judged.confusion.tolist() == [[pairs.count((row, column)) for column in range(CLASSES)]
                                         for row in range(CLASSES)]
    assert judge(KerasModel(tagger()), ready(NETS["tagger"][1])) is None


def test_text_that_a_net_generates_is_a_prediction_of_ones_own():
    import torchkeras

    class Generating(torchkeras.StepRunner):
        def predict(self, batch):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return list(self.net.generate(batch["input_ids"], max_new_tokens=3, do_sample=False, pad_token_id=0))

    model = KerasModel(gpt())
    model.StepRunner = Generating
    found = model.predict({"input_ids": IDS}, batch_size=4)
    assert len(found) == N
    assert all(torch.equal(one[:LENGTH], row) for one, row in zip(found, IDS, strict=True))


def test_the_example_learns(capsys, monkeypatch):
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    import transformers_tiny

    assert transformers_tiny.main(["--samples", "400", "--epochs", "4"]) > 0.9
    assert "of 80 sentences" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["tagger", "gpt", "t5"])
def test_tokens_that_labels_leave_out_do_not_count_at_any_batch_size_or_accumulation(name):
    make, data = NETS[name]
    kept = torch.arange(LENGTH) < torch.randint(2, LENGTH + 1, (N, 1), generator=torch.Generator().manual_seed(3))
    data = data | {"labels": data["labels"].where(kept, -100)}
    net = make()
    whole = through(net, data).loss.item()
    for size in (1, 4, N):
        assert KerasModel(net).evaluate(ready(data, size))["val_loss"] == pytest.approx(whole, rel=1e-6)
    weights = []
    for size, steps in ((2, 2), (4, 1), (2, 4)):
        net = make().eval()  # no dropout, which would draw other numbers for other batches
        for module in net.modules():
            module.train = lambda mode=True, module=module: module
        model = KerasModel(net, optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
        model.fit(ready(data, size), epochs=1, gradient_accumulation_steps=steps, ckpt_path=None, quiet=True)
        weights.append(nn.utils.parameters_to_vector(net.parameters()).detach())
    assert torch.allclose(weights[0], weights[1], rtol=0, atol=1e-6)
    assert not torch.allclose(weights[2], weights[1], rtol=0, atol=1e-5)  # control
