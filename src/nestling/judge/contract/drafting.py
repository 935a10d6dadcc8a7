"""Drafts of change contracts: TOML with a comment on every key, valid as it stands."""

import json
from collections.abc import Iterable, Sequence

from nestling.core.errors import SettingError
from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.clauses import Interface
from nestling.judge.contract.plan_facts import PlanFacts

_HEAD = """\
# Change contract: what may change, what must stay fixed, what must change by when.
# A draft: read every line, put your own words and figures in, have it reviewed, then sign it:
#   nestling contract check CONTRACT MODEL_OR_RUN     judge a model or a run by it
#   nestling contract sign CONTRACT MODEL_OR_RUN      write the digests of what must stay fixed
# Lines that begin with "# " and look like settings are examples: take the "# " away to use them.
"""

_ROLES = """
# --- Roles of the levels. The view "spine" asks the levels with that role alone: a fast level can
# hide harm in the spine. A level that the spine cannot answer without (such as its head) is a spine
# as well. One that is not listed is fast.
# materiality: how much harm a wrong change can do: low, medium or high.
# scope: "global", or "subject" for a level of one person or one site.
"""

_MAY_CHANGE = """
# --- What may change. A level that no clause names must not change at all.
# per_update, per_day, since_validation: largest relative change ||after - before|| / ||before|| of
#   one update, within a day, and since a person last validated the model.
# trigger: "automatic" changes as it learns; "proposal" only by a proposal that is judged first.
# approvals: people, the proposer not among them, who must agree to a proposal.
# least_hours: that must lie between two proposals.
"""

_FIXED = """
# --- What must stay fixed.
[must_stay_fixed]
# parameters: patterns of names of parameters and buffers that stay bit for bit, such as "norm.*".
# Their digests are written by `nestling contract sign`.
"""

_INTERFACE = """
[must_stay_fixed.interface]
# task: "classification" or "regression"; input_shape: of one example; num_outputs: classes or
# values per example; intended_use: in words. What is left out is not checked.
"""

_REST = """
# Behaviour that must stay: a probe (below), its limits, and the views in which it must hold.
# least, most: limits of the figure; fall: how much worse than at the last validation it may be.
# views: "spine" (the slow levels alone), "whole" (all), "cohorts" (each cohort's own fast levels).
# [[must_stay_fixed.behaviour]]
# id = "B1"
# probe = "accuracy"
# least = 0.8
# fall = 0.02
# views = {views}

# --- What must change: a known harm, and the day by which it must be gone. If it is not, the level
# freezes and the duty is reported. The level needs a may_change clause above.
# [[must_change_by]]
# id = "H1"
# harm = "women are missed more often than men"
# probe = "missed-by-sex"
# level = {level}
# by = 2027-06-30
# most = 0.05
# views = {views}

# --- How it is evaluated.
[protocol]
# confidence: of the intervals that are shown, two-sided. least_examples: rows that a figure, or the
# figure of a group, needs; what has fewer is not judged, which is no pass. probes: measured for the
# record though no clause names them. data: where the rows come from and who holds them, in words.
confidence = 0.95
least_examples = 30

# --- Probes: named measurements. data: "module:function" that gives ProbeData, or a CSV file with
# the columns of the run. groups: columns whose values are compared. digest: sha256 of the data.
# [[probes]]
# name = "accuracy"
# metric = "accuracy"
# data = "held-out.csv"

# --- Reviews by people; each holds until a day. With reviews of which none holds any more nothing
# is committed.
# [[reviews]]
# by = "name"
# on = 2026-12-01
# until = 2027-05-31
# note = "what was looked at"

# --- The risk review. severity: negligible, minor, serious, critical or catastrophic. evidence: ids
# of clauses, names of probes, or words. residual: what remains. accepted_by: who accepts it.
# [[risks]]
# id = "R1"
# hazard = "a fast level hides that the slow levels have gone wrong"
# severity = "serious"
# evidence = ["B1"]
# residual = "small groups cannot be judged"
# accepted_by = "name"
# until = 2027-05-31
"""


