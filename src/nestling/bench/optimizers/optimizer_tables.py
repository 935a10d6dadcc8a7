"""Tables of suite `optim` for documents, from its JSON; run as a module it prints them."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nestling.bench.table import format_markdown

Row = Mapping[str, Any]

TITLES = {
    "adamw": "AdamW (fused)",
    "momentum": "heavy-ball momentum",
    "delta": "delta momentum, element-wise",
    "delta_matrix": "delta momentum, matrix",
    "preconditioned": "preconditioned momentum, diagonal",
    "whitened": "preconditioned momentum, matrix",
    "muon": "Muon",
    "torch_muon": "`torch.optim.Muon`",
    "m3": "M3 `normalized`",
    "m3_ema": "M3 `ema`",
    "m3_paper": "M3 `paper`",
    "dgd": "DGD",
    "still": "body not trained (control)",
    "dmgd": "DMGD",
}
NAMES = {"mlp": "MLP", "vit": "ViT", "lm": "LM"}


def format_findings(data: Mapping[str, Any]) -> str:
    """Markdown of a result of suite `optim`: steps on the toys, then training of the networks.

    Args:
        data: what `nestling bench optim --json` wrote.

    Returns: a table for the toys and one for the networks, as far as they were measured.
    """
    parts: dict[str, list[Row]] = {}
    for row in data["rows"]:
        parts.setdefault(row["part"], []).append(row)
    tables = []
    if "toy" in parts:
        tables.append(format_markdown(_show_toy(parts["toy"])))
    trained = {name: parts[name] for name in NAMES if name in parts}
    if trained:
        tables.append(format_markdown(_show_training(trained)))
    return "\n\n".join(tables)


def _show_toy(rows: Sequence[Row]) -> list[Row]:
    shown: dict[str, dict[str, object]] = {}
    for row in rows:
        name = row["optimizer"]
        line = shown.setdefault(name, {"steps to 1e-3, median": TITLES.get(name, name)})
        missed = f", {1 - row['reached']:.0%} never" if row["reached"] < 1 else ""
        line[row["toy"]] = f"{row['steps']:.0f}{missed} ({row['steps_few']:.0f})"
    return list(shown.values())


def _show_training(parts: Mapping[str, Sequence[Row]]) -> list[Row]:
    shown: dict[str, dict[str, object]] = {}
    for part, rows in parts.items():
        for row in rows:
            name = row["optimizer"]
            line = shown.setdefault(name, {"held-out loss": TITLES.get(name, name)})
            gap = f" ({row['minus']:+.3f}: {row['least']:+.3f} to {row['most']:+.3f})"
            is_base = row is rows[0]
            line[NAMES[part]] = f"{row['loss']:.3f}{'' if is_base else gap}"
            line[f"{NAMES[part]} time"] = f"{row['time']:.2f}"
    return list(shown.values())


if __name__ == "__main__":
    text = format_findings(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    sys.stdout.write(text + "\n")
