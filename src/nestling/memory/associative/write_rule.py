"""Write rules of linear associative memories, as data: Hebbian, delta, Oja, Omega."""

from dataclasses import dataclass
from typing import Literal

from nestling.core.arguments import check_whole
from nestling.core.errors import SettingError
from nestling.memory.associative.inner_objectives import (
    DECAY,
    DOT,
    L2,
    InnerObjective,
    WeightRetention,
)


@dataclass(frozen=True)
class WriteRule:
    """How a linear associative memory W takes in a pair of key k and value v.

    S_t = theta_t S_(t-1) + sum over i in the window of eta_i push(W_f k_i, v_i) k_i^T
    W_t = alpha_t W_(t-1) + S_t
    [Behrouz et al., Nested Learning, equations 68, 92, 93; Titans, equations 9 to 14]

    W_f are the weights in force: those before the token, or with `block` > 1 those before the
    block of tokens. Without momentum theta is 0. What alpha pulls to is said by `retention`. With
    `swapped` the roles of key and value are swapped in the error and in the product,
    v (push(W_f^T v, k))^T: Oja's rule.

    Args:
        objective: what is minimised at each pair.
        window: pairs of the last so many tokens are written again at each token (Omega rule).
        swapped: Oja's rule.
        block: tokens that share the weights in force, padding not counted.
        read: "after" a token's own write, or "before": by the weights in force.
        retention: what the memory is pulled back to.
        proximal: each layer takes eta' = eta / (1 + eta |z|^2) in place of eta, z its own input:
            the exact proximal step, stable for inputs of any length [NL, section 4.5, corrected].
        double_erase: of MLP memories only: each layer also erases along its own input z,
            W_t = W_(t-1) (alpha I - eta z z^T) - eta grad, as equation 88 is printed. Under the L2
            loss, whose gradient erases already, a repeated write settles between the old value and
            the new one; so it is off. Of a linear memory it is `InnerObjective("l2", erase=2.0)`.

    Raises:
        SettingError: a number below 1; a window with blocks, or with Oja's rule; a second erase
            under a retention that is not linear.

    >>> WriteRule(window=4).objective.kind
    'l2'
    """

    objective: InnerObjective = L2
    window: int = 1
    swapped: bool = False
    block: int = 1
    read: Literal["after", "before"] = "after"
    retention: WeightRetention = DECAY
    proximal: bool = False
    double_erase: bool = False

    def __post_init__(self) -> None:
        check_whole("window", self.window, 1, "a number of tokens of 1 or more works")
        check_whole("block", self.block, 1, "a number of tokens of 1 or more works")
        if self.window > 1 and (self.block > 1 or self.swapped):
            raise SettingError(
                f"window={self.window} with block={self.block} and swapped={self.swapped}; "
                "a window works with block=1, swapped=False"
            )
        if self.read not in ("after", "before"):
            raise SettingError(f"read={self.read!r}; 'after' or 'before' works")
        if self.double_erase and not self.retention.is_linear:
            raise SettingError(
                f"double_erase=True with retention {self.retention.kind!r}; "
                "it works with 'decay' and 'initial'"
            )


# The Hebbian rule: M + eta v k^T.
HEBBIAN = WriteRule(DOT)
# The delta rule: M + eta (v - M k) k^T.
DELTA = WriteRule(L2)
# Oja's rule: keys and values change places in the error.
OJA = WriteRule(L2, swapped=True)