def draft_contract(
    facts: PlanFacts,
    name: str,
    *,
    purpose: str = "",
    owner: str = "",
    interface: Interface | None = None,
) -> str:
    """Draft a change contract for a plan: TOML with comments that explain every key.

    The slowest gradient level (or the one called "spine") is taken for the spine: it changes by
    proposals that one person approves. Other levels that learn change freely within bounds; what
    no level trains must stay fixed.

    Args:
        facts: of the plan, and of the model if it is known.
        name: of the contract.
        purpose: what the system is for.
        owner: who answers for it.
        interface: that must stay.

    Returns: the text; `Contract.from_toml` reads it, and it fits the plan.

    Raises:
        SettingError: a wrong name, or a plan in which nothing learns.

    >>> facts = PlanFacts({"head": ()}, {"head": "gradient"}, trained=frozenset({"head"}))
    >>> Contract.from_toml(draft_contract(facts, "triage")).may_change[0].level
    'head'
    """
    trained = [level for level in facts.levels if level in facts.trained]
    if not trained:
        raise SettingError(
            f"nothing learns in this plan (levels {sorted(facts.levels)}), so there is nothing to "
            "agree on; give a plan with a level that is not frozen"
        )
    spine = guess_spine(facts)
    views = ["spine", "whole"] if spine else ["whole"]
    rest = _REST.replace("{views}", _write(views)).replace("{level}", _write(spine or trained[0]))
    parts = [
        _HEAD,
        f"name = {_write(name)}\n",
        f"purpose = {_write(purpose)}  # what the system is for, in words\n",
        f"owner = {_write(owner)}  # who answers for it\n",
        _ROLES,
        *(_draft_role(level, spine) for level in facts.levels if facts.kinds[level] != "watch"),
        _MAY_CHANGE,
        *(
            _draft_change(f"M{number}", level, facts.kinds[level], is_spine=level == spine)
            for number, level in enumerate(trained, start=1)
        ),
        _FIXED,
        f"parameters = {_write(find_fixed_patterns(facts))}\n",
        _INTERFACE,
        _draft_interface(interface or Interface()),
        rest,
    ]
    text = "".join(parts)
    Contract.from_toml(text, f"the draft of contract {name!r}")
    return text


def guess_spine(facts: PlanFacts) -> str:
    """The level to take for the spine: called so, or the slowest gradient level; empty if none.

    >>> kinds = {"head": "gradient", "body": "gradient"}
    >>> guess_spine(PlanFacts({"head": (), "body": ()}, kinds, periods={"head": 1, "body": 16}))
    'body'
    """
    gradient = [level for level in facts.levels if facts.kinds[level] == "gradient"]
    if "spine" in gradient:
        return "spine"
    # Of two that are equally slow the later: plans go from fast to slow.
    return max(reversed(gradient), key=lambda level: facts.periods.get(level, 1), default="")


def find_fixed_patterns(facts: PlanFacts) -> list[str]:
    """The fewest patterns that cover what no level trains, and nothing else, module by module.

    >>> names = frozenset({"body.0.weight", "body.0.bias", "body.1.weight", "head.weight"})
    >>> frozen = frozenset({"body.0.weight", "body.0.bias"})
    >>> find_fixed_patterns(PlanFacts({}, {}, tensors=names, frozen=frozen))
    ['body.0.*']
    """
    patterns: dict[str, None] = {}
    for name in sorted(facts.frozen):
        parts = name.split(".")
        starts = [".".join(parts[:count]) + "." for count in range(1, len(parts))]
        whole = (start for start in starts if _is_all_frozen(start, facts))
        start = next(whole, "")
        patterns[f"{start}*" if start else name] = None
    return list(patterns)


def _is_all_frozen(start: str, facts: PlanFacts) -> bool:
    return all(name in facts.frozen for name in facts.tensors if name.startswith(start))


def _draft_role(level: str, spine: str) -> str:
    role, materiality = ("spine", "high") if level == spine else ("fast", "medium")
    return (
        f"[[levels]]\nname = {_write(level)}\nrole = {_write(role)}\n"
        f"materiality = {_write(materiality)}\n\n"
    )


def _draft_change(id: str, level: str, kind: str, *, is_spine: bool) -> str:
    """A modification of a level, with bounds where it has weights that can be measured."""
    what = {
        "gradient": "small corrections as new examples arrive",
        "copy": "follows the levels that it copies",
        "memory": "takes in each new example, in closed form",
        "concepts": "notices that labels mean something else, and remembers what they meant",
    }.get(kind, "learns")
    lines = [f"id = {_write(id)}", f"level = {_write(level)}"]
    if is_spine:
        lines += [
            'what = "slow corrections of what all answers rest on"',
            'trigger = "proposal"',
            "approvals = 1",
            "least_hours = 24.0",
            "per_update = 0.05",
            "per_day = 0.05",
            "since_validation = 0.2",
        ]
    else:
        lines.append(f"what = {_write(what)}")
        if kind == "gradient":
            lines += ["per_update = 0.1", "per_day = 0.5", "since_validation = 1.0"]
    return "[[may_change]]\n" + "\n".join(lines) + "\n\n"


def _draft_interface(interface: Interface) -> str:
    lines: list[str] = []
    if interface.task is not None:
        lines.append(f"task = {_write(interface.task)}")
    if interface.input_shape is not None:
        lines.append(f"input_shape = {_write(interface.input_shape)}")
    if interface.num_outputs is not None:
        lines.append(f"num_outputs = {interface.num_outputs}")
    lines.append(f"intended_use = {_write(interface.intended_use)}")
    return "\n".join(lines) + "\n"


def _write(value: str | Iterable[str | int]) -> str:
    """A text or a list as TOML, whose strings are those of JSON but for one character."""
    plain: str | Sequence[str | int] = value if isinstance(value, str) else list(value)
    return json.dumps(plain, ensure_ascii=False).replace("\x7f", "\\u007f")
