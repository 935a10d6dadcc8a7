"""`Learner.export` gives a plain module that answers as the learner does."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from learners import read_answer
from nestling.answer.exported_modules import CodedMap, save_onnx
from nestling.core.errors import NotFitted, SettingError
from nestling.data import load_digits


def draw(num: int, width: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(num, width, generator=torch.Generator().manual_seed(seed))


def make_mlp(num_inputs: int = 4, num_outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(num_inputs, 16), nn.ReLU(), nn.Linear(16, num_outputs))


def make_conv(channels: int, side: int, num_outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    flat = 4 * (side // 2 - 1) ** 2
    return nn.Sequential(
        nn.Conv2d(channels, 4, 4, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(flat, num_outputs)
    )


def draw_inputs(case: str, num: int, seed: int) -> Tensor:
    """Images in [0, 1] where the case is of images."""
    sides = {"flat images": (1, 8), "colour images": (3, 32)}
    if "images" in case:
        channels, side = sides.get(case, (1, 14))
        noise = draw(num, channels * side * side, seed).view(num, channels, side, side)
        # The largest is 1 and the least 0, so that any first batch takes them for [0, 1].
        x = (1 + 2 * nn.functional.avg_pool2d(noise, 5, 1, 2)).clamp(0, 1)
        x = x.flatten(1) if "flat" in case else x
        return x.double() if "float64" in case else x
    return draw(num, 1100 if case == "many numbers" else 4, seed)


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
        "flat images": lambda: nl.Learner(make_mlp(64, 10)),
        "images": lambda: nl.Learner(make_conv(1, 14)),
        "images in float64": lambda: nl.Learner(make_conv(1, 14).double()),
        "colour images": lambda: nl.Learner(make_conv(3, 32)),
        "regression of images": lambda: nl.Learner(make_conv(1, 14, 2)),
        "many numbers": lambda: nl.Learner(make_mlp(1100, 3)),
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
    "flat images", "images", "images in float64", "colour images", "regression of images",
    "many numbers", "fixed mix", "an idle memory knows more classes", "regression",
    "regression, transformed",
]  # fmt: skip


def teach(learner: nl.Learner, case: str, num_batches: int = 12) -> None:
    for step in range(num_batches):
        x = draw_inputs(case, 16, step)
        flat = x.flatten(1)
        middle, high = (0.5, 0.75) if "images" in case else (0.0, 0.5)
        if "regression" in case:
            learner.learn(x, torch.stack([flat[:, 0].sigmoid(), flat[:, 1].sigmoid()], 1))
        else:  # class 2 is absent towards the end, so that presence matters
            rare = (flat[:, 1] > high) & (step < 4)
            learner.learn(x, (flat[:, 0] > middle).long() + rare)


@pytest.mark.parametrize("num_batches", [1, 12])
@pytest.mark.parametrize("case", CASES)
def test_the_export_answers_as_the_learner(case: str, num_batches: int) -> None:
    learner = make_learner(case)
    teach(learner, case, num_batches)
    module, x = learner.export(), draw_inputs(case, 9, 99)
    # The same functions: all that differs is that a calibration is folded in.
    torch.testing.assert_close(module(x), read_answer(learner, x), atol=1e-7, rtol=1e-6)
    before = module(x)
    teach(learner, case, 2)
    assert torch.equal(module(x), before)


@pytest.mark.parametrize(
    "case",
    [
        "default",
        "flat images",
        "images",
        "fourier",
        "class prior",
        "pretrained",
        "pretrained, other classes",
    ],
)
def test_other_runtimes_agree(case: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    learner = make_learner(case)
    teach(learner, case)
    module, x = learner.export(), draw_inputs(case, 9, 99)
    expected = read_answer(learner, x)
    program = torch.export.export(module, (x,))
    torch.testing.assert_close(program.module()(x), expected, atol=1e-5, rtol=1e-5)
    save_onnx(module, (x[:3],), tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (answer,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(answer), expected, atol=1e-5, rtol=1e-5)


def test_images_are_found_and_exported_as_such() -> None:
    for case, shape in (("flat images", (1, 8, 8)), ("colour images", (3, 32, 32))):
        learner = make_learner(case)
        teach(learner, case, 2)
        (found,) = [one for one in learner.export().modules() if isinstance(one, CodedMap)]
        image = found.draws.image
        assert image is not None
        assert (image.channels, image.height, image.width) == shape


def test_real_digits_are_answered_alike() -> None:
    x, y = load_digits()
    learner = nl.Learner(make_mlp(64, 10))
    for rows, labels in zip(x[:640].split(64), y[:640].split(64), strict=True):
        learner.learn(rows, labels)
    answer, expected = learner.export()(x[640:]), read_answer(learner, x[640:])
    torch.testing.assert_close(answer, expected, atol=1e-6, rtol=1e-5)
    assert float((answer.argmax(1) == y[640:]).double().mean()) > 0.85


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
