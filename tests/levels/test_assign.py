"""Claims by name: first match, nothing left over, errors that name the remedy."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from nestling.core.errors import IdlePattern, SettingError, UnclaimedParameter
from nestling.levels import Level, NestedOptimizer, Plan, assign_levels


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.head(self.norm(self.embed(x))))


def make_model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def claim(model: nn.Module, *matches: Sequence[str]) -> list[list[str]]:
    plan = Plan(*(Level(f"level{i}", match=match) for i, match in enumerate(matches)))
    return list(assign_levels(model, plan).values())


@pytest.mark.parametrize(
    ("matches", "claims"),
    [
        ([["*"]], [["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]]),
        (
            [["2.*"], ["*.bias"], ["*"]],
            [["2.weight", "2.bias"], ["0.bias", "1.bias"], ["0.weight", "1.weight"]],
        ),
        (
            [["2.weight", "0.*"], ["[12].*"]],
            [["0.weight", "0.bias", "2.weight"], ["1.weight", "1.bias", "2.bias"]],
        ),
    ],
)
def test_first_match_claims_in_the_models_order(
    matches: list[list[str]], claims: list[list[str]]
) -> None:
    assert claim(make_model(), *matches) == claims


def test_matching_minds_the_case() -> None:
    model = nn.ModuleDict({"Head": nn.Linear(1, 1), "head": nn.Linear(1, 1)})
    assert claim(model, ["Head.*"], ["*"])[0] == ["Head.weight", "Head.bias"]


@pytest.mark.parametrize(
    ("matches", "error", "words"),
    [
        ([["0.*", "2.*"]], UnclaimedParameter, r"'1\.weight'.*\['0\.\*', '2\.\*'\].*match="),
        ([["*"], ["2.*"]], IdlePattern, r"'2\.\*' of level 'level1'.*'2\.weight'.*'level0'"),
        ([["2.*", "2.bias"], ["*"]], IdlePattern, r"'2\.bias'.*claimed before.*'level0'"),
        ([["2.wieght"], ["*"]], IdlePattern, r"did you mean '2\.weight'"),
        ([["2.*"], ["2.*", "*"]], SettingError, r"'2\.\*' stands in 'level0' and 'level1'"),
    ],
)
def test_wrong_claims_name_the_pattern_and_the_remedy(
    matches: list[list[str]], error: type[SettingError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        claim(make_model(), *matches)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("alias", ["embed.*", "head.*", "head.weight"])
def test_tied_weight_is_claimed_once_by_any_of_its_names(alias: str) -> None:
    assert claim(Tied(), [alias], ["*"]) == [["embed.weight"], ["norm.weight", "norm.bias"]]


def test_second_name_of_a_claimed_tied_weight_is_idle() -> None:
    with pytest.raises(IdlePattern, match=r"'head\.\*'.*'embed.weight' was claimed before"):
        claim(Tied(), ["embed.*"], ["head.*"], ["*"])


def test_frozen_parameters_and_buffers_are_left_alone() -> None:
    model = make_model()
    model[0].requires_grad_(False)
    assert claim(model, ["1.*"], ["*"]) == [["1.weight", "1.bias"], ["2.weight", "2.bias"]]
    with pytest.raises(IdlePattern, match=r"'0\.weight' is frozen"):
        claim(model, ["0.*"], ["*"])
    with pytest.raises(IdlePattern, match="running_mean"):
        claim(model, ["1.running_mean"], ["*"])
    with pytest.raises(SettingError, match="no trainable parameter"):
        claim(model.requires_grad_(False), ["*"])
    with pytest.raises(SettingError, match="no trainable parameter"):
        claim(nn.ReLU(), ["*"])


def test_lazy_modules_must_have_run() -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 1))
    plan = Plan(Level("all", match=["*"]))
    with pytest.raises(SettingError, match=r"'0\.weight' has no shape yet; run one batch"):
        NestedOptimizer(model, plan)
    model(torch.ones(1, 2))
    assert NestedOptimizer(model, plan).levels["all"].names[0] == "0.weight"


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compiled": lambda model: torch.compile(model, backend="eager"),  # type: ignore[return-value]
    "parallel": nn.DataParallel,
    "both": lambda model: torch.compile(nn.DataParallel(model), backend="eager"),  # type: ignore[return-value]
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_do_not_change_names(wrapper: str) -> None:
    model = make_model()
    wrapped = WRAPPERS[wrapper](model)
    assert claim(wrapped, ["2.*"], ["*"]) == claim(model, ["2.*"], ["*"])
    assert NestedOptimizer(wrapped, Plan(Level("all", match=["*"]))).model is model


def test_a_users_submodule_called_module_is_no_wrapper() -> None:
    model = nn.Sequential()
    model.add_module("module", nn.Linear(1, 1))
    assert claim(model, ["module.*"]) == [["module.weight", "module.bias"]]
