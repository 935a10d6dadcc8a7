"""`nestling contract`: drafted, checked and signed, with exit codes 0, 1 and 2."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nestling.cli.main import run_command
from nestling.judge.contract.change_contract import Contract

pytest.importorskip("sklearn")
Run = Callable[..., tuple[int, str, str]]

PLAN = """
readout = "live"

[[level]]
name = "head"
match = ["2.*"]

[[level]]
name = "spine"
match = ["*"]
period = 4
"""
MODEL = """
import torch
from torch import nn

def make_net():
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))

def make_narrow():
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))

def make_frozen():
    net = make_net()
    net[0].requires_grad_(False)
    return net

def make_rows():
    from nestling.judge.probes import ProbeData
    x = torch.eye(2).repeat(20, 1)
    return ProbeData(x, torch.tensor([0, 1] * 20), {"sex": ["f"] * 35 + ["m"] * 5})
"""
CHANGES = """
[[may_change]]
id = "M1"
level = "network"
what = "learns freely"

[[may_change]]
id = "M2"
level = "memory"
what = "learns freely"

[[may_change]]
id = "M3"
level = "concepts"
what = "learns freely"
"""
ROLE = '[[levels]]\nname = "memory"\nrole = "spine"\n'
PROBE = '[[probes]]\nname = "acc"\nmetric = "accuracy"\ndata = "later.csv"\n'
KEPT = f"""name = "members"
{ROLE}{CHANGES}
[must_stay_fixed]
[[must_stay_fixed.behaviour]]
id = "B1"
probe = "acc"
least = 0.7
[must_stay_fixed.interface]
task = "classification"
input_shape = [4]
num_outputs = 2
{PROBE}
"""


def write_people(path: Path, count: int, seed: int) -> None:
    draw = random.Random(seed)
    lines = ["age,job,member,sex"]
    for _ in range(count):
        age, job = draw.uniform(20, 60), draw.choice(["clerk", "smith"])
        member = "yes" if (age > 40) == (job == "clerk") else "no"
        lines.append(f"{age:.1f},{job},{member},{draw.choice(['f', 'm'])}")
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the command has learned once for all tests."""
    folder = tmp_path_factory.mktemp("learned")
    write_people(folder / "later.csv", 200, seed=1)
    # Sex is no input: it stands in the file of the probe only.
    write_people(folder / "people.csv", 400, seed=0)
    lines = (folder / "people.csv").read_text().splitlines()
    (folder / "people.csv").write_text("\n".join(ln.rpartition(",")[0] for ln in lines) + "\n")
    words = [str(folder / "people.csv"), "--target", "member", "--out", str(folder / "run")]
    assert run_command(["learn", *words]) == 0
    return folder


@pytest.fixture
def desk(desk: Path, learned: Path) -> Path:
    shutil.copytree(learned, desk, dirs_exist_ok=True)
    (desk / "two_speeds.toml").write_text(PLAN)
    (desk / "governed_net.py").write_text(MODEL)
    (desk / "c.toml").write_text(KEPT)
    return desk


def read_findings(path: Path) -> dict[tuple[str, str], tuple[str, str]]:
    found = json.loads(path.read_text())["findings"]
    return {(one["clause"], one["view"]): (one["status"], one["message"]) for one in found}


# --- new


def test_new_writes_a_contract_that_the_plan_keeps(nestling: Run, desk: Path) -> None:
    model = ("--model", "governed_net:make_frozen")
    code, out, err = nestling("contract", "new", "two_speeds.toml", "--out", "new.toml", *model)
    assert (code, err) == (0, "")
    assert "new.toml" in out
    contract = Contract.of(desk / "new.toml")
    assert (contract.name, contract.list_spine()) == ("two_speeds", ["spine"])
    assert contract.must_stay_fixed.parameters == ("0.*",)
    code, text, _ = nestling("contract", "new", "two_speeds.toml", "--name", "triage")
    assert (code, Contract.from_toml(text).name) == (0, "triage")
    # What it fixes is not signed yet, which is no pass; signed, all is well.
    words = ("contract", "check", "new.toml", model[1], "--plan", "two_speeds.toml")
    code, out, err = nestling(*words)
    assert (code, err) == (1, "")
    assert "nestling contract sign" in out
    assert nestling("contract", "sign", "new.toml", model[1])[::2] == (0, "")
    code, out, err = nestling(*words, "--json", "found.json")
    assert (code, err) == (0, "")
    assert "contract 'two_speeds' is kept: 3 passed" in out
    assert "note: level 'spine' changes by proposals only" in out
    assert json.loads((desk / "found.json").read_text())["kept"] is True
    assert "# Change contract: what may change" in (desk / "new.toml").read_text()


