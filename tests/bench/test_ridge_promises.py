"""The ridge suite's own logic, on real digits brought to MNIST's size, with few features."""

import pytest
import torch
from sklearn.datasets import load_digits

from nestling.bench.promises import ridge_promises


def test_the_suite_measures_what_it_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ridge_promises, "NUM_REMOVED", 60)
    monkeypatch.setattr(ridge_promises, "BLOCK", 100)
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images).float().reshape(-1, 1, 8, 8) / 16
    x = torch.nn.functional.interpolate(x, size=(28, 28)).reshape(-1, 784)
    y = torch.tensor(labels)
    found = ridge_promises.measure((x[:1000], y[:1000]), (x[1000:], y[1000:]), 100, num_rounds=1)
    figures = found["figures"]
    assert sorted(figures) == [
        "merge_max_diff",
        "mnist_accuracy",
        "order_max_diff",
        "remove_max_diff",
        "time_over_matmul",
    ]
    assert figures["mnist_accuracy"] > 85.0
    for name in ("order_max_diff", "remove_max_diff", "merge_max_diff"):
        assert 0.0 < figures[name] < 1e-7  # not compared with itself, and equal
    assert figures["time_over_matmul"] > 0.0
    assert [row["pass"] for row in found["rows"] if "pass" in row][-3:] == [
        "sorted by class",
        "60 removed",
        "4 shards merged",
    ]
