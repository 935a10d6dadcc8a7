"""A plan suggested on the command line, from measuring to learning with it."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import nestling as nl

Run = Callable[..., tuple[int, str, str]]
NET = "desk_net:make_net"


def test_the_plan_that_is_written_is_shown_and_learned_with(nestling: Run, desk: Path) -> None:
    code, out, err = nestling(
        *("plan", "suggest", NET, "test.csv", "--out", "made/best.toml", "--json", "made/best.json")
    )
    assert (code, err) == (0, "")
    assert "nl.Plan.load" in out
    said = json.loads((desk / "made" / "best.json").read_text())
    plan = nl.Plan.load(desk / "made" / "best.toml")
    assert plan == nl.Plan.from_toml(said["plan"])
    # Every level has its reasons on the page, with the scores that were measured.
    for level in plan.levels:
        assert f"\n{level.name}\n" in out
    for reason in said["reasons"]:
        assert f"{reason['choice']} = {reason['value']}: {reason['reason']}" in out
    assert f"{said['linearity']['input_random']:.3f}" in out
    assert [row["block"] for row in said["blocks"]] == ["0", "2"]
    assert [row["weights"] for row in said["blocks"]] == [24, 27]

    assert nestling("plan", "show", NET, "--plan", "made/best.toml")[0] == 0
    (desk / "job.toml").write_text(
        f'model = "{NET}"\ndata = {{ train = "test.csv", test = "test.csv" }}\n'
        'out = "run"\nplan = "made/best.toml"\nepochs = 2\nnum_threads = 1\n'
    )
    code, out, err = nestling("learn", "job.toml")
    assert code == 0, err


def test_without_a_file_the_plan_is_printed(nestling: Run, desk: Path) -> None:
    before = sorted(path.name for path in desk.iterdir())
    code, out, _ = nestling("plan", "suggest", NET, "test.csv", "--seed", "1", "--examples", "40")
    assert code == 0
    toml = out[out.index("# stacking") : out.index("--out plan.toml")]
    assert nl.Plan.from_toml(toml).memories
    assert "of all 72 examples" in out
    left = {path.name for path in desk.iterdir()} - {"__pycache__"}
    assert left == set(before) - {"__pycache__"}


def test_data_come_from_files_names_and_functions(nestling: Run, desk: Path) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 2)).astype(np.float32)
    np.savez(desk / "a.npz", x=x, kind=(x[:, 0] > 0).astype(np.int64))
    (desk / "desk_data.py").write_text(
        "import torch\nfrom nestling.data import Experience\n"
        "def make():\n"
        "    x = torch.arange(60.0).reshape(30, 2).sin()\n"
        "    y = (x[:, 0] > 0).long()\n"
        "    return [Experience(n, (x, y), (x, y), (0, 1)) for n in 'ab']\n"
    )
    assert nestling("plan", "suggest", NET, "a.npz", "--target", "kind")[0] == 0
    code, out, err = nestling("plan", "suggest", NET, "desk_data:make")
    assert (code, err) == (0, "")
    assert "of all 60 examples" in out
    code, out, _ = nestling(
        *("plan", "suggest", "mlp", "digits", "--options", '{"sizes": [64, 16, 10]}'),
        *("--examples", "200"),
    )
    assert code == 0
    assert "1258 examples of 10 classes" in out


def test_of_a_language_model_it_says_what_to_stack(nestling: Run, desk: Path) -> None:
    """Sequences with habits of their own and a model that only knows even noise: writes pay."""
    (desk / "desk_words.py").write_text(
        "import torch\nfrom torch import nn\n"
        "from nestling.data import Experience\nfrom nestling.models import gpt_blocks\n"
        "def make_net():\n"
        "    torch.manual_seed(0)\n"
        "    net = nn.Sequential(nn.Embedding(9, 8), gpt_blocks(1, 8, 2), nn.Linear(8, 9))\n"
        "    nn.init.normal_(net[2].weight, std=0.02)\n"
        "    return net\n"
        "def make():\n"
        "    g = torch.Generator().manual_seed(0)\n"
        "    shares = (3 * torch.randn(16, 9, generator=g)).softmax(-1)\n"
        "    x = torch.multinomial(shares, 64, replacement=True, generator=g)\n"
        "    y = torch.zeros(16, dtype=torch.long)\n"
        "    return [Experience(0, (x, y), (x, y), (0, 1))]\n"
    )
    words = ("plan", "suggest", "desk_words:make_net", "desk_words:make")
    code, out, err = nestling(*words, "--out", "p.toml", "--json", "p.json")
    assert (code, err) == (0, "")
    said = json.loads((desk / "p.json").read_text())
    (block,) = said["stacking"]["blocks"]
    assert block["pattern"] == "1.0.out.*"
    assert block["gain"] > 2 * block["gain_error"]
    assert f"1.0.out.* = {block['chunk']} tokens: gradients of a chunk" in out
    assert f"at test time: {said['stacking']['call']}" in out
    text = (desk / "p.toml").read_text()
    assert f"# at test time: {said['stacking']['call']}\n" in text
    assert [one.name for one in nl.Plan.from_toml(text).levels] == ["network"]
    assert said["linearity"] is None


def test_of_a_plain_network_it_says_why_nothing_is_stacked(nestling: Run, desk: Path) -> None:
    code, out, _ = nestling("plan", "suggest", NET, "test.csv", "--out", "p.toml")
    assert code == 0
    said = "blocks = none: the inputs are torch.float32"
    assert said in out
    assert f"# stacking: {said}" in (desk / "p.toml").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((NET, "tset.csv"), "did you mean 'test.csv'"),
        ((NET, "digitz"), "did you mean 'digits'"),
        ((NET, "test.csv", "--target", "lable"), "did you mean 'label'"),
        ((NET, "b.csv"), "class 2"),
        ((NET, "few.csv"), "6 examples"),
        ((NET, "hole.csv"), "inf in line 42"),
        ((NET, "wide.csv"), "cannot take"),
        ((NET, "desk_net:make_list"), "Experience"),
        (("desk_net:make_nt", "test.csv"), "did you mean 'make_net'"),
        (("desk_net:make_list", "test.csv"), "list"),
        ((NET, "test.csv", "--options", "{"), "not JSON"),
        ((NET, "test.csv", "--examples", "5"), "20"),
    ],
)
def test_wrong_input_is_one_line(
    nestling: Run, desk: Path, words: tuple[str, ...], said: str
) -> None:
    head = "u,v,label\n"
    (desk / "few.csv").write_text(head + "0,1,0\n1,0,1\n" * 3)
    (desk / "hole.csv").write_text(head + "0,1,0\n1,0,1\n" * 20 + f"{math.inf},1,0\n")
    (desk / "wide.csv").write_text("t," + head + "0,0,1,0\n1,1,0,1\n" * 20)
    code, out, err = nestling("plan", "suggest", *words, "--out", "never.toml")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert not (desk / "never.toml").exists()