# --- check of a run


def test_a_run_is_measured_in_every_view(nestling: Run, desk: Path) -> None:
    code, out, err = nestling("contract", "check", "c.toml", "run", "--json", "found.json")
    assert (code, err) == (0, ""), out
    found = read_findings(desk / "found.json")
    assert found["B1", "whole"][0] == found["B1", "spine"][0] == "passed"
    assert "200 rows" in found["B1", "whole"][1]
    assert found["interface", ""][0] == "passed"
    assert "contract 'members' is kept" in out


@pytest.mark.parametrize(
    ("old", "new", "clause", "status", "said"),
    [
        ("least = 0.7", "least = 0.999", ("B1", "whole"), "failed", "is below 0.999"),
        ("least = 0.7", "fall = 0.1", ("B1", "whole"), "not judged", "validate the version"),
        ("[4]", "[5]", ("interface", ""), "failed", "inputs of the shape (5,) are refused"),
        ("num_outputs = 2", "num_outputs = 3", ("interface", ""), "failed", "num_outputs is 2"),
        (
            'learns freely"\n\n[[may_change]]\nid = "M2"',
            'learns slowly"\nsince_validation = 0.0001\n\n[[may_change]]\nid = "M2"',
            ("M1", ""),
            "failed",
            "since validation, at most 0.0001",
        ),
        (
            '[[probes]]\nname = "acc"',
            '[protocol]\nleast_examples = 500\n[[probes]]\nname = "acc"',
            ("B1", "spine"),
            "not judged",
            "500",
        ),
        (
            "[[probes]]",
            '[[reviews]]\nby = "Ada"\non = 2020-01-01\nuntil = 2020-12-31\n[[probes]]',
            ("reviews", ""),
            "failed",
            "the last review, by Ada, ended 2020-12-31",
        ),
    ],
)
def test_what_fails_or_cannot_be_judged_gives_exit_code_1(
    nestling: Run,
    desk: Path,
    old: str,
    new: str,
    clause: tuple[str, str],
    status: str,
    said: str,
) -> None:
    (desk / "c.toml").write_text(KEPT.replace(old, new, 1))
    code, out, err = nestling("contract", "check", "c.toml", "run", "--json", "found.json")
    assert (code, err) == (1, "")
    found = read_findings(desk / "found.json")[clause]
    assert found[0] == status
    assert said in found[1]
    assert "is not kept: 1 " in out or "is not kept: 2 " in out


def test_groups_of_a_file_are_compared_and_a_group_too_small_is_said(
    nestling: Run, desk: Path
) -> None:
    gap = KEPT.replace(
        'metric = "accuracy"',
        'metric = "false_negative_gap"\ngroups = ["sex"]\nsettings = { positive = "yes" }',
    ).replace("least = 0.7", "most = 0.5")
    (desk / "c.toml").write_text(gap)
    code, out, err = nestling("contract", "check", "c.toml", "run")
    assert (code, err) == (0, ""), out
    lines = (desk / "later.csv").read_text().splitlines()
    few = [line for line in lines if not line.endswith(",m")]
    few += [line for line in lines if line.endswith(",m")][:7]
    (desk / "later.csv").write_text("\n".join(few) + "\n")
    code, out, err = nestling("contract", "check", "c.toml", "run", "--json", "found.json")
    assert (code, err) == (1, "")
    status, message = read_findings(desk / "found.json")["B1", "whole"]
    assert status == "not judged"
    assert "sex=m" in message


def test_a_run_that_a_person_validated_is_compared_with_that_version(
    nestling: Run, desk: Path
) -> None:
    flips = (
        KEPT.replace("least = 0.7", "fall = 0.0")
        + """
[[must_stay_fixed.behaviour]]
id = "B2"
probe = "flips"
most = 0.0
views = "whole"

[[probes]]
name = "flips"
metric = "negative_flip_rate"
data = "later.csv"
"""
    )
    flips = flips.replace('what = "learns freely"\n', 'what = "x"\nsince_validation = 1e-9\n', 1)
    (desk / "c.toml").write_text(flips)
    words = ("contract", "check", "c.toml", "run", "--json", "found.json")
    code, out, err = nestling(*words)
    assert (code, err) == (1, ""), out
    before = read_findings(desk / "found.json")
    assert before["B1", "whole"][0] == "not judged"
    assert before["M1", ""][0] == "failed"
    assert nestling("validate", "run", "--by", "Ada")[::2] == (0, "")
    code, out, err = nestling(*words)
    assert (code, err) == (0, ""), out
    after = read_findings(desk / "found.json")
    assert "fall 0" in after["B1", "spine"][1]
    assert "flips = 0" in after["B2", "whole"][1]
    assert "changed by 0 since validation" in after["M1", ""][1]


