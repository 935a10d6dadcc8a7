"""A person's gate: each answer over all classes, and who is believed."""

import torch
from torch import Tensor

from nestling.learn.personal.own_gate import OwnGate, Voices, share_classes
from nestling.memory.prequential import Foresight


def draw_rows(num: int, num_classes: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, num_classes, generator=generator).double().softmax(dim=1)


def test_rows_sum_to_one_whoever_knows_what() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        taught, known = (torch.rand(6, generator=generator) < 0.5 for _ in range(2))
        taught[0], known[1] = True, True
        own, common = draw_rows(7, 6, 1) * taught, draw_rows(7, 6, 2) * known
        own, common = (one / one.sum(dim=1, keepdim=True) for one in (own, common))
        inside = torch.rand(7, 1, generator=generator).double()
        refuted = 3.0 * torch.rand(6, generator=generator).double()
        for answer in share_classes(own, common, taught, known, inside, refuted):
            assert torch.allclose(answer.sum(dim=1), torch.ones(7).double())
            assert bool((answer[:, ~(taught | known)] == 0.0).all())


def test_far_from_her_experience_a_new_class_takes_nothing() -> None:
    taught, known = torch.tensor([False, False, True]), torch.tensor([True, True, False])
    own, common = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.7, 0.3, 0.0]])
    _, theirs = share_classes(own, common, taught, known, torch.zeros(1, 1), torch.zeros(3))
    assert torch.equal(theirs, common)


def make_voices(own_label: int, common_label: int, novelty: float) -> Voices:
    own, common = (
        torch.full((1, 3), 0.1).double().index_fill(1, torch.tensor([label]), 0.8)
        for label in (own_label, common_label)
    )
    every = torch.ones(3, dtype=torch.bool)
    found = Foresight(own, every, torch.tensor([novelty]).double(), 300.0)
    return Voices.join(found, common, every, None, torch.zeros(3).double())


def test_who_is_right_about_familiar_inputs_is_believed_there() -> None:
    gate = OwnGate(1e-3, 3, has_adapter=False)
    assert gate.weights["common"] > 0.8
    for _ in range(60):
        gate.observe(make_voices(1, 0, 0.0), torch.tensor([1]))
    assert gate.weights["memory"] > 0.8
    assert int(gate.mix(make_voices(1, 0, 0.0)).argmax()) == 1
    assert int(gate.mix(make_voices(1, 0, 9.0)).argmax()) == 0
    assert gate.read().num_updates == 60


def test_a_class_that_the_memory_never_saw_says_nothing() -> None:
    gate = OwnGate(1e-3, 3, has_adapter=False)
    voices = make_voices(1, 2, 0.0)
    voices.known[2] = False
    was = gate.weights
    gate.observe(voices, torch.tensor([2]))
    assert gate.weights == was
    assert gate.mixture.num_heard == 1


def test_a_class_expected_in_vain_gives_way_to_what_she_means() -> None:
    """She calls class 0 by the name of class 1, and never says 0."""
    gate, taught = OwnGate(1e-3, 3, has_adapter=False), torch.tensor([False, True, True])
    own, common = torch.tensor([[0.0, 0.9, 0.1]]).double(), torch.tensor([[0.9, 0.05, 0.05]])

    def ask(novelty: float) -> Voices:
        found = Foresight(own, taught, torch.tensor([novelty]).double(), 300.0)
        known = torch.ones(3, dtype=torch.bool)
        return Voices.join(found, common.double(), known, None, gate.refuted)

    assert int(gate.mix(ask(0.0)).argmax()) == 0
    for _ in range(30):
        gate.observe(ask(0.0), torch.tensor([1]))
    assert int(gate.mix(ask(0.0)).argmax()) == 1
    assert int(gate.mix(ask(9.0)).argmax()) == 0  # elsewhere it means what it meant
    twin = OwnGate(1e-3, 3, has_adapter=False)
    twin.load_state_dict(gate.state_dict())
    assert torch.equal(twin.mix(ask(0.0)), gate.mix(ask(0.0)))
