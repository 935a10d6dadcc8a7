"""Whether `eval()` is pure: nothing is written, and two calls give the same answer."""

import torch
from torch import Tensor

from nestling.doctor.check_results import Check, failed, list_names, passed
from nestling.doctor.examined_model import ExaminedModel
from nestling.doctor.hidden_state import keep_values, list_changed, list_held, list_module_state

PURE = "eval() is pure"


def check_purity(subject: ExaminedModel) -> Check:
    """Whether a call in evaluation mode leaves weights, buffers, attributes, inputs and the state
    that it was given as they were, and answers the same when it is made again."""
    one = subject.copy("eval")
    x = subject.x.clone()
    with one.without_graph():
        _, state = one.call(x, write=True)  # asked, so that the state holds something
        before = keep_values(_read_all(one, state, x))
        first, _ = one.call(x, state, salt=1)
        moved = list_changed(before, _read_all(one, state, x))
        second, _ = one.call(x, state, salt=2)
    if moved:
        return failed(
            PURE,
            "model",
            f"a call in evaluation mode changed {list_names(moved)}; write in training mode only, "
            "or hand the state in and out",
        )
    gap = float((second - first).abs().max())
    if not torch.equal(first, second):
        return failed(
            PURE,
            "model",
            f"two calls in evaluation mode differ by {gap:.2g}; nothing random or counted may "
            "decide an answer there",
        )
    return passed(PURE, "model", f"{len(before)} tensors and numbers unchanged, answers equal")


def _read_all(subject: ExaminedModel, state: object, x: Tensor) -> dict[str, Tensor | float]:
    held = dict(subject.module.named_parameters()) | list_module_state(subject.module)
    return held | list_held(state, "state") | {"the inputs": x}
