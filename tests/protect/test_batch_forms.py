"""Every method learns from every form of batch what it learns from a plain pair, bit for bit."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from learners import differences, draw
from nestling.protect import (
    AGEM,
    CLSER,
    DER,
    ER,
    ERACE,
    EWC,
    GEM,
    L2SP,
    MAS,
    SI,
    DERpp,
    EMAReader,
    GDumb,
    LwF,
    MaskAbsent,
    MeanER,
    OnlineEWC,
    Retention,
    take_step,
)

METHODS: dict[str, Callable[[], Retention]] = {
    "ewc": lambda: EWC(20.0),
    "ewc, true": lambda: EWC(20.0, labels="true"),
    "ewc, exact": lambda: EWC(20.0, labels="exact"),
    "online ewc": lambda: OnlineEWC(20.0, 0.9),
    "si": lambda: SI(1.0),
    "mas": lambda: MAS(0.3),
    "l2sp": lambda: L2SP(0.1, 0.0, head=""),
    "lwf": lambda: LwF(1.0),
    "mask": lambda: MaskAbsent(),
    "mask, experience": lambda: MaskAbsent("experience"),
    "er": lambda: ER(8, 4),
    "er, joint": lambda: ER(8, 4, joint=True),
    "er, balanced": lambda: ER(8, 4, balanced=True),
    "er-ace": lambda: ERACE(8, 4),
    "der": lambda: DER(8, 0.3, 4),
    "der++": lambda: DERpp(8, 0.3, 0.5, 4),
    "der++, one draw": lambda: DERpp(8, 0.3, 0.5, 4, one_draw=True),
    "a-gem": lambda: AGEM(8, 4),
    "gem": lambda: GEM(4),
    "gdumb": lambda: GDumb(8, num_epochs=2),
    "ema": lambda: EMAReader(0.9),
    "mean-er": lambda: MeanER(8, 4, decay=0.9),
    "cls-er": lambda: CLSER(8, 4),
}


class Body(nn.Module):
    """What all forms share: (N, 4) and (N, 3) inputs -> (N, 3) logits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(7, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def compute(self, left: Tensor, right: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.first(torch.cat([left, right], 1))))
        return self.last(hidden)  # type: ignore[no-any-return]


