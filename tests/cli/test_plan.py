"""Plans shown and checked."""

import json
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., tuple[int, str, str]]


def test_show_names_every_level_with_its_share(nestling: Run, desk: Path) -> None:
    code, out, err = nestling(
        "plan", "show", "desk_net:make_net", "--plan", "plan.toml", "--json", "out/plan.json"
    )
    assert (code, err) == (0, "")
    head, spine, slow = json.loads((desk / "out" / "plan.json").read_text())["levels"]
    assert (head["level"], head["parameters"], head["share"]) == ("head", 27, "52.9%")
    assert (head["optimizer"], head["gate"]) == ("adamw, lr 0.01", "surprise")
    assert (spine["parameters"], spine["period"]) == (24, 8)
    assert (slow["kind"], slow["parameters"]) == ("copy", 51)
    assert all(name in out for name in ("head", "spine", "slow", "surprise", "52.9%"))
    assert "answers: slow" in out


def test_show_takes_options_of_the_model(nestling: Run) -> None:
    _, out, _ = nestling(
        *("plan", "show", "desk_net:make_net", "--plan", "plan.toml"),
        *("--options", '{"width": 4}'),
    )
    assert " 15 " in out


def test_show_of_a_plan_alone_says_where_the_plan_goes(nestling: Run) -> None:
    code, out, err = nestling("plan", "show", "plan.toml")
    assert (code, out) == (2, "")
    assert "write nestling plan show MODEL --plan plan.toml" in err


def test_show_says_what_sleeps(nestling: Run, desk: Path) -> None:
    text = (desk / "plan.toml").read_text()
    text += '[[level]]\nkind = "memory"\nname = "m"\non = "input"\n'
    (desk / "asleep.toml").write_text(text + '[[level]]\nkind = "sleep"\nname = "s"\nof = "m"\n')
    code, out, _ = nestling("plan", "show", "desk_net:make_net", "--plan", "asleep.toml", "--toml")
    assert code == 0
    assert 'of = "m"' in out
    code, out, _ = nestling("plan", "show", "desk_net:make_net", "--plan", "asleep.toml")
    assert "what m knows" in " ".join(out.replace("│", " ").replace("\n", " ").split())
    (desk / "wrong.toml").write_text(text + '[[level]]\nkind = "sleep"\nname = "s"\nof = "n"\n')
    code, _, err = nestling("plan", "check", "wrong.toml", "--model", "desk_net:make_net")
    assert (code, err.count("\n")) == (2, 1)
    assert "sleep 's' of 'n'" in err


def test_show_and_check_say_which_rule_a_copy_has(nestling: Run, desk: Path) -> None:
    text = (desk / "plan.toml").read_text()
    text += '[[level]]\nkind = "copy"\nname = "outer"\nof = ["spine"]\nperiod = 5\n'
    rule = 'rule = { kind = "outer_nesterov", lr = 0.5 }\n'
    (desk / "outer.toml").write_text(text + rule)
    code, out, _ = nestling("plan", "show", "desk_net:make_net", "--plan", "outer.toml")
    assert code == 0
    said = " ".join(out.replace("│", " ").replace("\n", " ").split())
    assert "outer nesterov, lr 0.5," in said
    code, _, _ = nestling(
        *("plan", "check", "outer.toml", "--model", "desk_net:make_net"),
        *("--json", "out/outer.json"),
    )
    assert code == 0
    (*_, outer) = json.loads((desk / "out" / "outer.json").read_text())["levels"]
    how = "copy of spine, outer nesterov, lr 0.5, momentum 0.9, writes back"
    assert (outer["optimizer"], outer["period"]) == (how, 5)
    code, out, _ = nestling("plan", "show", "desk_net:make_net", "--plan", "outer.toml", "--toml")
    assert 'kind = "outer_nesterov"' in out
    for wrong, hint in (
        ('rule = { kind = "outer_nestrov" }\n', "outer_nesterov"),
        ('rule = { kind = "lookahead", rate = 2 }\n', "rate: a number of 1 or less works, got 2"),
        (rule + "decay = 0.5\n", "decay=0.5 is for an average"),
        ("rule = { lr = 0.5 }\n", "kind"),
    ):
        (desk / "wrong.toml").write_text(text + wrong)
        code, _, err = nestling("plan", "check", "wrong.toml")
        assert (code, err.count("\n")) == (2, 1)
        assert hint in err


def test_show_says_what_is_watched(nestling: Run, desk: Path) -> None:
    text = (desk / "plan.toml").read_text() + '[[level]]\nkind = "watch"\nname = "w"\n'
    (desk / "watched.toml").write_text(text)
    code, out, _ = nestling("plan", "show", "desk_net:make_net", "--plan", "watched.toml")
    assert code == 0
    assert "adwin on the error" in " ".join(out.replace("│", " ").replace("\n", " ").split())
    (desk / "wrong.toml").write_text(text + "settings = { delta = 2.0 }\n")
    code, _, err = nestling("plan", "check", "wrong.toml", "--model", "desk_net:make_net")
    assert (code, err.count("\n")) == (2, 1)
    assert "watch 'w': ADWIN delta: a number less than 1 works, got 2.0" in err


def test_the_toml_that_show_prints_is_a_plan(nestling: Run, desk: Path) -> None:
    _, out, _ = nestling("plan", "show", "desk_net:make_net", "--plan", "plan.toml", "--toml")
    (desk / "again.toml").write_text(out)
    code, said, _ = nestling("plan", "check", "again.toml", "--model", "desk_net:make_net")
    assert (code, said) == (0, "again.toml: 3 levels, fits desk_net:make_net: ok\n")


def test_show_has_a_default(nestling: Run) -> None:
    code, out, err = nestling("plan", "show", "desk_net:make_net")
    assert (code, err) == (0, "")
    assert "adamw" in out or "sgd" in out


def test_a_plan_that_does_not_fit_is_refused_by_name(nestling: Run, desk: Path) -> None:
    text = (desk / "plan.toml").read_text()
    for wrong, said in (
        (text.replace('"2.*"', '"3.*"'), "pattern '3.*'"),
        (text.replace('["*"]', '["0.weight"]'), "'0.bias'"),
        (text.replace("period = 8", "period = 0"), "period"),
        (text.replace("period = 8", "perod = 8"), "perod"),
        (text.replace('readout = "slow"', 'readout = "slwo"'), "did you mean 'slow'"),
        (text + '[[level]]\nkind = "memory"\nname = "m"\non = "1x"\n', "did you mean '1'"),
    ):
        (desk / "wrong.toml").write_text(wrong)
        code, out, err = nestling("plan", "check", "wrong.toml", "--model", "desk_net:make_net")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert said in err
