"""`nestling contract`: write a change contract, judge a model or a run by it, sign it."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nestling.cli.output import Commands, json_option, read_options, show_table, write_json

if TYPE_CHECKING:
    from torch import nn

    from nestling.jobs.contracts.contract_check import ContractReport
    from nestling.levels import Plan

model_option = click.option("--model", help="A built-in name or module:function.")
plan_option = click.option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path),
    help="Plan that MODEL is to learn by; by default ours.",
)
options_option = click.option("--options", help="Options of the model, as a JSON object.")
contract_argument = click.argument(
    "contract_file", metavar="CONTRACT", type=click.Path(path_type=Path)
)
candidate_argument = click.argument("candidate", metavar="MODEL|RUN")


@click.group(cls=Commands)
def contract() -> None:
    """Write a change contract, judge a model or a run by it, sign what must stay fixed.

    \b
    Example:
      nestling contract new plan.toml --model my_models:make_net --out contract.toml
    """


@contract.command()
@click.argument("plan_file", metavar="PLAN.toml", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write it here.")
@model_option
@options_option
@click.option("--name", help="Name of the contract; by default that of the plan's file.")
def new(
    plan_file: Path, out: Path | None, model: str | None, options: str | None, name: str | None
) -> None:
    """Draft a contract for a plan, with a comment on every key; valid as it stands.

    With --model it also names the parameters that no level trains, which must stay fixed.

    \b
    Example:
      nestling contract new plan.toml --out contract.toml
    """
    from nestling.judge.contract.drafting import draft_contract
    from nestling.levels import Plan
    from nestling.models import build_model
    from nestling.oversight.subjects.plan_reading import read_plan_facts
    from nestling.store import write_whole

    plan = Plan.load(plan_file)
    net = None if model is None else build_model(model, read_options(options))
    text = draft_contract(read_plan_facts(plan, net), name or plan_file.stem)
    if out is None:
        click.echo(text, nl=False)
        return
    if out.exists():
        raise click.BadParameter(f"'{out}' is there already; choose another file for --out")
    write_whole(out, text)
    click.echo(f"contract: {out}\nread it line by line, then: nestling contract check {out} RUN")


@contract.command()
@contract_argument
@candidate_argument
@plan_option
@options_option
@click.option(
    "--on",
    "day",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Judge as of this day (YYYY-MM-DD); by default today, UTC.",
)
@json_option
def check(
    contract_file: Path,
    candidate: str,
    plan_file: Path | None,
    options: str | None,
    day: datetime | None,
    json_file: Path | None,
) -> int:
    """Judge a model or a run by a contract, clause by clause and view by view.

    RUN is a folder of `nestling learn`, or one that nl.govern keeps; MODEL a built-in name or
    module:function. The exit code is 0 if every clause is kept, and 1 if one fails or cannot be
    judged.

    \b
    Example:
      nestling contract check contract.toml runs/learn
      nestling contract check contract.toml my_models:make_net --plan plan.toml
    """
    from nestling.bench.table import build_table
    from nestling.jobs.contracts.contract_check import check_module, check_run
    from nestling.models import build_model

    today = (day or datetime.now(UTC)).date()
    if Path(candidate).is_dir():
        _refuse_options(candidate, plan_file, options)
        report = check_run(contract_file, Path(candidate), today)
    else:
        _check_candidate(candidate)
        net = build_model(candidate, read_options(options))
        report = check_module(contract_file, net, _load_plan(plan_file, net), today)
    rows = [
        {
            "clause": one.clause,
            "view": one.view or None,
            "status": one.status,
            "message": one.message,
        }
        for one in report.findings
    ]
    if rows:
        show_table(build_table(rows))
    for note in report.notes:
        click.echo(f"note: {note}")
    click.echo(_sum_up(report))
    if json_file is not None:
        write_json(json_file, _to_data(report))
    return 0 if report.is_kept else 1


@contract.command()
@contract_argument
@candidate_argument
@options_option
def sign(contract_file: Path, candidate: str, options: str | None) -> None:
    """Write the digests of what must stay fixed into CONTRACT, as it stands in a model or a run.

    Comments and order of the file stay.

    \b
    Example:
      nestling contract sign contract.toml runs/learn
    """
    from nestling.jobs.contracts.contract_check import digest_model, digest_run
    from nestling.judge.contract.change_contract import Contract
    from nestling.judge.contract.signing import sign_contract
    from nestling.models import build_model
    from nestling.store import write_whole

    found = Contract.of(contract_file)
    if Path(candidate).is_dir():
        _refuse_options(candidate, None, options)
        digests = digest_run(Path(candidate), found)
    else:
        _check_candidate(candidate)
        digests = digest_model(build_model(candidate, read_options(options)), found)
    where = f"'{contract_file}'"
    signed = sign_contract(contract_file.read_text(encoding="utf-8"), digests, where)
    write_whole(contract_file, signed)
    count = len(Contract.from_toml(signed).must_stay_fixed.digests)
    click.echo(f"signed: {count} parameters and buffers, {contract_file}")
    click.echo(f"digest of the contract: {Contract.from_toml(signed).digest}")


def _load_plan(plan_file: Path | None, net: "nn.Module") -> "Plan":
    from nestling.learn.default import make_default_plan
    from nestling.levels import Plan

    if plan_file is not None:
        return Plan.load(plan_file)
    return make_default_plan(net, pretrained=False, replay=0)


def _check_candidate(candidate: str) -> None:
    """A path that is not there is more likely a run than the name of a model."""
    from nestling.models import list_models

    if ":" not in candidate and candidate not in list_models():
        raise click.BadParameter(
            f"{candidate!r} is no folder of a run and no model; a run's folder, module:function or "
            f"one of {list_models()} works"
        )


def _refuse_options(candidate: str, plan_file: Path | None, options: str | None) -> None:
    if plan_file is not None or options is not None:
        name = "--plan" if plan_file is not None else "--options"
        raise click.BadParameter(
            f"{name} goes with a model, but {candidate!r} is a run, which has its own; leave it out"
        )


def _sum_up(report: "ContractReport") -> str:
    counts = {
        status: sum(one.status == status for one in report.findings)
        for status in ("failed", "not judged", "passed")
    }
    said = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    verdict = "kept" if report.is_kept else "not kept"
    return f"contract {report.contract.name!r} is {verdict}: {said or 'nothing to judge'}"


def _to_data(report: "ContractReport") -> dict[str, object]:
    return {
        "contract": report.contract.name,
        "digest": report.contract.digest,
        "kept": report.is_kept,
        "findings": [asdict(one) | {"figures": dict(one.figures)} for one in report.findings],
        "duties": [asdict(duty) | {"by": duty.by.isoformat()} for duty in report.duties],
        "notes": report.notes,
    }
