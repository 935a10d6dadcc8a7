"""An exported read-out answers like the parts it was made of, in every runtime."""

import copy
import math
import sys
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nestling.answer.exported_mixture import (
    BankExpert,
    ExportedReadout,
    FixedMixture,
    FrozenMixture,
    LiveExpert,
)
from nestling.answer.exported_modules import (
    CodedMap,
    FeatureTap,
    JoinedMap,
    RandomMap,
    RidgeHead,
    bake_model,
    save_onnx,
)
from nestling.core.errors import DataError, MissingExtra, SettingError, ShapeMismatch
from nestling.data import load_digits
from nestling.levels.low_rank import attach_low_rank
from nestling.levels.taps import Tap
from nestling.memory import JoinedFeatures, Mixture, RandomFeatures
from nestling.memory.coded import CodedFeatures, choose_coded_features
from nestling.memory.features import KINDS, FeatureKind
from nestling.memory.ridge import Task


def seeded(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


X = seeded(7, 5)


def make_spine() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(seeded(*parameter.shape))
    return model


def make_live(model: nn.Module | None = None, task: Task = "classification") -> LiveExpert:
    return LiveExpert(bake_model(make_spine() if model is None else model), task)


def make_gate() -> Mixture:
    """Of three experts that answered unlike, so that all of its weights have moved."""
    starts = torch.tensor([[0.2, 0.3, 0.5], [0.0, 1.0, 0.5], [0.0, 1.0, 0.0]])
    gate = Mixture(starts, tempers=(1.0, 1.0, 0.0), slow=1)
    answers = seeded(3, 90, 4, dtype=torch.float64).mul(3.0).softmax(dim=-1)
    zones = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64).repeat(90, 1)
    gate.observe(answers, torch.arange(90) % 4, zones)
    return gate


FIXED = FixedMixture(torch.tensor([0.2, 0.3, 0.5]), 1)


def make_readout(
    kind: FeatureKind = "fourier", mixture: FixedMixture | FrozenMixture = FIXED
) -> ExportedReadout:
    """A live spine of 3 classes and two memories of 4 classes that share random features."""
    features = RandomMap(RandomFeatures(8, 50, kind))
    wide = torch.float64
    heads = [RidgeHead(seeded(50, 4, dtype=wide) * s, seeded(4, dtype=wide)) for s in (1, -1)]
    memories = [
        BankExpert(FeatureTap(bake_model(make_spine()), [Tap("3", "input")]), features, head)
        for head in heads
    ]
    return ExportedReadout([make_live(), *memories], mixture, slow=1).eval()


def test_the_mixture_is_the_equation() -> None:
    readout = make_readout()
    spine = make_spine().eval()
    h = spine[:3](X).double()
    wide = torch.float64
    phi = RandomFeatures(8, 50, "fourier")(h)
    expected = 0.2 * nn.functional.pad(spine(X).softmax(1), (0, 1))
    for weight, sign in ((0.3, 1), (0.5, -1)):
        scores = phi @ seeded(50, 4, dtype=wide) * sign + seeded(4, dtype=wide)
        expected = expected + weight * scores.softmax(1)
    torch.testing.assert_close(readout(X), expected.float(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("is_some", [True, False])
def test_the_gate_answers_as_it_stood(is_some: bool) -> None:
    gate, present = make_gate(), torch.tensor([True, False, True, False]) if is_some else None
    readout = make_readout(mixture=FrozenMixture(gate, present))
    answers = torch.stack(
        [nn.functional.pad(e(X), (0, 4 - e(X).shape[1])) for e in readout.experts]
    )
    wholly = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64).repeat(len(X), 1)
    expected = gate.mix(answers, wholly, present)
    torch.testing.assert_close(readout(X), expected.float(), atol=1e-6, rtol=1e-5)
    if present is not None:
        torch.testing.assert_close(readout(X)[:, ~present], answers[1][:, ~present].float())
    before = readout(X)
    gate.observe(answers, torch.zeros(len(X), dtype=torch.long), wholly)
    assert torch.equal(readout(X), before)


def test_a_gate_that_mixes_plainly_does_so_exported() -> None:
    gate, present = make_gate(), torch.tensor([True, False, True, False])
    state = gate.state_dict()
    gate.load_state_dict(state | {"gain": 100.0, "spread": 100.0})
    assert gate.is_plain
    plain = make_readout(mixture=FrozenMixture(gate, present))
    assert torch.equal(plain(X), make_readout(mixture=FrozenMixture(gate))(X))
    gate.load_state_dict(state)
    assert not torch.equal(plain(X), make_readout(mixture=FrozenMixture(gate, present))(X))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 5), st.booleans(), st.lists(st.booleans(), min_size=4, max_size=4))
