"""Hebbian, delta, Oja and Omega rules of associative memories, each as one function."""

from typing import Literal

from torch import Tensor

from nestling.memory.associative.chunked_writes import write_pairs
from nestling.memory.associative.fast_state import FastState
from nestling.memory.associative.inner_objectives import DOT, L2, InnerObjective
from nestling.memory.associative.write_rule import WriteRule

# Axes: B samples, H heads, T tokens, D width of a key, V width of a value.

Read = Literal["after", "before"]


def write_hebbian(
    keys_BHTD: Tensor,
    values_BHTV: Tensor,
    rates_BHT: Tensor,
    decays_BHT: Tensor | None,
    state: FastState,
    *,
    queries_BHTD: Tensor | None = None,
    momenta_BHT: Tensor | None = None,
    valid_BT: Tensor | None = None,
    read: Read = "after",
    chunk: int = 64,
) -> tuple[Tensor, FastState]:
    """Write key-value pairs by the Hebbian rule: linear attention, with decay if wanted.

    W_t = alpha_t W_(t-1) + eta_t v_t k_t^T [Nested Learning, equation 92, its sign corrected]

    Arguments, results and errors are those of `write_pairs`.


    >>> import torch
    >>> k, rates = torch.eye(2).expand(1, 1, 2, 2), torch.ones(1, 1, 2)
    >>> write_hebbian(k, 3 * k, rates, None, FastState.zeros(1, 1, 2, 2))[1].weights[0, 0]
    tensor([[3., 0.],
            [0., 3.]])
    """
    rule = WriteRule(DOT, read=read)
    return write_pairs(
        rule,
        keys_BHTD,
        values_BHTV,
        rates_BHT,
        decays_BHT,
        state,
        queries_BHTD=queries_BHTD,
        momenta_BHT=momenta_BHT,
        valid_BT=valid_BT,
        chunk=chunk,
    )


def write_delta(
    keys_BHTD: Tensor,
    values_BHTV: Tensor,
    rates_BHT: Tensor,
    decays_BHT: Tensor | None,
    state: FastState,
    *,
    queries_BHTD: Tensor | None = None,
    momenta_BHT: Tensor | None = None,
    valid_BT: Tensor | None = None,
    objective: InnerObjective = L2,
    block: int = 1,
    read: Read = "after",
    chunk: int = 64,
) -> tuple[Tensor, FastState]:
    """Write key-value pairs by the delta rule (DeltaNet): what the memory gets wrong.

    W_t = W_(t-1) (alpha_t I - eta_t k_t k_t^T) + eta_t v_t k_t^T
    [Nested Learning, equation 88 without its second erase]

    With keys of length 1, eta = 1 replaces what is stored under a key, eta = 2 reflects it. The
    other arguments, results and errors are those of `write_pairs`.

    Args:
        objective: L2, or Huber's or the Lp loss for values with outliers.
        block: tokens that share the weights by which errors are measured.
        read: "after" a token's own write, or "before".


    >>> import torch
    >>> k, v = torch.ones(1, 1, 2, 1), torch.tensor([3.0, 5.0]).reshape(1, 1, 2, 1)
    >>> write_delta(k, v, torch.ones(1, 1, 2), None, FastState.zeros(1, 1, 1, 1))[0].flatten()
    tensor([3., 5.])
    """
    rule = WriteRule(objective, block=block, read=read)
    return write_pairs(
        rule,
        keys_BHTD,
        values_BHTV,
        rates_BHT,
        decays_BHT,
        state,
        queries_BHTD=queries_BHTD,
        momenta_BHT=momenta_BHT,
        valid_BT=valid_BT,
        chunk=chunk,
    )


def write_oja(
    keys_BHTD: Tensor,
    values_BHTV: Tensor,
    rates_BHT: Tensor,
    decays_BHT: Tensor | None,
    state: FastState,
    *,
    queries_BHTD: Tensor | None = None,
    momenta_BHT: Tensor | None = None,
    valid_BT: Tensor | None = None,
    block: int = 1,
    read: Read = "after",
    chunk: int = 64,
) -> tuple[Tensor, FastState]:
    """Write key-value pairs by Oja's rule: a delta rule with the roles of key and value swapped.

    W_t = alpha_t W_(t-1) + eta_t v_t (k_t - W_(t-1)^T v_t)^T [Oja 1982; Irie et al. 2022]

    With values v = W k it is Oja's own rule, whose weights turn towards the principal component
    of the keys. The other arguments, results and errors are those of `write_pairs`.

    Args:
        block: tokens that share the weights by which errors are measured.
        read: "after" a token's own write, or "before".


    >>> import torch
    >>> k, v = torch.tensor([0.6, 0.8]).reshape(1, 1, 1, 2), torch.ones(1, 1, 1, 1)
    >>> write_oja(k, v, torch.ones(1, 1, 1), None, FastState.zeros(1, 1, 1, 2))[0].flatten()
    tensor([1.])
    """
    rule = WriteRule(L2, swapped=True, block=block, read=read)
    return write_pairs(
        rule,
        keys_BHTD,
        values_BHTV,
        rates_BHT,
        decays_BHT,
        state,
        queries_BHTD=queries_BHTD,
        momenta_BHT=momenta_BHT,
        valid_BT=valid_BT,
        chunk=chunk,
    )


def write_omega(
    keys_BHTD: Tensor,
    values_BHTV: Tensor,
    rates_BHT: Tensor,
    decays_BHT: Tensor | None,
    state: FastState,
    *,
    queries_BHTD: Tensor | None = None,
    momenta_BHT: Tensor | None = None,
    valid_BT: Tensor | None = None,
    window: int,
    objective: InnerObjective = L2,
    read: Read = "after",
    chunk: int = 64,
) -> tuple[Tensor, FastState]:
    """Write key-value pairs by the Omega rule (Atlas): at each token a window of pairs at once.

    W_t = alpha_t W_(t-1) - sum for i = t-c+1..t of eta_i grad L(W_(t-1); k_i, v_i)
    [Atlas; Nested Learning, equation 68, with the gradient that its print leaves out]

    The weights gamma of the window are the tokens' own rates. It costs `window` times the delta
    rule, which it is with a window of 1. Padding takes no place in the window.
    The other arguments, results and errors are those of `write_pairs`.

    Args:
        window: c, tokens; each pair is written c times, so rates should be below 2 / c.
        objective: what is minimised.
        read: "after" a token's own write, or "before".


    >>> import torch
    >>> k, v = torch.ones(1, 1, 2, 1), torch.tensor([4.0, 8.0]).reshape(1, 1, 2, 1)
    >>> half = torch.full((1, 1, 2), 0.5)
    >>> write_omega(k, v, half, None, FastState.zeros(1, 1, 1, 1), window=2)[0].flatten()
    tensor([2., 6.])
    """
    rule = WriteRule(objective, window=window, read=read)
    return write_pairs(
        rule,
        keys_BHTD,
        values_BHTV,
        rates_BHT,
        decays_BHT,
        state,
        queries_BHTD=queries_BHTD,
        momenta_BHT=momenta_BHT,
        valid_BT=valid_BT,
        chunk=chunk,
    )
