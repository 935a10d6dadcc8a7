"""Mathematics over named parameters: pure functions of name -> tensor mappings."""

import cmath
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from nestling.core.errors import MismatchedParameters, suggest

Params = Mapping[str, Tensor]


def check_same_names(left: Params, right: Params) -> None:
    """Raise unless both mappings have the same names and shapes.

    Args:
        left: name -> tensor, any shape.
        right: name -> tensor, any shape.

    Raises:
        MismatchedParameters: names or shapes differ; says which.
    """
    if only := sorted(left.keys() ^ right.keys()):
        raise MismatchedParameters(
            f"{only[0]!r} is in only one of two mappings; "
            + suggest(only[0], left.keys() & right.keys())
        )
    for name, tensor in left.items():
        if tensor.shape != right[name].shape:
            raise MismatchedParameters(
                f"{name!r} has shape {tuple(tensor.shape)} on one side "
                f"and {tuple(right[name].shape)} on the other"
            )


def combine(
    function: Callable[[Tensor, Tensor], Tensor], left: Params, right: Params
) -> dict[str, Tensor]:
    """Apply a function of two tensors name by name.

    Args:
        function: (tensor, tensor) -> tensor.
        left: name -> tensor.
        right: same names and shapes.

    Returns: name -> `function(left[name], right[name])`.

    Raises:
        MismatchedParameters: names or shapes differ.

    >>> a = {"w": torch.ones(2)}
    >>> combine(torch.add, a, a)["w"]
    tensor([2., 2.])
    """
    check_same_names(left, right)
    return {name: function(tensor, right[name]) for name, tensor in left.items()}


def subtract(left: Params, right: Params) -> dict[str, Tensor]:
    """left - right, name by name; names and shapes as in `combine`."""
    return combine(torch.sub, left, right)


def interpolate(start: Params, end: Params, weight: float) -> dict[str, Tensor]:
    """start + weight * (end - start), name by name.

    Args:
        start: name -> tensor, the answer at weight 0.
        end: same names and shapes, the answer at weight 1.
        weight: usually in [0, 1].

    >>> interpolate({"w": torch.zeros(1)}, {"w": torch.ones(1)}, 0.25)["w"]
    tensor([0.2500])
    """
    return combine(lambda a, b: torch.lerp(a, b, weight), start, end)


@torch.no_grad()
def average_into(slow: Iterable[Tensor], fast: Iterable[Tensor], decay: float) -> None:
    """Exponential moving average of weights, in place: one step of it.

    slow <- decay slow + (1 - decay) fast   [Tarvainen & Valpola 2017, Eq. 1]

    Args:
        slow: tensors that are overwritten; in half precision a slow mean never moves, see
            `sum_dtype`.
        fast: as many, of the same shapes; counters (integers) are copied.
        decay: in [0, 1]; 0 copies `fast`, 1 keeps `slow`.

    >>> slow = [torch.zeros(1)]
    >>> average_into(slow, [torch.ones(1)], decay=0.75)
    >>> slow
    [tensor([0.2500])]
    """
    means: list[Tensor] = []
    values: list[Tensor] = []
    for mean, value in zip(slow, fast, strict=True):
        if mean.is_floating_point() or mean.is_complex():
            means.append(mean)
            values.append(value if value.dtype == mean.dtype else value.to(mean.dtype))
        else:
            mean.copy_(value)
    if means:
        torch._foreach_lerp_(means, values, 1.0 - decay)


