"""`Learner.export` gives a plain module that answers as the learner does."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from learners import read_answer
from nestling.answer.exported_modules import save_onnx
from nestling.core.errors import NotFitted, SettingError


def draw(num: int, width: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(num, width, generator=torch.Generator().manual_seed(seed))


def make_mlp(num_inputs: int = 4, num_outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(num_inputs, 16), nn.ReLU(), nn.Linear(16, num_outputs))


def make_learner(case: str) -> nl.Learner:
    memory = nl.Memory("memory", on="input", half_lives=(30.0, float("inf")), num_features=20)
    head = nl.Memory("memory", half_lives=(20.0, 50.0), num_features=10, features="fourier")
    bare = nl.Memory("memory", half_lives=(40.0,), num_features=0)
    prior = nl.Memory("memory", on="input", num_features=10, prior_half_life=20.0, block=16)
    hidden = nl.Memory("memory", on="0", half_lives=(9.0,), features="fourier", include_read=False)
    product = nl.Memory("memory", half_lives=(20.0,), num_features=10, features="product")
    places = nl.Memory(
        "memory",
        on=("input", "input of 2", "1"),
        half_lives=(30.0,),
        num_features=(5, 0, 7),
        include_read=(False, True, False),
    )
    live, net = nl.Level("net", match=["*"]), make_mlp()
    plans = {
        "default": lambda: nl.Learner(net),
        "pretrained": lambda: nl.Learner(net, pretrained=True),
        "replay and copies": lambda: nl.Learner(net, replay=20),
        "a copy alone": lambda: nl.Learner(
            net, nl.Plan(live, nl.Copy("slow", of=["net"]), readout="slow")
        ),
        "live alone": lambda: nl.Learner(net, nl.Plan(live)),
        "memory alone": lambda: nl.Learner(net, nl.Plan(memory, readout="memory")),
        "nothing but what is read": lambda: nl.Learner(
            net, nl.Plan(bare, readout="memory")
        ),
        "fourier": lambda: nl.Learner(
            net, nl.Plan(head, live, readout=nl.mix("live", "memory"))
        ),
        "product": lambda: nl.Learner(
            net, nl.Plan(product, live, readout=nl.mix("live", "memory"))
        ),
        "a submodule's output": lambda: nl.Learner(
            net, nl.Plan(hidden, live, readout=nl.mix("live", "memory"))
        ),
        "class prior": lambda: nl.Learner(
            net, nl.Plan(prior, live, readout=nl.mix("memory", "live"))
        ),
        "several places": lambda: nl.Learner(
            net, nl.Plan(places, live, readout=nl.mix("memory", "live"))
        ),
        "outside of two half-lives": lambda: nl.Learner(
            net,
            nl.Plan(
                memory,
                live,
                nl.Copy("given", of=["net"], decay=1.0),
                readout=nl.mix("live", "memory", "given", outside="given"),
            ),
        ),
        "pretrained with copies": lambda: nl.Learner(net, pretrained=True, replay=20),
        "pretrained, other classes": lambda: nl.Learner(
            make_mlp(4, 2), pretrained=True
        ),
        "regression, pretrained": lambda: nl.Learner(make_mlp(4, 2), pretrained=True),
        "fixed mix": lambda: nl.Learner(
            net,
            nl.Plan(memory, live, readout=nl.mix("memory", "live", weights=(1, 3))),
        ),
        "an idle memory knows more classes": lambda: nl.Learner(
            net,
            nl.Plan(
                memory, live, nl.Copy("slow", of=["net"]), readout=nl.mix("slow", "live")
            ),
        ),
        "regression": lambda: nl.Learner(make_mlp(4, 2)),
        "regression, transformed": lambda: nl.Learner(
            make_mlp(4, 2), output_transform=torch.sigmoid
        ),
    }  # fmt: skip
    return plans[case]()


CASES = [
    "default", "pretrained", "replay and copies", "a copy alone", "live alone", "memory alone",
    "nothing but what is read", "fourier", "product", "a submodule's output", "class prior",
    "several places", "outside of two half-lives", "pretrained with copies",
    "pretrained, other classes", "regression, pretrained",
    "fixed mix", "an idle memory knows more classes", "regression", "regression, transformed",
]  # fmt: skip


def teach(learner: nl.Learner, case: str, num_batches: int = 12) -> None:
    for step in range(num_batches):
        x = draw(16, seed=step)
        if "regression" in case:
            learner.learn(x, torch.stack([x[:, 0].sigmoid(), x[:, 1].sigmoid()], 1))
        else:  # class 2 is absent towards the end, so that presence matters
            learner.learn(x, (x[:, 0] > 0).long() + ((x[:, 1] > 0.5) & (step < 4)))


@pytest.mark.parametrize("num_batches", [1, 12])
@pytest.mark.parametrize("case", CASES)
def test_the_export_answers_as_the_learner(case: str, num_batches: int) -> None:
    learner = make_learner(case)
    teach(learner, case, num_batches)
    module, x = learner.export(), draw(9, seed=99)
    # The same functions: all that differs is that a calibration is folded in.
    torch.testing.assert_close(module(x), read_answer(learner, x), atol=1e-7, rtol=1e-6)
    before = module(x)
    teach(learner, case, 2)
    assert torch.equal(module(x), before)


@pytest.mark.parametrize(
    "case", ["fourier", "class prior", "pretrained", "pretrained, other classes"]
)
def test_other_runtimes_agree(case: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    learner = make_learner(case)
    teach(learner, case)
    module, x = learner.export(), draw(9, seed=99)
    expected = read_answer(learner, x)
    program = torch.export.export(module, (x,))
    torch.testing.assert_close(program.module()(x), expected, atol=1e-5, rtol=1e-5)
    save_onnx(module, (x[:3],), tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (answer,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(answer), expected, atol=1e-5, rtol=1e-5)


def test_export_leaves_the_learner_as_it_is() -> None:
    learner = make_learner("replay and copies")
    teach(learner, "")
    before = copy.deepcopy(learner.model.state_dict())
    learner.export()
    assert learner.model.training
    assert all(parameter.requires_grad for parameter in learner.model.parameters())
    assert all(torch.equal(before[name], v) for name, v in learner.model.state_dict().items())


def test_nothing_to_export() -> None:
    with pytest.raises(NotFitted, match="call fit or learn before export"):
        make_learner("default").export()
    learner = nl.Learner(nn.Linear(4, 3), nl.Plan(nl.Level("net", match=["*"])))
    learner.learn(draw(5 * 2).reshape(5, 2, 4), torch.zeros(5, 2, dtype=torch.long))
    with pytest.raises(SettingError, match=r"one target per example; export learner\.model"):
        learner.export()
