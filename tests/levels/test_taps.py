"""Where a memory reads, and how what is read becomes a row."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from nestling.core.batches import Batch
from nestling.core.errors import DataError, SettingError, ShapeMismatch
from nestling.levels.taps import FeatureReader, find_early_layer, pool_grid

CONV = nn.Sequential(
    nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
)  # fmt: skip


class Scaled(nn.Module):
    """A gate by a linear layer before the last convolution, as squeeze and excitation has it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 4)
        self.second, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.first(x)
        maps = maps * torch.sigmoid(self.gate(maps.mean((2, 3))))[:, :, None, None]
        return self.head(self.second(maps).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (nn.Sequential(nn.Identity(), nn.Linear(4, 2)), None),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), "0"),
        (nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 2)), "2"),
        (nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(4, 2)), None),
        (CONV, "2"),
        (Scaled(), "second"),
        (nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 2)), None),
    ],
)
def test_which_layer_is_early(model: nn.Module, found: str | None) -> None:
    assert find_early_layer(model) == found


def test_maps_are_read_on_a_grid() -> None:
    x = torch.randn(5, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    rows, output, _ = FeatureReader(CONV, ["input of 2", None], frozen=True).read_rows(
        Batch((x,)), torch.zeros(5, dtype=torch.long)
    )
    assert [row.shape for row in rows] == [(5, 64), (5, 8)]
    torch.testing.assert_close(rows[0], pool_grid(CONV[:2](x)))
    assert output is not None
    torch.testing.assert_close(output, CONV(x))


@pytest.mark.parametrize(
    ("shape", "width"),
    [((2, 7), 7), ((2, 8, 30), 32), ((2, 8, 3), 24), ((2, 600, 9, 9), 600), ((2, 2, 9, 9, 9), 128)],
)
def test_widths_of_grids(shape: tuple[int, ...], width: int) -> None:
    assert pool_grid(torch.ones(shape)).shape == (2, width)
    assert bool((pool_grid(torch.ones(shape)) == 1.0).all())


def test_positions_of_inputs() -> None:
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    reader = FeatureReader(model, ["input of 0", "1"], frozen=False)
    x = torch.randn(4, 5, 3)
    per_position = torch.zeros(4, 5, dtype=torch.long)
    per_position[0, 0] = -100
    rows, _, _ = reader.read_rows(Batch((x,)), per_position)
    assert [row.shape for row in rows] == [(19, 3), (19, 6)]
    single, _, _ = FeatureReader(model, ["input of 0"], frozen=False).read_rows(Batch((x,)), None)
    torch.testing.assert_close(single[0], x.mean(dim=1))


def test_places_that_do_not_fit_are_named() -> None:
    with pytest.raises(SettingError, match="'input of nowhere', which the model does not have"):
        FeatureReader(CONV, ["input of nowhere"], frozen=True)

    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part, self.head = nn.Linear(2, 2), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.part(x.reshape(-1, 2)).reshape(-1, 4))  # type: ignore[no-any-return]

    reader = FeatureReader(Folded(), ["input of part", "input of head"], frozen=True)
    with pytest.raises(ShapeMismatch, match="the input of 'part' gives 6 rows"):
        reader.read_rows(Batch((torch.ones(3, 4),)), None)
    model = nn.Sequential(nn.Linear(4, 2))
    model.add_module("idle", nn.Linear(4, 2))
    model.forward = lambda x: model[0](x)  # type: ignore[method-assign]
    with pytest.raises(DataError, match="'idle' was not run"):
        FeatureReader(model, ["idle"], frozen=False).read(Batch((torch.ones(3, 4),)))


def test_threads_that_read_one_model_get_their_own() -> None:
    reader = FeatureReader(CONV, ["input of 2"], frozen=True)
    inputs = [torch.full((2, 1, 8, 8), float(k)) for k in range(4)]
    wanted = [reader.read(Batch((x,)))[0][0] for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        asked = [index % 4 for index in range(120)]
        found = pool.map(lambda index: reader.read(Batch((inputs[index],)))[0][0], asked)
        assert all(torch.equal(view, wanted[k]) for view, k in zip(found, asked, strict=True))


def test_nothing_listens_after_a_pass_whether_it_failed_or_not() -> None:
    reader = FeatureReader(CONV, ["input of 2"], frozen=False)
    reader.read(Batch((torch.zeros(2, 1, 8, 8),)))
    with pytest.raises(DataError):
        reader.read(Batch((torch.zeros(2, 99, 8, 8),)))
    assert not any(module._forward_hooks for module in CONV.modules())