def flatten_tensors(state: object, prefix: str = "") -> dict[str, Tensor]:
    """All tensors of a nested state by dotted names.

    Args:
        state: tensors in dicts and lists, beside whatever else.
        prefix: of all names.

    >>> flatten_tensors({"a": [torch.zeros(1), {"b": torch.ones(1)}], "c": 3})
    {'a.0': tensor([0.]), 'a.1.b': tensor([1.])}
    """
    if isinstance(state, Tensor):
        return {prefix: state}
    pairs: Iterable[tuple[object, object]] = ()
    if isinstance(state, Mapping):
        pairs = state.items()
    elif isinstance(state, list | tuple):
        pairs = enumerate(state)
    found: dict[str, Tensor] = {}
    for key, value in pairs:
        found |= flatten_tensors(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def digest_tensors(tensors: Params) -> str:
    """Fingerprint (sha256) of named tensors: equal if and only if every bit is.

    Args:
        tensors: name -> tensor; names, dtypes and shapes count, their order does not.

    >>> digest_tensors({"w": torch.zeros(2)}) == digest_tensors({"w": torch.zeros(2)})
    True
    >>> digest_tensors({"w": torch.zeros(2)}) == digest_tensors({"w": torch.zeros(2, 1)})
    False
    """
    import hashlib

    found = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        found.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
        if value.numel():
            found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def squared_norm(params: Params) -> Tensor:
    """Sum of squares over all tensors: sum_n ||theta_n||^2.

    Args:
        params: name -> tensor, any shape, one device.

    Returns: scalar () in float64 where the device has it, float32 on MPS.

    >>> round(squared_norm({"a": torch.ones(3), "b": torch.full((2,), 2.0)}).item(), 4)
    11.0
    """
    if not params:
        return torch.zeros((), dtype=torch.float64, device="cpu")
    norms = torch._foreach_norm([widen_half(tensor.detach()) for tensor in params.values()])
    stacked = torch.stack([norm.float() for norm in norms])
    return stacked.to(wide_dtype(stacked.device)).square().sum()


def inner_product(left: Params, right: Params) -> Tensor:
    """sum_n <left_n, right_n> as a scalar (); names and shapes as in `combine`."""
    check_same_names(left, right)
    wide = [
        torch.sum(widen_half(tensor) * widen_half(right[name])).double()
        for name, tensor in left.items()
    ]
    return torch.stack(wide).sum() if wide else torch.zeros((), dtype=torch.float64, device="cpu")


def cosine(left: Params, right: Params) -> float:
    """Cosine of the angle between two mappings seen as vectors; 0 if either is zero.

    >>> cosine({"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 2.0])})
    0.0
    """
    scale = float(squared_norm(left).sqrt() * squared_norm(right).sqrt())
    return float(inner_product(left, right)) / scale if scale > 0 else 0.0


def relative_change(before: Params, after: Params) -> float:
    """||after - before|| / ||before||, over all tensors together.

    Args:
        before: name -> tensor.
        after: same names and shapes.

    Returns: a non-negative number; infinity if `before` is zero and `after` is not.

    >>> relative_change({"w": torch.ones(4)}, {"w": torch.full((4,), 1.5)})
    0.5
    """
    change = float(squared_norm(subtract(after, before)).sqrt())
    base = float(squared_norm(before).sqrt())
    if base == 0.0:
        return 0.0 if change == 0.0 else float("inf")
    return change / base


def keep_rows(values: Tensor, fresh: Tensor) -> Tensor:
    """A copy of `fresh` whose rows are those of `values`, as far as both have them.

    Args:
        values: (R, ...).
        fresh: (S, ...), same shape but for its rows.

    Returns: (S, ...), detached.

    >>> keep_rows(torch.ones(1), torch.zeros(3))
    tensor([1., 0., 0.])
    """
    kept = fresh.detach().clone()
    num_rows = min(len(values), len(kept))
    kept[:num_rows] = values[:num_rows]
    return kept


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums and running means of tensors: at least float32; integers keep theirs.

    In bfloat16 a sum of ones stops at 256 and a mean that moves by a thousandth never moves; in
    float16 sums overflow beyond 65,504.

    >>> sum_dtype(torch.bfloat16), sum_dtype(torch.float64), sum_dtype(torch.int64)
    (torch.float32, torch.float64, torch.int64)
    """
    is_number = dtype.is_floating_point or dtype.is_complex
    return torch.promote_types(dtype, torch.float32) if is_number else dtype


def widen_half(tensor: Tensor) -> Tensor:
    """The tensor in its `sum_dtype`: half precision as float32, any other as it is."""
    return tensor.to(sum_dtype(tensor.dtype))


def are_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no entry is NaN or infinite.

    Args:
        tensors: any shapes, dtypes and devices; not sparse.

    >>> are_finite([torch.ones(2)]), are_finite([torch.ones(2), torch.tensor([torch.nan])])
    (True, False)
    """
    if all(tensor.is_cpu for tensor in tensors):
        # A sum is the cheapest kernel that every entry reaches: half the time of a norm.
        total = sum([tensor.sum().item() for tensor in tensors])
    else:  # one wait for the device
        total = sum(torch.stack(torch._foreach_norm(list(tensors))).tolist())
    # Finite entries can overflow together, so what is not finite is looked into.
    return cmath.isfinite(total) or all(bool(tensor.isfinite().all()) for tensor in tensors)


def wide_dtype(device: torch.device) -> torch.dtype:
    """The widest float that the device can compute with: float64, but float32 on MPS."""
    return torch.float32 if device.type == "mps" else torch.float64
