"""Dreams: inputs drawn from integer sums of each class, like those that came, of which none is.

Axis letters: N dreams, D values of an input, A of them that vary, K classes, C codes.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from nestling.core.errors import NotFitted, SettingError
from nestling.memory.exact.class_sums import NUM_CODES, ClassSums, unpack_triangle

# The covariance of all classes counts in each as so many examples of its own.
POOLED_EXAMPLES = 1.0
# Rounds in which the latent correlations are corrected, and dreams by which each is measured.
NUM_ROUNDS = 3
NUM_MEASURED = 4_000
_SMALLEST = 1e-3


def draw_codes(
    sums: ClassSums, num_inputs: int, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw pseudo-inputs of every class from its statistics alone (a Gaussian copula).

    z ~ N(0, R_k),  code_d = F_kd^-1(Phi(z_d))     [NORTA: Cario and Nelson 1997, section 2]

    F_kd is how often each code came at place d in class k, and R_k is such that the codes that
    are drawn correlate as those that came; see `match_correlations`. Few examples know little of
    their covariance, so that of all classes (about their own means) counts as one example more;
    a class with a single example has its value as mean and the spread of all classes.

    Args:
        sums: of the codes of each class.
        num_inputs: N >= 1, of every class that came as many, give or take one.
        generator: draws them.

    Returns: codes (N, D) uint8 and the classes that they were drawn from (N,) int64, in order.

    Raises:
        SettingError: fewer inputs than classes.
        NotFitted: nothing was summed.

    >>> sums = ClassSums(2)
    >>> seen = torch.tensor([[0, 9], [2, 5], [90, 9]], dtype=torch.uint8)
    >>> sums.add(seen, torch.tensor([0, 0, 1]))
    >>> codes, classes = draw_codes(sums, 4, generator=torch.Generator().manual_seed(0))
    >>> classes.tolist(), sorted(set(codes[:2, 0].tolist())) <= [0, 2]
    ([0, 0, 1, 1], True)
    """
    sums.sum_up()
    labels = sums.counts.nonzero().flatten().tolist()
    if not labels:
        raise NotFitted("nothing to dream of: no example was summed; learn something first")
    if num_inputs < len(labels):
        raise SettingError(
            f"{num_inputs} dreams of {len(labels)} classes; {len(labels)} or more work"
        )
    pooled_DD = pool_covariances(sums)
    codes, classes = [], []
    for index, label in enumerate(labels):
        num = num_inputs // len(labels) + (index < num_inputs % len(labels))
        codes.append(_draw_class(sums, label, pooled_DD, num, generator))
        classes.append(torch.full((num,), label, dtype=torch.int64, device="cpu"))
    return torch.cat(codes), torch.cat(classes)


