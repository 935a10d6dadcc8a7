"""`nestling plan`: show what a plan means for a model, check it, or suggest one."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nestling.cli.output import (
    Commands,
    json_option,
    read_options,
    show_progress,
    show_table,
    write_json,
)

if TYPE_CHECKING:
    from torch import nn

    from nestling.jobs.suggest import Measurements, Reason
    from nestling.levels import Plan

options_option = click.option("--options", help="Options of the model, as a JSON object.")


@click.group(cls=Commands)
def plan() -> None:
    """Show, check or suggest which parameters learn how fast.

    \b
    Example:
      nestling plan show mlp --options '{"sizes": [64, 128, 10]}'
    """


@plan.command()
@click.argument("model")
@click.option("--plan", "plan_file", type=click.Path(path_type=Path), help="By default ours.")
@options_option
@click.option("--pretrained", is_flag=True, help="Our default for a model with good features.")
@click.option("--replay", type=click.IntRange(min=0), default=0, help="Our default with replay.")
@click.option("--toml", is_flag=True, help="Print the plan as TOML, to start your own from.")
@json_option
def show(
    model: str,
    plan_file: Path | None,
    options: str | None,
    pretrained: bool,
    replay: int,
    toml: bool,
    json_file: Path | None,
) -> None:
    """A table of the levels that a plan gives MODEL: a built-in name or module:function.

    \b
    Example:
      nestling plan show my_models:make_net
      nestling plan show mlp --options '{"sizes": [64, 10]}' --plan plan.toml
    """
    from nestling.bench.table import build_table
    from nestling.learn.default import make_default_plan
    from nestling.levels import Plan
    from nestling.models import build_model

    if model.endswith(".toml"):
        raise click.BadParameter(
            f"{model} is a plan; write nestling plan show MODEL --plan {model}"
        )
    net = build_model(model, read_options(options))
    if plan_file is not None:
        chosen = Plan.load(plan_file)
    else:
        chosen = make_default_plan(net, pretrained=pretrained, replay=replay)
    rows = list_rows(net, chosen)
    if toml:
        click.echo(chosen.to_toml())
    else:
        show_table(build_table(rows))
        click.echo("answers: " + " + ".join(chosen.answering))
    if json_file is not None:
        write_json(json_file, {"levels": rows, "readout": list(chosen.answering)})


@plan.command()
@click.argument("plan_file", metavar="PLAN.toml", type=click.Path(path_type=Path))
@click.option("--model", help="A built-in name or module:function; else only the file is read.")
@options_option
@json_option
def check(plan_file: Path, model: str | None, options: str | None, json_file: Path | None) -> None:
    """Check a plan, alone or against a model.

    \b
    Example:
      nestling plan check plan.toml --model my_models:make_net
    """
    from nestling.levels import Plan
    from nestling.models import build_model

    chosen = Plan.load(plan_file)
    said = f"{plan_file}: {len(chosen.levels)} levels"
    rows: list[dict[str, object]] = []
    if model is not None:
        rows = list_rows(build_model(model, read_options(options)), chosen)
        said += f", fits {model}"
    click.echo(f"{said}: ok")
    if json_file is not None:
        write_json(json_file, {"ok": True, "levels": rows})


@plan.command()
@click.argument("model")
@click.argument("data")
@options_option
@click.option("--target", default="label", show_default=True, help="Column of a file to predict.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the plan here.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--examples",
    type=click.IntRange(min=20),
    default=2000,
    show_default=True,
    help="Measure on so many, spread over the data.",
)
@json_option
def suggest(
    model: str,
    data: str,
    options: str | None,
    target: str,
    out: Path | None,
    seed: int,
    examples: int,
    json_file: Path | None,
) -> None:
    """Measure MODEL on DATA and propose a plan, with a reason for each choice.

    DATA is a CSV, Parquet or NPZ file in the order in which the examples arrive, the name of a
    data set or suite, or module:function. MODEL is as in `plan show`, with the weights that it
    has: measure a pre-trained model on data that it has not seen. Of a language model, tokens in
    and logits out, it says which blocks pay as levels that learn at test time.

    \b
    Example:
      nestling plan suggest my_models:make_net monday.csv --target label --out plan.toml
      nestling plan suggest mlp digits --options '{"sizes": [64, 128, 10]}'
    """
    from nestling.bench.table import build_table
    from nestling.jobs.suggest import (
        measure_model,
        read_examples,
        suggest_plan,
        suggest_stacking,
        suggest_token_plan,
    )
    from nestling.models import build_model

    x, y = read_examples(data, target=target, seed=seed)
    net = build_model(model, read_options(options), seed=seed)
    with show_progress("measuring") as advance:
        advance(f"measuring on {min(len(x), examples)} examples", 0.0)
        stacking = suggest_stacking(net, x, seed=seed)
        measured = None  # a model of token sequences has no one answer per example
        if not stacking.is_token_model:
            measured = measure_model(net, x, y, max_examples=examples, seed=seed)
    suggestion = suggest_token_plan() if measured is None else suggest_plan(measured)
    comments = [
        f"# {one.level}: {one.choice} = {one.value}: {one.reason}" for one in stacking.reasons
    ]
    comments += [f"# at test time: {stacking.call}"] if stacking.call else []
    text = "\n".join([*comments, suggestion.plan.to_toml()])
    blocks = [] if measured is None else list_measurements(measured)
    if blocks:
        show_table(build_table(blocks))
    _tell_reasons([*suggestion.reasons, *stacking.reasons])
    if stacking.call:
        click.echo(f"  at test time: {stacking.call}")
    if out is None:
        click.echo(f"\n{text}\n--out plan.toml writes this plan to a file")
    else:
        from nestling.store import write_whole

        write_whole(out, text)
        click.echo(f"\nplan: {out}")
        click.echo(f'use it: plan = "{out}" in a job, or nl.Learner(model, nl.Plan.load("{out}"))')
    if json_file is not None:
        reasons = [asdict(reason) for reason in suggestion.reasons]
        result = {
            "blocks": blocks,
            "linearity": None if measured is None else asdict(measured.linearity),
            "reasons": reasons,
            "plan": text,
            "stacking": {
                "call": stacking.call,
                "blocks": [list_finite(asdict(block)) for block in stacking.blocks],
                "tried": [list_finite(asdict(block)) for block in stacking.tried],
                "reasons": [asdict(reason) for reason in stacking.reasons],
            },
        }
        write_json(json_file, result)


def list_measurements(measured: "Measurements") -> list[dict[str, object]]:
    """One row per block: weights, signal-to-noise, conflict, Fisher.

    A ratio without noise is infinite, which JSON cannot say; it is left out.
    """
    return [
        {
            "block": block.name or "all",
            "weights": block.num_weights,
            "signal to noise": block.snr if math.isfinite(block.snr) else None,
            "old against new": block.conflict,
            "mean Fisher": block.fisher,
            "share of Fisher": block.fisher_share,
        }
        for block in measured.groups
    ]


def list_finite(row: dict[str, object]) -> dict[str, object]:
    """A row with None in place of infinity, which JSON cannot say.

    >>> list_finite({"gain": 1.0, "gain_error": math.inf})
    {'gain': 1.0, 'gain_error': None}
    """
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


def _tell_reasons(reasons: Sequence["Reason"]) -> None:
    level = ""
    for reason in reasons:
        if reason.level != level:
            level = reason.level
            click.echo(f"\n{level}")
        click.echo(f"  {reason.choice} = {reason.value}: {reason.reason}")


def list_rows(model: "nn.Module", plan: "Plan") -> list[dict[str, object]]:
    """One row per level: name, kind, parameters, share, period, optimizer, gate.

    Args:
        model: any module.
        plan: must fit it.

    Raises:
        SettingError: the plan does not fit the model.
    """
    from nestling.judge import make_detector
    from nestling.levels import Concepts, Copy, DriftWatch, Level, Memory, Sleep, assign_levels
    from nestling.levels.watching import make_watches
    from nestling.optim import CustomOptimizer

    claims = assign_levels(model, plan)
    sizes = {name: param.numel() for name, param in model.named_parameters()}
    owned = {level: sum(sizes[name] for name in names) for level, names in claims.items()}
    modules = dict(model.named_modules())
    num_all = sum(owned.values())
    rows: list[dict[str, object]] = []
    for level in plan.levels:
        row: dict[str, object] = {"level": level.name, "kind": level.kind}
        if isinstance(level, Level):
            optimizer = level.optimizer.name
            if not isinstance(level.optimizer, CustomOptimizer):
                optimizer += f", lr {level.optimizer.lr:g}"
            gate = " x ".join(gate.kind for gate in level.gate)
            row |= _describe(owned[level.name], num_all, level.period, optimizer, gate)
        elif isinstance(level, Copy):
            num_copied = sum(owned[name] for name in level.of)
            pace = "never moves" if level.decay == 1.0 else f"decay {level.decay:g}"
            pace = pace if level.rule is None else f"{level.rule.describe()}, writes back"
            how = f"copy of {', '.join(level.of)}, {pace}"
            row |= _describe(num_copied, num_all, level.period, how, "")
        elif isinstance(level, Memory):
            for name in level.reads:
                _check_reads(name, modules)
            lives = ", ".join(f"{life:g}" for life in level.half_lives)
            read = ", ".join(name or "input of the last linear layer" for name in level.reads)
            how = f"closed form, half-lives {lives}, reads {read}"
            row |= _describe(None, num_all, 1, how, "")
        elif isinstance(level, Concepts):
            how = f"up to {level.num_slots} meanings of the labels, beside {level.of}"
            row |= _describe(None, num_all, 1, how, "")
        elif isinstance(level, DriftWatch):
            make_watches([level], make_detector)  # raises if the detector cannot be as it says
            how = f"{level.detector} on the {level.of}, says {level.event!r}"
            row |= _describe(None, num_all, 1, how, "")
        elif isinstance(level, Sleep):
            taught = level.teaches or [one.name for one in plan.gradient_levels]
            num_taught = sum(owned[name] for name in taught)
            how = f"teaches {', '.join(taught)} what {level.of} knows, {level.num_inputs:,} dreams"
            row |= _describe(num_taught, num_all, 1, how, "")
        rows.append(row)
    return rows


def _check_reads(on: str | None, modules: dict[str, "nn.Module"]) -> None:
    from nestling.core.errors import SettingError, suggest
    from nestling.levels.spec import INPUT_OF

    name = "" if on is None else on.removeprefix(INPUT_OF)
    if on not in (None, "input") and name not in modules:
        known = [name for name in modules if name] + ["input"]
        raise SettingError(f"a memory reads {on!r}, no submodule; {suggest(str(on), known)}")


def _describe(
    num_parameters: int | None, num_all: int, period: int, optimizer: str, gate: str
) -> dict[str, object]:
    share = None if num_parameters is None else f"{num_parameters / num_all:.1%}"
    return {
        "parameters": num_parameters,
        "share": share,
        "period": period,
        "optimizer": optimizer,
        "gate": gate or None,
    }
