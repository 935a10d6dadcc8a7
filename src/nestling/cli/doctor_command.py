"""`nestling doctor`: find what is broken in a nested model, its plan or an optimizer."""

import inspect
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nestling.cli.output import json_option, read_options, show_status, show_table, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from nestling.doctor import Examination
    from nestling.doctor.examined_model import Examinable

_MARKS = {"ok": "ok", "failed": "FAILED", "not examined": "not examined"}


@click.command()
@click.argument("subject", metavar="MODEL|PLAN.toml", required=False)
@click.option("--plan", "plan_file", type=click.Path(path_type=Path), help="By which MODEL learns.")
@click.option("--model", help="Of PLAN.toml: a built-in name or module:function.")
@click.option("--options", help="Options of the model, as a JSON object.")
@click.option("--inputs", help="module:function that returns inputs, or (inputs, labels).")
@click.option("--shape", help="Shape of random inputs, samples first, e.g. 4,64,32.")
@click.option("--tokens", type=click.IntRange(min=2), help="Inputs are tokens of a vocabulary.")
@click.option("--optimizer", help="module:function from parameters to an optimizer to examine.")
@click.option("--not-causal", is_flag=True, help="The model may see later tokens.")
@click.option("--steps", type=click.IntRange(min=2), help="Of the run; by default up to 100.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@json_option
def doctor(
    subject: str | None,
    plan_file: Path | None,
    model: str | None,
    options: str | None,
    inputs: str | None,
    shape: str | None,
    tokens: int | None,
    optimizer: str | None,
    not_causal: bool,
    steps: int | None,
    seed: int,
    json_file: Path | None,
) -> int:
    """Examine MODEL, or the model of a plan: periods, leaks, write rules, eval(), checkpoints.

    MODEL is a built-in name or module:function. It is copied, never changed. Inputs are guessed
    from its first layer unless --inputs or --shape is given. The exit code is 0 if no check fails,
    1 if one does; what could not be examined is said, and is no pass.

    \b
    Example:
      nestling doctor mlp --options '{"sizes": [64, 128, 10]}' --plan plan.toml
      nestling doctor plan.toml --model my_models:make_net --shape 4,64,32
      nestling doctor my_models:make_lm --shape 4,64 --tokens 256 --json doctor.json
      nestling doctor --optimizer my_optimizers:make_muon
    """
    from nestling.core.imports import import_function
    from nestling.doctor import examine
    from nestling.models.build import build_subject

    if subject is not None and subject.endswith(".toml"):
        if plan_file is not None:
            raise click.BadParameter(f"two plans, {subject} and {plan_file}; give one")
        if model is None:
            raise click.BadParameter(f"whose plan is {subject}? give --model as well")
        plan_file = Path(subject)
    elif subject is not None:
        if model is not None:
            raise click.BadParameter(f"two models, {subject} and {model}; give one")
        model = subject
    if model is None and optimizer is None:
        raise click.BadParameter("name a MODEL, a PLAN.toml with --model, or an --optimizer")
    rule = None if optimizer is None else import_function(optimizer)
    net, periods, make = None, {}, None
    x, labels = None, None
    if model is not None:
        given = read_options(options)
        net = build_subject(model, given, seed=seed)
        x, labels = _read_inputs(inputs, shape, tokens, seed, net)
        periods = _find_period_options(model, given)
        make = partial(_remake, model, given, seed)
    with show_status("examining"):
        report = examine(
            net,
            plan_file,
            inputs=x,
            labels=labels,
            optimizer=rule,  # type: ignore[arg-type]  # what it makes is checked
            make=make,
            options=periods,
            causal=not not_causal,
            steps=steps,
            seed=seed,
        )
    _show(report)
    if json_file is not None:
        write_json(json_file, report.to_data())
    return 0 if report.is_healthy else 1


def _show(report: "Examination") -> None:
    """The levels as a table, a line per check, a line that counts them."""
    from dataclasses import asdict

    from nestling.bench.table import build_table

    if report.levels:
        rows = [
            {name.replace("_", " "): value for name, value in asdict(row).items()}
            for row in report.levels
        ]
        show_table(build_table(rows, title=f"{report.steps} optimizer steps on a copy"))
    for check in report.checks:
        click.echo(f"{_MARKS[check.outcome]:12}  {check.name}: {check.subject}: {check.finding}")
    counts = Counter[str](check.outcome for check in report.checks)
    click.echo(", ".join(f"{counts[outcome]} {outcome}" for outcome in _MARKS))


def _read_inputs(
    source: str | None, shape: str | None, tokens: int | None, seed: int, model: "Examinable"
) -> "tuple[Tensor | None, Tensor | None]":
    """Inputs and labels as asked; None where they are to be guessed."""
    from torch import Tensor

    from nestling.core.errors import DataError
    from nestling.core.imports import import_function
    from nestling.doctor import make_inputs
    from nestling.models import StackedLevels

    if source is not None:
        if shape is not None or tokens is not None:
            raise click.BadParameter("--inputs gives the inputs; leave out --shape and --tokens")
        function = import_function(source)
        try:
            found = function()
        except Exception as error:
            raise DataError(
                f"--inputs {source!r} raised {type(error).__name__}: {error}"
            ) from error
        x, labels = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
        if not isinstance(x, Tensor) or not isinstance(labels, Tensor | None):
            raise DataError(f"--inputs {source!r} returned {type(x).__name__}; a tensor works")
        return x, labels
    if shape is None:
        if tokens is not None:
            raise click.BadParameter("--tokens needs a --shape, e.g. --shape 4,64 --tokens 256")
        return None, None
    try:
        sides = [int(side) for side in shape.split(",")]
    except ValueError:
        raise click.BadParameter(f"--shape {shape!r}; write e.g. 4,64,32") from None
    x = make_inputs(sides, tokens=tokens, seed=seed)
    module = model.model if isinstance(model, StackedLevels) else model
    like = next((p for p in module.parameters() if p.is_floating_point()), None)
    if like is not None:
        x = x.to(like.device) if tokens else x.to(like)
    return x, None


def _find_period_options(source: str, given: dict[str, object]) -> dict[str, object]:
    """Options of the user's function that are periods, with the value in force."""
    from nestling.core.imports import import_function
    from nestling.doctor import is_period

    if ":" not in source:
        return {}
    try:
        parameters = inspect.signature(import_function(source)).parameters
    except (TypeError, ValueError):  # some functions written in C have no signature
        return {}
    held = {name: parameter.default for name, parameter in parameters.items()} | given
    return {name: value for name, value in held.items() if is_period(name)}


def _remake(source: str, given: dict[str, object], seed: int, **changed: object) -> "Examinable":
    """The model with some options changed."""
    from nestling.models.build import build_subject

    return build_subject(source, {**given, **changed}, seed=seed)
