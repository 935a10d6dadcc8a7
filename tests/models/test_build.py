"""Models by name: seeds, and an error that names the fix for everything a user can get wrong."""

from pathlib import Path

import pytest
import torch
from torch import nn

from nestling.core.errors import ModelError
from nestling.models import build_model, list_models, load_model

OPTIONS: dict[str, dict[str, object]] = {
    "mlp": {"sizes": [16, 8, 3]},
    "convnet": {"num_classes": 3, "image_size": [4, 4], "widths": [4]},
    "transformer": {"num_tokens": 5, "num_classes": 3, "length": 16, "width": 8, "num_heads": 2},
}

SOURCE = """
import torch
def make(width=2):
    return torch.nn.Linear(width, 1)
def wrong():
    return [1]
def fails():
    raise RuntimeError("no weights here")
number = 3
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_net.py").write_text(SOURCE)
    (tmp_path / "broken_net.py").write_text("import a_module_that_is_not_there\n")
    (tmp_path / "stops_net.py").write_text("raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "own_net"


@pytest.mark.parametrize("name", list_models())
def test_every_built_in_gives_class_scores(name: str) -> None:
    model = build_model(name, OPTIONS[name])
    assert model(torch.zeros(5, 16)).shape == (5, 3)


@pytest.mark.parametrize("name", list_models())
def test_the_seed_decides_and_the_global_generator_stays(name: str) -> None:
    before = torch.get_rng_state()
    first, again, other = (build_model(name, OPTIONS[name], seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [nn.utils.parameters_to_vector(m.parameters()) for m in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_own_function_with_options(own_module: str) -> None:
    assert load_model(f"{own_module}:make", {"width": 5})(torch.zeros(1, 5)).shape == (1, 1)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 2**70])
def test_a_seed_that_torch_does_not_take(seed: int) -> None:
    with pytest.raises(ModelError, match=f"seed={seed} is out of torch's range; a whole number"):
        build_model("mlp", {"sizes": [4, 2]}, seed=seed)
    build_model("mlp", {"sizes": [4, 2]}, seed=-1)


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("mpl", {}, "did you mean 'mlp'"),
        ("mlp", {"size": [1, 2]}, "did you mean 'sizes'"),
        ("mlp", {}, "needs the option 'sizes'"),
        ("mlp", {"sizes": [3]}, "at least two sizes"),
        ("mlp", {"sizes": "abc"}, "sizes = 'abc'"),
        ("convnet", {"num_classes": 2, "image_size": [2, 2]}, "use fewer widths"),
        ("transformer", {"num_tokens": 2, "num_classes": 2, "num_heads": 5}, "multiple"),
        ("own_net:maek", {}, "did you mean 'make'"),
        ("own_net:wrong", {}, "returned list"),
        ("own_net:number", {}, "is a int"),
        ("own_net:fails", {}, "no weights here"),
        ("own_net:", {}, "write 'module:function'"),
        ("nowhere_to_be_found:make", {}, "no module 'nowhere_to_be_found'"),
        ("broken_net:make", {}, "'a_module_that_is_not_there', not installed"),
        ("stops_net:make", {}, "SystemExit"),
    ],
)
@pytest.mark.usefixtures("own_module")
def test_errors_name_the_fix(source: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(ModelError) as caught:
        build_model(source, options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