def test_values_are_judged_in_the_units_of_the_file(nestling: Run, desk: Path) -> None:
    draw = random.Random(0)
    rows = [draw.gauss(0, 1) for _ in range(200)]
    lines = [f"{size},{200_000 + 30_000 * size + draw.gauss(0, 2_000)}" for size in rows]
    (desk / "houses.csv").write_text("\n".join(["size,price", *lines]) + "\n")
    assert nestling("learn", "houses.csv", "--target", "price", "--out", "houses")[0] == 0
    behaviour = """
[[must_stay_fixed.behaviour]]
id = "B1"
probe = "off"
most = {most}
views = "whole"

[[probes]]
name = "off"
metric = "mean_absolute_error"
data = "held-out.csv"

[[probes]]
name = "fit"
metric = "r_squared"
data = "held-out.csv"

[must_stay_fixed.interface]
task = "regression"
"""
    text = f'name = "houses"\n{CHANGES}' + behaviour
    for most, expected in ((20_000, 0), (500, 1)):
        (desk / "h.toml").write_text(text.replace("{most}", str(most)))
        code, out, err = nestling("contract", "check", "h.toml", "houses", "--json", "found.json")
        assert (code, err) == (expected, ""), out
    # Of a standard deviation of 30,000 with a noise of 2,000.
    figures = json.loads((desk / "found.json").read_text())["findings"]
    (value,) = [one["figures"]["value"] for one in figures if one["clause"] == "B1"]
    assert 1_000 < value < 15_000


def test_a_head_that_has_grown_since_is_zero_where_it_was_not(nestling: Run, desk: Path) -> None:
    job = 'model = "governed_net:make_narrow"\nplan = "two_speeds.toml"\nout = "grown"\n'
    job += 'data = { train = ["a.csv", "b.csv"], test = "test.csv" }\n'
    (desk / "job.toml").write_text(job)
    assert nestling("learn", "job.toml")[::2] == (0, "")
    text = 'name = "grown"\n[[levels]]\nname = "spine"\nrole = "spine"\n'
    for number, level in enumerate(("head", "spine")):
        text += f'[[may_change]]\nid = "M{number}"\nlevel = "{level}"\nwhat = "drift"\n'
    text += '[[must_stay_fixed.behaviour]]\nid = "B1"\nprobe = "acc"\nleast = 0.0\n'
    text += '[[probes]]\nname = "acc"\nmetric = "accuracy"\ndata = "test.csv"\n'
    (desk / "g.toml").write_text(text)
    code, out, err = nestling("contract", "check", "g.toml", "grown")
    assert (code, err) == (0, ""), out
    assert "spine" in out


def test_a_duty_by_its_day(nestling: Run, desk: Path) -> None:
    duty = """
[[must_change_by]]
id = "H1"
harm = "members are missed"
probe = "acc"
level = "memory"
by = 2027-06-30
least = 0.999
views = "whole"
"""
    (desk / "c.toml").write_text(KEPT + duty)
    words = ("contract", "check", "c.toml", "run", "--json", "found.json", "--on")
    code, out, _ = nestling(*words, "2027-06-29")
    assert code == 0
    assert "1 day left" in " ".join(out.split())
    duties = json.loads((desk / "found.json").read_text())["duties"]
    assert [(one["id"], one["state"], one["days_left"]) for one in duties] == [("H1", "open", 1)]
    assert nestling(*words, "2027-07-01")[0] == 1
    assert "level 'memory' freezes" in read_findings(desk / "found.json")["H1", "whole"][1]


