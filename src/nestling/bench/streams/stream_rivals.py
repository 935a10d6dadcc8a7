"""Rivals on streams of events, by name, with the settings that their makers recommend."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from nestling.bench.streams.online_networks import OnlineNetwork
from nestling.core.errors import MissingExtra

NUM_TREES = 10
REPLAY = 500


class EventLearner(Protocol):
    """What learns events one by one and gives probabilities: River's words."""

    def learn_one(self, x: dict[Any, Any], y: Any) -> object:
        """Learn one event."""

    def predict_proba_one(self, x: dict[Any, Any]) -> Mapping[Any, float]:
        """Probabilities by label."""


class ValueLearner(Protocol):
    """What learns events with numbers for labels."""

    def learn_one(self, x: dict[Any, Any], y: Any) -> object:
        """Learn one event."""

    def predict_one(self, x: dict[Any, Any]) -> Any:
        """The number expected."""


def make_forest(seed: int, _: int) -> EventLearner:
    """River's adaptive random forest of 10 trees [Gomes 2017]."""
    _require_river()
    from river import forest

    return forest.ARFClassifier(n_models=NUM_TREES, seed=seed)


def make_patches(seed: int, _: int) -> EventLearner:
    """River's streaming random patches of 10 trees [Gomes 2019]."""
    _require_river()
    from river import ensemble

    return ensemble.SRPClassifier(n_models=NUM_TREES, seed=seed)


def make_bagging(seed: int, _: int) -> EventLearner:
    """River's leveraging bagging of 10 Hoeffding trees [Bifet 2010]."""
    _require_river()
    from river import ensemble, tree

    return ensemble.LeveragingBaggingClassifier(
        model=tree.HoeffdingTreeClassifier(), n_models=NUM_TREES, seed=seed
    )


def make_adaptive_tree(seed: int, _: int) -> EventLearner:
    """River's Hoeffding adaptive tree [Bifet 2009]."""
    _require_river()
    from river import tree

    return tree.HoeffdingAdaptiveTreeClassifier(seed=seed)


def make_logistic(_: int, num_classes: int) -> EventLearner:
    """River's logistic regression by SGD .01 on standardised numbers and one-hot words."""
    _require_river()
    from river import compose, linear_model, multiclass, optim, preprocessing

    model: Any = linear_model.LogisticRegression(optim.SGD(0.01))
    if num_classes > 2:
        model = multiclass.OneVsRestClassifier(model)
    numbers: Any = compose.SelectType(int, float) | preprocessing.StandardScaler()
    words: Any = compose.SelectType(str) | preprocessing.OneHotEncoder()
    learner: EventLearner = (numbers + words) | model
    return learner


def make_forest_of_values(seed: int) -> ValueLearner:
    """River's adaptive random forest of 10 trees for numbers."""
    _require_river()
    from river import forest

    return forest.ARFRegressor(n_models=NUM_TREES, seed=seed)


# Name -> what makes it of a seed and a number of classes.
RIVALS: dict[str, Callable[[int, int], EventLearner]] = {
    "logistic": make_logistic,
    "network-sgd": lambda seed, _: OnlineNetwork("sgd", seed),
    "network-adamw": lambda seed, _: OnlineNetwork("adamw", seed),
    "network-replay": lambda seed, _: OnlineNetwork("adamw", seed, REPLAY),
    "hoeffding-adaptive": make_adaptive_tree,
    "arf": make_forest,
    "leveraging-bagging": make_bagging,
    "srp": make_patches,
}


def _require_river() -> None:
    try:
        import river  # noqa: F401
    except ImportError:
        raise MissingExtra("rivals need river: pip install 'nestling[compat]'") from None