def test_answers_are_probabilities(num_examples: int, has_gate: bool, some: list[bool]) -> None:
    frozen = FrozenMixture(make_gate(), torch.tensor(some))
    p = make_readout(mixture=frozen if has_gate else FIXED)(X[:num_examples])
    assert p.shape == (num_examples, 4)
    assert p.dtype == torch.float32
    assert bool((p >= 0).all())
    torch.testing.assert_close(p.sum(1), torch.ones(num_examples))


def make_cases() -> dict[str, tuple[ExportedReadout, Tensor]]:
    image = seeded(3, 1, 6, 6)
    conv = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3))
    raw_map = RandomMap(RandomFeatures(36, 30, "product", passthrough=True))
    raw = BankExpert(FeatureTap(None, [None]), raw_map, RidgeHead(seeded(66, 4), seeded(4)))
    parts = JoinedMap(JoinedFeatures([RandomFeatures(5, 7), RandomFeatures(8, 9, "fourier")]))
    places = FeatureTap(bake_model(make_spine()), [None, Tap("1", "output")])
    frozen = FeatureTap(bake_model(make_spine()), [Tap("1", "output")])
    rows = BankExpert(frozen, nn.Identity(), RidgeHead(seeded(8, 4), seeded(4)))
    values = RidgeHead(seeded(8, 3), seeded(3), classifies=False)
    half = FixedMixture(torch.tensor([0.5, 0.5]), 0)
    gated = FrozenMixture(make_gate(), torch.tensor([True, False, True, False]))
    nothing = FrozenMixture(make_gate(), torch.zeros(4, dtype=torch.bool))
    return {
        "fourier": (make_readout(), X),
        "relu": (make_readout("relu"), X),
        "nothing present": (make_readout(mixture=nothing), X),
        "several places": (
            ExportedReadout([BankExpert(places, parts, RidgeHead(seeded(16, 4), seeded(4)))]),
            X,
        ),
        "only some present": (make_readout(mixture=gated), X),
        "live only": (ExportedReadout([make_live(conv)]), image),
        "raw images": (ExportedReadout([make_live(conv), raw], half), image),
        "memory only": (ExportedReadout([raw]), image),
        "frozen spine": (ExportedReadout([rows]), X),
        "regression": (
            ExportedReadout(
                [make_live(task="regression"), BankExpert(frozen, nn.Identity(), values)], half
            ),
            X,
        ),
    }


# Every kind of part goes through ONNX once: features, places, presence, convolutions, values.
ONNX = ("several places", "only some present", "raw images", "regression")