def test_one_bit_of_what_is_fixed_is_found_and_named(
    nestling: Run, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = 'name = "frozen"\n[[may_change]]\nid = "M1"\nlevel = "head"\nwhat = "drift"\n'
    fixed += '[[may_change]]\nid = "M2"\nlevel = "spine"\nwhat = "drift"\n'
    fixed += '[must_stay_fixed]\nparameters = ["0.*"]  # as measured in the study\n'
    (desk / "f.toml").write_text(fixed)
    model = "governed_net:make_frozen"
    words = ("contract", "check", "f.toml", model, "--plan", "two_speeds.toml")
    code, out, _ = nestling("contract", "sign", "f.toml", model)
    assert code == 0
    assert "signed: 2 parameters and buffers" in out
    assert "# as measured in the study" in (desk / "f.toml").read_text()
    assert nestling(*words)[0] == 0
    import governed_net

    make = governed_net.make_frozen

    def make_changed() -> torch.nn.Module:
        net = make()
        with torch.no_grad():  # one unit in the last place
            flat = net[0].bias.data.view(torch.int32)
            flat[3] += 1
        return net

    monkeypatch.setattr(governed_net, "make_frozen", make_changed)
    code, out, _ = nestling(*words, "--json", "found.json")
    assert code == 1
    status, message = read_findings(desk / "found.json")["parameters", ""]
    assert status == "failed"
    assert "'0.bias' (changed) must stay bit for bit" in message


def test_a_model_is_measured_by_a_function_of_data(nestling: Run, desk: Path) -> None:
    plain = 'name = "rows"\n[[may_change]]\nid = "M1"\nlevel = "head"\nwhat = "drift"\n'
    plain += '[[may_change]]\nid = "M2"\nlevel = "spine"\nwhat = "drift"\n'
    plain += '[[must_stay_fixed.behaviour]]\nid = "B1"\nprobe = "acc"\nfall = 0.0\nviews="whole"\n'
    plain += '[[probes]]\nname = "acc"\nmetric = "accuracy"\ndata = "governed_net:make_rows"\n'
    (desk / "r.toml").write_text(plain)
    words = ("contract", "check", "r.toml", "governed_net:make_net", "--plan", "two_speeds.toml")
    code, out, err = nestling(*words)
    assert (code, err) == (0, ""), out
    assert "40 rows" in out


# --- wrong input


@pytest.mark.parametrize(
    ("text", "args", "said"),
    [
        (KEPT, ("check", "gone.toml", "run"), "cannot read contract 'gone.toml'"),
        (KEPT, ("check", "c.toml", "gone"), "'gone' is no folder of a run and no model"),
        (KEPT, ("check", "c.toml", "run", "--plan", "two_speeds.toml"), "--plan goes with a model"),
        (KEPT, ("check", "c.toml", "run", "--on", "tomorrow"), "--on"),
        (KEPT, ("check", "c.toml", "."), "no run in"),
        (KEPT, ("check", "c.toml", "governed_net:gone"), "no function 'gone'"),
        (KEPT, ("check", "c.toml"), "MODEL|RUN"),
        (KEPT, ("sign", "c.toml", "run"), "fixes no parameters"),
        (KEPT, ("new", "gone.toml"), "gone.toml"),
        (KEPT, ("new", "two_speeds.toml", "--out", "c.toml"), "'c.toml' is there already"),
        (KEPT, ("new", "two_speeds.toml", "--name", "1 a"), "a name of letters"),
        (KEPT, ("nwe",), "did you mean 'new'"),
        ("name = ", ("check", "c.toml", "run"), "is not TOML"),
        (KEPT.replace('probe = "acc"', 'probe = "acx"'), ("check", "c.toml", "run"), "'acx'"),
        (
            KEPT.replace('level = "network"', 'level = "netwrk"'),
            ("check", "c.toml", "run"),
            "did you mean 'network'",
        ),
        (
            KEPT.replace("[must_stay_fixed]\n", '[must_stay_fixed]\nparameters = ["nrom"]\n'),
            ("check", "c.toml", "run"),
            "'nrom' match nothing",
        ),
        (
            KEPT.replace('metric = "accuracy"', 'metric = "acuracy"'),
            ("check", "c.toml", "run"),
            "did you mean 'accuracy'",
        ),
        (KEPT.replace("later.csv", "lter.csv"), ("check", "c.toml", "run"), "no file"),
        (
            KEPT.replace('metric = "accuracy"', 'metric = "accuracy"\nslices = {a = {sex = "x"}}'),
            ("check", "c.toml", "run"),
            "slice 'a' has no rows",
        ),
        (
            KEPT.replace(CHANGES, CHANGES + "approvals = 2\n"),
            ("check", "c.toml", "run"),
            "trigger = 'proposal' works",
        ),
        (
            KEPT,
            ("check", "c.toml", "governed_net:make_net"),
            "only a run that learned columns of a table can read",
        ),
    ],
)
def test_wrong_input_is_one_line(
    nestling: Run, desk: Path, text: str, args: tuple[str, ...], said: str
) -> None:
    (desk / "c.toml").write_text(text)
    code, out, err = nestling("contract", *args)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert (desk / "c.toml").read_text() == text
