"""Models of the transformers library, with their dict batches and outputs, under every method."""

import pytest
import torch
from torch import nn

import nestling as nl
from learners import differences
from nestling.protect import (
    CLSER,
    EWC,
    GEM,
    MAS,
    SI,
    DERpp,
    GDumb,
    LwF,
    Retention,
    estimate_fisher,
    take_step,
)

transformers = pytest.importorskip("transformers")


def make_bert() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=12, num_labels=3,
    )  # fmt: skip
    model: nn.Module = transformers.BertForSequenceClassification(config)
    return model.eval()  # no dropout, so that runs can be compared


def make_batch(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 30, (6, 10), generator=generator)
    mask = (torch.arange(10) < torch.randint(4, 10, (6, 1), generator=generator)).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": ids[:, 0] % 3}


@pytest.mark.parametrize(
    "method",
    [
        EWC(50.0), SI(1.0), MAS(1.0), LwF(1.0), DERpp(12, 0.5, 0.5, 4), GEM(6), CLSER(12, 4),
        GDumb(6, num_epochs=2),
    ],
    ids=lambda method: type(method).__name__,
)  # fmt: skip
def test_dict_batches_and_model_outputs_are_protected(method: Retention) -> None:
    model, twin = make_bert(), make_bert()
    for net, one in ((model, method), (twin, Retention())):
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        for experience in range(2):
            batches = [make_batch(10 * experience + step) for step in range(3)]
            for batch in batches:
                assert not take_step(net, optimizer, batch, [one]).refused
            one.end_experience(net, batches)
    reader = method.find_reader() or model
    assert differences(dict(reader.state_dict()), dict(twin.state_dict())) != []


def test_the_fisher_is_that_of_single_examples() -> None:
    model, batch = make_bert(), make_batch(0)
    found = estimate_fisher(model, [batch])
    total = {name: torch.zeros_like(param) for name, param in model.named_parameters()}
    for row in range(6):
        inputs = {name: value[row : row + 1] for name, value in batch.items()}
        model.zero_grad()
        model(**inputs).loss.backward()
        for name, param in model.named_parameters():
            if param.grad is not None:
                total[name] += param.grad.square() / 6
    for name, value in total.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-8)


def test_a_learner_with_replay_and_a_method_takes_them() -> None:
    plan = nl.Plan(nl.Level("all", match=("*",), optimizer=nl.sgd(lr=0.1)))
    learner = nl.Learner(make_bert(), plan, retain=[EWC(10.0)], replay=12)
    learner.fit([make_batch(step) for step in range(3)])
    learner.fit([make_batch(10 + step) for step in range(3)])
    inputs = {k: v for k, v in make_batch(0).items() if k != "labels"}
    assert learner.predict_proba(inputs).shape == (6, 3)
