"""The papers' methods with the papers' settings; nothing here is tuned.

S-MNIST: MLP 784-100-100-10, SGD [settings of the code of DER and of CLS-ER]. Split MNIST of Hsu:
MLP 1024-400-400, Adam 1e-3, which goes on over all experiences [code of Hsu 2018].
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from nestling.bench.reproduction.hsu_protocol import HsuRehearsal, MaskUnseen
from nestling.bench.rivals.competitors import Competitor, PlainLoop
from nestling.bench.rivals.tunable import Method, Settings, Setup
from nestling.core.modes import eval_mode
from nestling.core.seeds import make_generator
from nestling.levels import Copy, Level, NestedOptimizer, Plan
from nestling.memory import ReservoirReplay
from nestling.models import build_model
from nestling.optim import sgd
from nestling.protect import (
    CLSER,
    ER,
    EWC,
    MAS,
    SI,
    DERpp,
    LwF,
    MaskAbsent,
    OnlineEWC,
    Retention,
    choose_answers,
)


class ClserPlan:
    """CLS-ER as a plan of three levels: a working one and two copies on clocks of their own.

    Args:
        model: learns in place.
        lr: of SGD.
        capacity: examples in the reservoir.
        num_drawn: examples replayed per step.
        weight: of the distance to the copies.
        stable_probability: with which the stable copy moves at a step.
        seed: of what is kept, drawn and moved.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        *,
        capacity: int,
        num_drawn: int,
        weight: float,
        stable_probability: float,
        seed: int,
    ) -> None:
        plan = Plan(
            Level("working", match=("*",), optimizer=sgd(lr=lr)),
            Copy("plastic", of=("working",), decay=0.99),
            Copy("stable", of=("working",), decay=0.99, probability=stable_probability),
            readout="stable",
        )
        self.model = model.train()
        self.optimizer = NestedOptimizer(model, plan, seed=seed)
        self.store = ReservoirReplay(capacity, seed=seed)
        self.num_drawn = num_drawn
        self.weight = weight

    def learn(self, x: Tensor, y: Tensor, *, is_new: bool) -> None:  # noqa: ARG002
        """One step on the batch and what is replayed."""
        self.optimizer.zero_grad()
        everything, labels, held = x, y, None
        if len(self.store):
            kept = self.store.sample(self.num_drawn)
            everything, labels = torch.cat([x, kept["x"]]), torch.cat([y, kept["y"]])
            with torch.no_grad():
                stable, plastic = (self._ask(name, kept["x"]) for name in ("stable", "plastic"))
                held = choose_answers(stable, plastic, kept["y"])
        output = self.model(everything)
        loss = functional.cross_entropy(output, labels)
        if held is not None:
            loss = loss + self.weight * functional.mse_loss(output[len(x) :], held)
        loss.backward()
        self.optimizer.step()
        self.store.add({"x": x, "y": y})

    def _ask(self, name: str, x: Tensor) -> Tensor:
        with eval_mode(self.model):
            values = self.optimizer.levels.copies[name].read_values()
            found: Tensor = functional_call(self.model, values, x)
            return found

    def end_experience(self, loader: object) -> None:
        """Nothing: it needs no boundary."""

    def compute_scores(self, x: Tensor) -> Tensor:
        """What the stable copy answers."""
        with torch.no_grad():
            return self._ask("stable", x)

    def count_bytes(self) -> int:
        """Of the store and of both copies."""
        copies = self.optimizer.levels.copies.values()
        return self.store.num_bytes + sum(v.nbytes for c in copies for v in c.values.values())


def make_er200() -> Method:
    """ER, 200 examples."""
    return _make_smnist("er200", 0.01, lambda seed: ER(200, 10, joint=True, seed=seed))


def make_er500() -> Method:
    """ER, 500 examples."""
    return _make_smnist("er500", 0.1, lambda seed: ER(500, 10, joint=True, seed=seed))


def make_derpp200() -> Method:
    """DER++, 200 examples."""
    return _make_smnist("derpp200", 0.03, lambda seed: DERpp(200, 0.2, 1.0, 128, seed=seed))


def make_derpp500() -> Method:
    """DER++, 500 examples."""
    return _make_smnist("derpp500", 0.03, lambda seed: DERpp(500, 1.0, 0.5, 10, seed=seed))


def make_clser200() -> Method:
    """CLS-ER, 200 examples."""
    return _make_smnist(
        "clser200", 0.03, lambda seed: CLSER(200, 128, 0.99, 1.0, 0.99, 0.9, 2.0, seed=seed)
    )


def make_clser500() -> Method:
    """CLS-ER, 500 examples."""
    return _make_smnist(
        "clser500", 0.1, lambda seed: CLSER(500, 32, 0.99, 1.0, 0.99, 0.9, 2.0, seed=seed)
    )