@pytest.mark.parametrize("case", make_cases())
def test_torch_export_and_onnx_agree(case: str, tmp_path: Path) -> None:
    readout, x = make_cases()[case]
    readout.eval()
    program = torch.export.export(readout, (x,))
    torch.testing.assert_close(program.module()(x), readout(x), atol=1e-5, rtol=1e-5)
    if case not in ONNX:
        return
    onnxruntime = pytest.importorskip("onnxruntime")
    save_onnx(readout, (x,), tmp_path / "m.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    other = torch.cat([x, 2 * x])  # another batch size than the example's
    (answer,) = session.run(None, {session.get_inputs()[0].name: other.numpy()})
    torch.testing.assert_close(torch.from_numpy(answer), readout(other), atol=1e-5, rtol=1e-5)


def test_weights_travel_as_safetensors(tmp_path: Path) -> None:
    readout, other = make_readout(), make_readout()
    for tensor in other.state_dict().values():
        tensor.zero_()
    safetensors.torch.save_model(readout, str(tmp_path / "w.safetensors"))
    safetensors.torch.load_model(other, str(tmp_path / "w.safetensors"))
    assert torch.equal(other(X), readout(X))
    assert not any(parameter.requires_grad for parameter in readout.parameters())


def test_an_unseen_class_has_probability_zero() -> None:
    head = RidgeHead(seeded(5, 3), torch.tensor([0.0, -math.inf, 0.0]))
    assert not head(X)[:, 1].any()
    prior = RidgeHead(torch.zeros(5, 2), torch.tensor([0.25, 0.75]).log())
    torch.testing.assert_close(prior(X), torch.tensor([[0.25, 0.75]]).expand(7, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_maps_are_the_features_bit_for_bit(kind: FeatureKind) -> None:
    features = RandomFeatures(5, 40, kind, seed=3, scale=0.7, passthrough=True)
    assert torch.equal(RandomMap(features)(X), features(X))
    joined = JoinedFeatures([features, RandomFeatures(2, 9, kind)])
    wide = torch.cat([X, X[:, :2]], dim=1)
    assert torch.equal(JoinedMap(joined)(wide), joined(wide))


def smooth(*shape: int) -> Tensor:
    """Noise whose neighbours are alike, as in images, within [0, 1]."""
    return nn.functional.avg_pool2d(seeded(*shape), 5, 1, 2).sigmoid()


def make_coded_cases() -> dict[str, tuple[CodedFeatures, Tensor]]:
    digits = load_digits()[0]
    wide = digits.double() / 3.0 - 0.1
    last = smooth(60, 3, 16, 16).permute(0, 2, 3, 1).flatten(1)
    images = {
        "digits": digits,
        "pixels of another range, float64": wide,
        "bytes": (digits * 255).round(),
        "colours": smooth(60, 3, 32, 32),
        "channels last": last,
        "large images, two channels": smooth(20, 2, 70, 50),
        "more channels than colours": smooth(20, 6, 9, 7),
        "a few numbers": seeded(300, 4),
        "many numbers": seeded(40, 2500),  # three blocks of exact sums
    }
    return {name: (choose_coded_features(x), x.flatten(1)) for name, x in images.items()}


CODED_CASES = make_coded_cases()


@pytest.mark.parametrize("case", CODED_CASES)
def test_coded_maps_give_the_same_codes(case: str) -> None:
    features, x = CODED_CASES[case]
    assert (features.image is None) == ("numbers" in case)
    module = CodedMap(features).eval()
    expected = features(x)
    assert int((expected > 0).sum()) > 0
    # Equal but where a runtime's root of float64 is off: here NumPy's and torch's.
    for rows in (x, 3 * x - 1.0):  # beyond the scale, too
        if features.scale.kind == "bytes":
            rows = rows.round()
        phi = module(rows)
        assert phi.dtype == torch.float32
        difference = (phi - features(rows).float()).abs()
        assert int(difference.max()) <= 1
        assert int((difference > 0).sum()) <= 2
    assert torch.equal(torch.cat([module(x[:1]), module(x[1:9])]), module(x[:9]))
    assert module(x[:0]).shape == (0, features.num_outputs)


class Rows(nn.Module):
    """A feature map with the inputs of a read-out."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.features(*inputs)


@pytest.mark.parametrize(
    "case",
    ["pixels of another range, float64", "colours", "large images, two channels", "many numbers"],
)
def test_coded_maps_in_other_runtimes(case: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    features, x = CODED_CASES[case]
    module = Rows(CodedMap(features)).eval()
    expected = features(x).float()
    batch = {"inputs": ({0: torch.export.Dim("batch")},)}
    program = torch.export.export(module, (x[:3],), dynamic_shapes=batch, strict=False)
    assert int((program.module()(x) != expected).sum()) <= 2
    save_onnx(module, (x[:3],), tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    rows = x.clone()
    rows[1, 2], rows[2, 0] = math.nan, -math.inf
    (phi,) = session.run(None, {session.get_inputs()[0].name: rows.numpy()})
    answer = torch.from_numpy(phi)
    assert answer[1:3].isnan().all()
    difference = (answer - expected)[[0, *range(3, len(rows))]].abs()
    assert int(difference.max()) <= 1
    assert int((difference > 0).sum()) <= 2


def test_coded_maps_keep_what_they_draw_as_buffers() -> None:
    features, x = CODED_CASES["digits"]
    module = CodedMap(features)
    names = {name for name, _ in module.named_buffers()}
    assert names == {"image_weights", "raw_weights", "pooling", "boxes", "turns"}
    expected = module(x)
    other = CodedMap(choose_coded_features(x, seed=5))
    assert not torch.equal(other(x), expected)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(x), expected)
    numbers = CodedMap(CODED_CASES["a few numbers"][0])
    assert {name for name, _ in numbers.named_buffers()} == {"image_weights", "raw_weights"}


def test_a_tap_keeps_the_type_of_floats() -> None:
    for x in (X, X.double(), X.half()):
        assert FeatureTap(None, [None])(x)[0].dtype == x.dtype
    assert FeatureTap(None, [None])(X.to(torch.uint8))[0].dtype == torch.float32


def test_baking_folds_overlays_in_and_leaves_the_model() -> None:
    model = make_spine().train()
    attach_low_rank(model, ["*"], 2, generator=torch.Generator())
    nn.init.ones_(model[0].parametrizations.weight[0].B)
    names = list(model.state_dict())
    baked = bake_model(model)
    torch.testing.assert_close(baked(X), copy.deepcopy(model).eval()(X))
    assert sorted(baked.state_dict()) == sorted(make_spine().state_dict())
    assert not any(p.requires_grad for p in baked.parameters())
    assert list(model.state_dict()) == names
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_a_tap_reads_either_side_and_copies_apart() -> None:
    spine = make_spine().eval()
    features, output = FeatureTap(spine, [Tap("0", "output")])(X)
    assert torch.equal(features, spine[0](X))
    assert torch.equal(output, spine(X))
    tap = FeatureTap(make_spine().eval(), [Tap("3", "input")])
    twin = copy.deepcopy(tap)
    nn.init.zeros_(twin.model[0].weight)
    assert not torch.equal(twin(X)[0], tap(X)[0])
    assert torch.equal(tap(X)[0], spine[:3](X))


def test_threads_get_their_own_features() -> None:
    readout = make_readout()
    inputs = [seeded(4, 5) * k for k in range(1, 5)]
    expected = [readout(x) for x in inputs]
    wrong: list[int] = []

    def ask(index: int) -> None:
        answers = [readout(inputs[index]) for _ in range(50)]
        wrong.extend(index for p in answers if not torch.equal(p, expected[index]))

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_wrong_parts_are_named() -> None:
    with pytest.raises(SettingError, match=r"'haed', which the model .*did you mean 'head'"):
        FeatureTap(nn.ModuleDict({"head": nn.Linear(1, 1)}), [Tap("haed", "output")])
    with pytest.raises(ShapeMismatch, match="2 experts; give one, or more and how to mix them"):
        ExportedReadout([make_spine(), make_spine()])
    with pytest.raises(ShapeMismatch, match="0 experts"):
        ExportedReadout([])
    with pytest.raises(ShapeMismatch, match=r"need an offset of shape \(3,\), not \(2,\)"):
        RidgeHead(torch.zeros(5, 3), torch.zeros(2))


def test_a_tap_that_did_not_run_says_so() -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(5, 3), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    with pytest.raises(DataError, match="'idle' was not run"):
        FeatureTap(Skips(), [Tap("idle", "output")])(X)


def test_missing_onnx_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtra, match=r"nestling\[onnx\]"):
        save_onnx(make_readout(), (X,), tmp_path / "m.onnx")


def test_a_failed_onnx_write_leaves_the_old_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"before")

    def fill_disk(*args: object, **_: object) -> None:
        Path(str(args[2])).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.onnx, "export", fill_disk)
    with pytest.raises(OSError, match="No space left"):
        save_onnx(make_readout(), (X,), path)
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