class OneInput(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.compute(x[:, :4], x[:, 4:])


class TwoInputs(Body):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.compute(left, right)


class Keywords(Body):
    def forward(self, *, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return {"hidden": left, "logits": self.compute(left, right)}


@dataclass
class Output:
    """As Hugging Face's models return one."""

    logits: Tensor
    loss: Tensor | None = None


class Outputs(Body):
    def forward(self, left: Tensor, right: Tensor) -> Output:
        return Output(self.compute(left, right))


FORMS: dict[str, tuple[type[Body], Callable[[Tensor, Tensor], Any]]] = {
    "pair": (OneInput, lambda x, y: (x, y)),
    "two inputs": (TwoInputs, lambda x, y: ((x[:, :4], x[:, 4:]), y)),
    "dict": (Keywords, lambda x, y: {"left": x[:, :4], "right": x[:, 4:], "labels": y}),
    "object": (Outputs, lambda x, y: (x[:, :4], x[:, 4:], y)),
}


def make_pairs(experience: int) -> list[tuple[Tensor, Tensor]]:
    labels = torch.tensor([0, 1, 0, 1, 1]) if experience == 0 else torch.tensor([2, 1, 2, 0, 1])
    return [(draw(5, 7, seed=10 * experience + step), labels) for step in range(3)]


def learn(make: Callable[[], Retention], form: str) -> dict[str, dict[str, Tensor]]:
    """The weights and the reader's after two experiences of three steps."""
    kind, shape = FORMS[form]
    model, method = kind(), make()
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.5)
    for experience in range(2):
        batches = [shape(x, y) for x, y in make_pairs(experience)]
        for batch in batches:
            assert not take_step(model, optimizer, batch, [method]).refused
        method.end_experience(model, batches)
    take_step(model, optimizer, shape(*make_pairs(2)[0]), [method])
    reader = method.find_reader()
    return {
        "model": dict(model.state_dict()),
        "reader": {} if reader is None else dict(reader.state_dict()),
    }


@pytest.mark.parametrize("form", [form for form in FORMS if form != "pair"])
@pytest.mark.parametrize("name", METHODS)
def test_a_form_of_batch_gives_the_weights_of_the_plain_pair(name: str, form: str) -> None:
    assert differences(learn(METHODS[name], form), learn(METHODS[name], "pair")) == []


@pytest.mark.parametrize("name", METHODS)
def test_a_method_does_something(name: str) -> None:
    """So that the comparison above is not one of plain steps."""
    found, plain = learn(METHODS[name], "pair"), learn(Retention, "pair")
    assert differences(found, plain) != []


@pytest.mark.filterwarnings("ignore:level 'all' got no gradient")
@pytest.mark.parametrize("form", [form for form in FORMS if form != "pair"])
@pytest.mark.parametrize("name", METHODS)
def test_a_learner_takes_every_form(name: str, form: str) -> None:
    plan = nl.Plan(nl.Level("all", match=("*",), optimizer=nl.sgd(lr=0.1)))
    found = {}
    for one in (form, "pair"):
        kind, shape = FORMS[one]
        learner = nl.Learner(kind(), plan, retain=[METHODS[name]()], replay=6)
        for experience in range(2):
            learner.fit([shape(x, y) for x, y in make_pairs(experience)])
        found[one] = dict(learner.model.state_dict())
    assert differences(found[form], found["pair"]) == []


class Tagger(nn.Module):
    """An answer per position, its classes last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(x)))  # type: ignore[no-any-return]


class Painter(Tagger):
    """The same answers, their classes first."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).movedim(-1, 1)


PER_EXAMPLE = {"er, balanced", "gdumb"}  # they sort examples by their class


@pytest.mark.parametrize("kind", [Tagger, Painter])
@pytest.mark.parametrize("name", sorted(METHODS.keys() - PER_EXAMPLE))
def test_an_answer_per_position_is_protected_too(name: str, kind: type[Tagger]) -> None:
    model, method = kind(), METHODS[name]()
    twin, plain = kind(), Retention()
    for net, one in ((model, method), (twin, plain)):
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        for experience in range(2):
            y = torch.tensor([[0, 1, 1, -100, 0]] * 6) + experience
            y[:, 3] = -100
            batches = [(draw(6, 5, 4, seed=step), y) for step in range(3)]
            for batch in batches:
                step = take_step(net, optimizer, batch, [one])
                assert not step.refused
            one.end_experience(net, batches)
    reader = method.find_reader() or model
    assert differences(dict(reader.state_dict()), dict(twin.state_dict())) != []


VALUES = ("ewc", "ewc, true", "ewc, exact", "online ewc", "si", "mas", "l2sp", "er", "der", "der++")


@pytest.mark.parametrize("name", VALUES)
def test_values_in_a_row_or_a_column_are_the_same_ones(name: str) -> None:
    """(N,) and (N, 1) are never broadcast to (N, N), be it in what is replayed or measured."""
    found = []
    for shape in ((5,), (5, 1)):
        torch.manual_seed(0)
        model, method = nn.Linear(4, 1), METHODS[name]()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for experience in range(2):
            batches = [
                (draw(5, 4, seed=step), draw(*shape, seed=experience + 9)) for step in range(3)
            ]
            for batch in batches:
                take_step(model, optimizer, batch, [method])
            method.end_experience(model, batches)
        found.append(dict(model.state_dict()))
    assert differences(found[0], found[1]) == []


REPLAYING = ("er", "er, joint", "der++", "der++, one draw", "a-gem", "gem", "gdumb", "cls-er")


@pytest.mark.parametrize("name", REPLAYING)
def test_the_loss_of_the_step_prices_what_is_replayed(name: str) -> None:
    seen: list[int] = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        seen.append(len(target))
        return nn.functional.cross_entropy(output, target, label_smoothing=0.1)

    model, method = OneInput(), METHODS[name]()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for experience in range(2):
        for pair in make_pairs(experience):
            take_step(model, optimizer, pair, [method], loss=loss)
        method.end_experience(model)
    assert len(seen) > 6  # more often than for the new batches