def find_moments(sums: ClassSums, label: int) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) of the codes of one class, float64.

    C_k = S_k / n_k - m_k m_k^T

    >>> sums = ClassSums(1)
    >>> sums.add(torch.tensor([[0], [2]], dtype=torch.uint8), torch.tensor([0, 0]))
    >>> sums.sum_up()
    >>> [moment.tolist() for moment in find_moments(sums, 0)]
    [[1.0], [[1.0]]]
    """
    num = int(sums.counts[label])
    codes_C = torch.arange(NUM_CODES, dtype=torch.float64, device="cpu")
    mean_D = sums.histograms[label].double() @ codes_C / num
    moments_DD = unpack_triangle(sums.moments[label], sums.num_inputs).double() / num
    return mean_D, moments_DD - torch.outer(mean_D, mean_D)


def pool_covariances(sums: ClassSums) -> Tensor:
    """Covariance within classes, (D, D) float64: the mean of those of all classes by their counts.

    C = sum_k n_k C_k / sum_k n_k
    """
    D = sums.num_inputs
    pooled_DD = torch.zeros(D, D, dtype=torch.float64, device="cpu")
    for label in sums.counts.nonzero().flatten().tolist():
        pooled_DD.add_(find_moments(sums, label)[1], alpha=float(sums.counts[label]))
    return pooled_DD / float(sums.counts.sum())


def match_correlations(wanted_AA: Tensor, cdf_AC: Tensor, generator: torch.Generator) -> Tensor:
    """Correlations of the latent Gaussian such that the codes correlate as wanted.

    R <- R + (wanted - corr(codes drawn with R)), three times, beginning with R = wanted: codes that
    are mostly equal (the background of an image) correlate less than the latent values do.

    Args:
        wanted_AA: (A, A) correlations of codes, float32.
        cdf_AC: (A, C) share of codes up to each, float32.
        generator: draws the codes by which it is measured.

    Returns: (A, A), diagonal 1, entries in [-1, 1]; not always positive semi-definite.
    """
    latent_AA = wanted_AA.clone()
    for _ in range(NUM_ROUNDS):
        codes_NA = _draw_latent(find_root(latent_AA), cdf_AC, NUM_MEASURED, generator).float()
        codes_NA -= codes_NA.mean(dim=0)
        latent_AA += wanted_AA - find_correlations(codes_NA.T @ codes_NA / NUM_MEASURED)
        latent_AA.clamp_(-1.0, 1.0).fill_diagonal_(1.0)
    return latent_AA


def find_correlations(covariance_AA: Tensor) -> Tensor:
    """Correlations of a covariance: (A, A) -> (A, A), diagonal 1; 0 with what does not vary.

    >>> find_correlations(torch.tensor([[4.0, 1.0], [1.0, 1.0]]))
    tensor([[1.0000, 0.5000],
            [0.5000, 1.0000]])
    """
    spread_A = covariance_AA.diagonal().clamp_min(0.0).sqrt().clamp_min(_SMALLEST)
    correlations_AA = covariance_AA / spread_A / spread_A[:, None]
    return correlations_AA.clamp_(-1.0, 1.0).fill_diagonal_(1.0)


def find_root(correlations_AA: Tensor) -> Tensor:
    """A root of the nearest correlation matrix by its eigenvalues: L L^T has diagonal 1.

    >>> root = find_root(torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
    >>> bool(torch.allclose(root @ root.T, torch.tensor([[1.0, 0.5], [0.5, 1.0]])))
    True
    """
    values_A, vectors_AA = torch.linalg.eigh(correlations_AA)
    root_AA: Tensor = vectors_AA * values_A.clamp_min(0.0).sqrt()
    return functional.normalize(root_AA, dim=1)


def _draw_class(
    sums: ClassSums, label: int, pooled_DD: Tensor, num: int, generator: torch.Generator
) -> Tensor:
    """Codes of one class, (num, D) uint8."""
    count = int(sums.counts[label])
    mean_D, covariance_DD = find_moments(sums, label)
    if count < 2:
        cdf_DC = _find_normal_cdf(mean_D, pooled_DD.diagonal())
    else:
        cdf_DC = (sums.histograms[label].cumsum(dim=1).double() / count).float()
    covariance_DD = (covariance_DD * count + pooled_DD * POOLED_EXAMPLES) / (
        count + POOLED_EXAMPLES
    )
    # What never varies in a class is left out: most of an image's border.
    varies_D = (cdf_DC > 0.0).sum(dim=1) > (cdf_DC >= 1.0).sum(dim=1)
    codes_ND = mean_D.round().to(torch.uint8).repeat(num, 1)
    if not bool(varies_D.any()):
        return codes_ND
    cdf_AC = cdf_DC[varies_D]
    wanted_AA = find_correlations(covariance_DD[varies_D][:, varies_D].float())
    root_AA = find_root(match_correlations(wanted_AA, cdf_AC, generator))
    for start, size in _cut(num):
        drawn_NA = _draw_latent(root_AA, cdf_AC, size, generator)
        codes_ND[start : start + size, varies_D] = drawn_NA.to(torch.uint8)
    return codes_ND


def _draw_latent(root_AA: Tensor, cdf_AC: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """Codes (num, A) int64 of latent values that are drawn with a root of their correlations."""
    z_NA = torch.randn(num, len(root_AA), generator=generator, dtype=torch.float32, device="cpu")
    share_NA = torch.special.ndtr(z_NA @ root_AA.T)
    codes_AN: Tensor = torch.searchsorted(cdf_AC, share_NA.T.contiguous())
    return codes_AN.T.clamp_max(NUM_CODES - 1)


def _find_normal_cdf(mean_D: Tensor, variance_D: Tensor) -> Tensor:
    """Share of codes up to each, (D, C) float32, of normal values about a mean."""
    edges_C = torch.arange(NUM_CODES, dtype=torch.float64, device="cpu") + 0.5
    spread_D = variance_D.clamp_min(0.0).sqrt().clamp_min(_SMALLEST)
    cdf_DC: Tensor = torch.special.ndtr((edges_C - mean_D[:, None]) / spread_D[:, None])
    cdf_DC[:, -1] = 1.0
    return cdf_DC.float()


def _cut(num: int) -> Iterator[tuple[int, int]]:
    for index in range(math.ceil(num / NUM_MEASURED)):
        start = index * NUM_MEASURED
        yield start, min(NUM_MEASURED, num - start)