def make_clser200_plan() -> Method:
    """CLS-ER as a plan, 200 examples."""
    return _make_plan("clser200_plan", 0.03, capacity=200, num_drawn=128)


def make_clser500_plan() -> Method:
    """CLS-ER as a plan, 500 examples."""
    return _make_plan("clser500_plan", 0.1, capacity=500, num_drawn=32)


def make_adam() -> Method:
    """Fine-tuning."""
    return _make_hsu("adam", lambda *_: [])


def make_ewc() -> Method:
    """EWC; the paper's strength has no half in front, ours has."""
    strengths = {"class": 600.0, "domain": 100.0, "task": 100.0}
    return _make_hsu("ewc", lambda kind, seed: [EWC(2 * strengths[kind], seed=seed)])


def make_online_ewc() -> Method:
    """Online EWC whose importance is never decayed."""
    strengths = {"class": 100.0, "domain": 700.0, "task": 400.0}
    return _make_hsu(
        "online_ewc", lambda kind, seed: [OnlineEWC(2 * strengths[kind], 1.0, seed=seed)]
    )


def make_si() -> Method:
    """SI."""
    strengths = {"class": 600.0, "domain": 3000.0, "task": 300.0}
    return _make_hsu("si", lambda kind, _: [SI(strengths[kind])])


def make_mas() -> Method:
    """MAS."""
    strengths = {"class": 1.0, "domain": 10_000.0, "task": 1.0}
    return _make_hsu("mas", lambda kind, _: [MAS(strengths[kind])])


def make_lwf() -> Method:
    """LwF; the paper does not say its strength, 1 and temperature 2 are Li & Hoiem's."""
    return _make_hsu("lwf", lambda *_: [LwF(1.0, 2.0)])


def make_rehearsal1100() -> Method:
    """Naive rehearsal, 1,100 examples."""
    return _make_rehearsal("rehearsal1100", 1100)


def make_rehearsal4400() -> Method:
    """Naive rehearsal, 4,400 examples."""
    return _make_rehearsal("rehearsal4400", 4400)


def _make_smnist(name: str, lr: float, make: Callable[[int], Retention]) -> Method:
    def build(setup: Setup, _: Settings) -> Competitor:
        return PlainLoop(_build_smnist(setup), lr, [make(setup.seed)])

    return Method(name, "reference", build)


def _make_plan(name: str, lr: float, *, capacity: int, num_drawn: int) -> Method:
    def build(setup: Setup, _: Settings) -> Competitor:
        return ClserPlan(
            _build_smnist(setup),
            lr,
            capacity=capacity,
            num_drawn=num_drawn,
            weight=2.0,
            stable_probability=0.9,
            seed=setup.seed,
        )

    return Method(name, "reference", build)


def _make_hsu(name: str, make: Callable[[str, int], Sequence[Retention]]) -> Method:
    def build(setup: Setup, _: Settings) -> Competitor:
        kind, model = _find_scenario(setup), _build_hsu(setup)
        masks: dict[str, list[Retention]] = {
            "class": [MaskUnseen()],
            "domain": [],
            "task": [MaskAbsent("experience")],  # the head of the task
        }
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        return PlainLoop(model, 1e-3, [*masks[kind], *make(kind, setup.seed)], optimizer)

    return Method(name, "reference", build)


def _make_rehearsal(name: str, capacity: int) -> Method:
    def build(setup: Setup, _: Settings) -> Competitor:
        kind, model = _find_scenario(setup), _build_hsu(setup)
        return HsuRehearsal(
            model,
            torch.optim.Adam(model.parameters(), 1e-3),
            capacity=capacity,
            epochs=setup.epochs,
            batch_size=setup.batch_size,
            masks=kind == "class",
            heads=kind == "task",
            generator=make_generator(setup.seed, "hsu rehearsal"),
        )

    return Method(name, "reference", build)


def _find_scenario(setup: Setup) -> str:
    if setup.num_classes == 2:
        return "domain"
    return "task" if setup.knows_task else "class"


def _build_smnist(setup: Setup) -> nn.Module:
    """With the first weights of the papers' code: Xavier's uniform ones, biases 0."""
    sizes = (setup.num_inputs, 100, 100, setup.num_classes)
    model = build_model("mlp", {"sizes": sizes}, seed=setup.seed)
    generator = make_generator(setup.seed, "xavier")
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            nn.init.zeros_(module.bias)
    return model


def _build_hsu(setup: Setup) -> nn.Module:
    sizes = (setup.num_inputs, 400, 400, setup.num_classes)
    return build_model("mlp", {"sizes": sizes}, seed=setup.seed)
