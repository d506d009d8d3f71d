"""Keeps trainings as small tables, and draws their learning curves into the README's section on results.

    minicnn train lenet5 --epochs 12 --output runs/lenet5      # for example
    python benchmarks/training.py runs/lenet5                  # keeps benchmarks/training/lenet5.csv, and draws
    python benchmarks/training.py                              # only draws again

A table is named for its folder; its first lines say with what command, when and with which versions it was made.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

from report import pyplot, save, splice

ROOT = Path(__file__).parents[1]
TABLES = ROOT / "benchmarks" / "training"
PICTURE = ROOT / "docs" / "training.svg"
COLUMNS = ("epoch", "step", "loss", "accuracy", "test_loss", "test_accuracy", "test_top5_error")
IDLE = ("--output", "--threads", "--workers", "--root", "--keep", "--checkpoint-every")  # they change no number
COLOURS = ("#0b6e99", "#c8553d", "#5c8a3a", "#7a5195")


class Kept(NamedTuple):
    """A training that was kept.

    Attributes:
        facts: ``command``, ``began``, ``data``, ``judged by``, ``numpy``, ``seed``.
        epochs: an entry an epoch; a number that was not finite, or is not measured, is NaN.
    """

    name: str
    facts: dict[str, str]
    epochs: list[dict[str, float]]


def keep(folder: Path, tables: Path) -> Path:
    """Write the table of the run in `folder`; its path.

    Raises:
        SystemExit: the run is not over, or was before an epoch was; its learning rate was changed on the way, so that
            no one command gives it.
    """
    if not (folder / "history.json").exists():
        raise SystemExit(f"{folder}: this is no run that has ended (no history.json in it)")
    history = json.loads((folder / "history.json").read_text("utf-8"))
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    environment = json.loads((folder / "environment.json").read_text("utf-8"))
    if any(entry["event"] == "rate" for entry in entries):
        raise SystemExit(f"{folder}: its learning rate was changed by resume --lr: no one command gives what it gave")
    facts = {
        "command": command(environment["command"]),
        "began": environment["began"][:10],
        "data": Path(history["recipe"]["data"]).name,
        "judged by": history["judged_by"],
        "numpy": environment["numpy"],
        "seed": history["recipe"]["seed"],
    }
    rows = [
        ["" if entry.get(name) is None else f"{entry[name]:.6g}" for name in COLUMNS]
        for entry in entries
        if entry["event"] == "epoch"
    ]
    if not rows:
        raise SystemExit(f"{folder}: it ended before its first epoch did")
    tables.mkdir(parents=True, exist_ok=True)
    path = tables / f"{folder.absolute().name}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(f"# {name}: {value}\n" for name, value in facts.items())
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    return path


def command(words: list[str]) -> str:
    """The command as one would type it again, without what names a place or changes no number."""
    typed, skip = ["minicnn"], False
    for word in words[1:]:
        if not skip and word.split("=")[0] not in IDLE:
            typed.append(word)
        skip = not skip and word in IDLE
    return shlex.join(typed)


def load(path: Path) -> Kept:
    """A table, as `keep` wrote it."""
    lines = path.read_text("utf-8").splitlines()
    facts = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))
    table = csv.DictReader(line for line in lines if not line.startswith("# "))
    return Kept(path.stem, facts, [{name: float(text or "nan") for name, text in row.items()} for row in table])


def section(kept: list[Kept]) -> str:
    """What the README shows: the curves, and how each training ended."""
    lines = ["| training | epochs | accuracy at the end | began, with | made by |", "|---|---:|---|---|---|"]
    for training in kept:
        facts, accuracy = training.facts, training.epochs[-1]["test_accuracy"]
        lines.append(
            f"| {training.name} | {len(training.epochs)} | **{100 * accuracy:.2f} %** of {facts['judged by']} "
            f"| {facts['began']}, NumPy {facts['numpy']}, seed {facts['seed']} | `{facts['command']}` |"
        )
    curves = f"![learning curves: the error in training, and on the images that judge]({PICTURE.relative_to(ROOT)})"
    return "\n\n".join(["\n".join(lines), curves])


def plot(kept: list[Kept], path: Path) -> None:
    """Errors against epochs, a panel for each data set, as figure 6 of He et al. 2015: dashed in training, bold on the
    images that judge (those for tests, unless some were held back)."""
    from matplotlib.ticker import MaxNLocator

    panels: dict[str, list[Kept]] = {}
    for training in kept:
        panels.setdefault(training.facts["data"], []).append(training)
    size = (5 * len(panels), 3.6)
    figure, axes = pyplot().subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False)
    for panel, (data, trainings) in zip(axes[0], panels.items(), strict=True):
        for training, colour in zip(trainings, cycle(COLOURS), strict=False):
            epochs = [entry["epoch"] for entry in training.epochs]
            for column, style, width in (("accuracy", "--", 1.0), ("test_accuracy", "-", 2.2)):
                errors = [100 * (1 - entry[column]) for entry in training.epochs]
                label = f"{training.name}: {errors[-1]:.2f}" if column == "test_accuracy" else None
                panel.plot(epochs, errors, style, color=colour, linewidth=width, label=label)
        panel.set(title=data, xlabel="epoch", ylabel="error, %", ylim=(0, None))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.legend(frameon=False, title="dashed in training, bold on the images that judge", title_fontsize=8)
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="folders of runs to keep first")
    for run in parser.parse_args().runs:
        print(f"kept {keep(run, TABLES).relative_to(ROOT)}")
    kept = [load(path) for path in sorted(TABLES.glob("*.csv"))]
    readme = ROOT / "README.md"
    readme.write_text(splice(readme.read_text("utf-8"), section(kept), "results"), "utf-8")
    plot(kept, PICTURE)
    print(f"{readme.name}: the section on results is that of {len(kept)} tables in {TABLES.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
