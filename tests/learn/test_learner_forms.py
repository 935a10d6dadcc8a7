"""The learner takes many forms of batch, target, model and loss."""

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from learners import draw, make_batch, make_mlp


class Two(nn.Module):
    """Takes two inputs, by position or by name."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(torch.relu(self.left(a) + b))}


@pytest.mark.parametrize("form", ["tuple", "nested", "dict", "nested dict", "arguments"])
def test_forms_of_a_batch_give_the_same(form: str) -> None:
    torch.manual_seed(0)
    learner = nl.Learner(Two())
    reference = nl.Learner(Two())
    reference.model.load_state_dict(learner.model.state_dict())
    a, y = make_batch(num=16)
    b = draw(16, 8, seed=5)
    for _ in range(6):
        reference.learn((a, b), y)
        if form == "arguments":
            learner.learn({"a": a, "b": b}, y)
        else:
            named = {"a": a, "b": b}
            raw = {
                "tuple": (a, b, y),
                "nested": ((a, b), y),
                "dict": {**named, "labels": y},
                "nested dict": (named, y),
            }[form]
            learner.learn(raw)
    inputs = (a, b) if form in ("tuple", "nested") else {"a": a, "b": b}
    assert torch.equal(learner.predict_proba(inputs), reference.predict_proba((a, b)))
    assert learner.predict_proba(inputs).shape == (16, 2)


def test_a_hugging_face_model() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=8, num_labels=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config)
    learner = nl.Learner(model)
    ids = torch.randint(0, 20, (64, 6), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    y = (ids[:, 0] > 9).long()
    for _ in range(4):
        learner.learn({**batch, "labels": y})
    learner.learn({**batch, "labels": y + 1})  # a third class
    assert learner.predict_proba(batch).shape == (64, 3)
    assert learner.evaluate({**batch, "labels": y}) > 0.6


class Tagger(nn.Module):
    """A class per position."""

    def __init__(self) -> None:
        super().__init__()
        self.spine, self.head = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.spine(x)))


def test_sequence_targets() -> None:
    plan = nl.Plan(nl.Memory("m"), nl.Level("all", match=["*"]), readout=nl.mix("m", "live"))
    learner = nl.Learner(Tagger(), plan, replay=10)
    x = draw(16, 5, 3)
    y = (x[..., 0] > 0).long()
    y[:, 4] = -100
    weight = torch.ones(16)
    for _ in range(12):
        learner.learn(x, y, weight=weight)
    assert learner.predict_proba(x).shape == (16, 5, 2)
    assert learner.levels["m"].bank.clock == 12 * 16 * 4
    assert learner.evaluate(x, y) > 0.9
    y[:, 3] = 2  # a head that grows, and replay across it
    learner.learn(x, y)
    learner.learn(x, y)
    assert learner.predict_proba(x).shape == (16, 5, 3)


def test_dense_targets() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    plan = nl.Plan(
        nl.Memory("m", on="1"), nl.Level("all", match=["*"]), readout=nl.mix("m", "live")
    )
    learner = nl.Learner(model, plan, replay=10)
    x = draw(8, 1, 5, 4)
    y = (x[:, 0] > 0).long()
    for _ in range(8):
        learner.learn(x, y)
    assert learner.predict_proba(x).shape == (8, 5, 4, 2)
    assert learner.evaluate(x, y) > 0.9


def test_any_loss_and_a_link() -> None:
    model = make_mlp(4, 1)
    learner = nl.Learner(
        model, loss=nn.functional.binary_cross_entropy_with_logits, output_transform=torch.sigmoid
    )
    x, y = make_batch(num=64)
    for _ in range(30):
        learner.learn(x, y[:, None].float())
    answer = learner.predict(x)
    assert answer.shape == (64, 1)
    assert float(((answer[:, 0] > 0.5).long() == y).float().mean()) > 0.9
    live = nl.Learner(
        make_mlp(4, 1), nl.Plan(nl.Level("all", match=["*"])), output_transform=torch.sigmoid
    )
    live.learn(x, y[:, None].float())
    torch.testing.assert_close(live.predict(x), live.model.eval()(x).sigmoid().detach())


@pytest.mark.parametrize("shape", [(64,), (64, 1), (64, 2)])
def test_regression(shape: tuple[int, ...]) -> None:
    learner = nl.Learner(make_mlp(4, shape[1] if len(shape) > 1 else 1), replay=8)
    x = draw(64, 4)
    y = (x[:, :1] + 2 * x[:, 1:2]).repeat(1, 2)[:, : shape[-1] if len(shape) > 1 else 1]
    y = y.reshape(shape)
    for _ in range(5):
        learner.learn(x, y)
    assert learner.task == "regression"
    assert learner.predict(x).shape == (64, shape[1] if len(shape) > 1 else 1)
    assert learner.evaluate(x, y) > 0.99
