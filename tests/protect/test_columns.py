import pytest
import torch

from learners import make_batch
from nestling.core.batches import Batch
from nestling.core.errors import DataError
from nestling.protect import pack_batch, take_step, unpack_batch


def test_batches_come_back_as_they_were() -> None:
    x, y = make_batch()
    packed = pack_batch(Batch((x, x + 1), {"mask": x > 0}, y))
    batch = unpack_batch({**packed, "logits": x})
    assert torch.equal(batch.inputs[1], x + 1)
    assert len(batch.inputs) == 2
    assert batch.keywords.keys() == {"mask"}
    assert torch.equal(batch.keywords["mask"], x > 0)
    assert batch.target is not None
    assert torch.equal(batch.target, y)


def test_a_batch_without_a_target_is_refused() -> None:
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(DataError, match="no target"):
        take_step(model, optimizer, make_batch()[0])
