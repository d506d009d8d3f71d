"""Makes from the results the tables in `results/README.md`, the picture in `docs/` and the README's section on speed.

    python benchmarks/report.py               # reads benchmarks/results/*.json
    python benchmarks/report.py --print DIR   # writes nothing: the tables of other results, on the screen

A `networks.json` of another machine may be kept as `networks-NAME.json`: its ratios are shown apart.

Every ratio is a ratio of medians, minicnn's time (or memory) over the other's: below 1, minicnn is ahead.
"""

from __future__ import annotations

import argparse
import json
import statistics
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contest import BUSY, PEERS, describe, geometric_mean

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PICTURE = ROOT / "docs" / "bench.svg"
ELSEWHERE = "networks-"  # begins the names of what was measured on other machines
OTHERS = [name for name in PEERS if name != "PyTorch"]
PASSES = ("forward", "input gradient", "weight gradient")
AXES = {"batch": "batch size (ResNet-18)", "depth": "depth (ResNets)", "side": "side of the images (ResNet-18)"}
COLOURS = {"minicnn": "#0b6e99", "PyTorch": "#c8553d", "product": "#999999"}

Results = dict[str, dict[str, Any]]
Row = dict[str, Any]


def load(folder: Path) -> Results:
    """The sections that are there, by name."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}


def rows(results: Results, section: str) -> list[Row]:
    return results[section]["rows"] if section in results else []


def ratio(row: Row) -> float | None:
    """minicnn's median over the other's; None where nobody else ran."""
    return statistics.median(row["minicnn"]) / statistics.median(row["seconds"]) if row.get("seconds") else None


def duration(seconds: list[float]) -> str:
    return f"{1e3 * statistics.median(seconds):,.3g} ms" if statistics.median(seconds) < 1 else (
        f"{statistics.median(seconds):.2f} s"
    )  # fmt: skip


def grid(header: list[str], body: list[list[str]]) -> str:
    """A Markdown table, its numbers to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *body))


def is_elsewhere(section: str) -> bool:
    """Whether these are ratios of another machine, or of this one held back."""
    return section == "avx2" or section.startswith(ELSEWHERE)


def about(results: Results) -> str:
    """When, where and with what, for each different answer among the sections; nothing for those of other machines."""
    lines: dict[str, list[str]] = {}
    for section, result in results.items():
        if is_elsewhere(section):  # which says so itself
            continue
        info = result["about"]
        line = f"{info['machine']['date']}, {describe(info['machine'])}, {info['threads']} threads, float32"
        line += "" if info["complete"] else " (a part, or a quick run)"
        busy = info.get("busy")
        line += f" (while others kept {busy} processors busy)" if busy and busy > BUSY else ""
        lines.setdefault(line, []).append(section)
    return "; ".join(line if len(lines) == 1 else f"{', '.join(which)}: {line}" for line, which in lines.items())


def measured(results: Results) -> str:
    """What `about` tells as a sentence, to come behind another."""
    return f" Measured {here}." if (here := about(results)) else ""


def networks(results: Results) -> list[tuple[str, int]]:
    """The networks that were measured, with their batch, in their order."""
    measured = [*rows(results, "networks"), *rows(results, "memory")]
    return list(dict.fromkeys((row["network"], row["batch"]) for row in measured))


def is_paper(network: str) -> bool:
    """Whether it is an extra row, beside the means: a paper's form."""
    return network.endswith(", paper")


def found(results: Results, network: str, task: str, contender: str | None) -> Row | None:
    """The row of a network's match."""
    for row in rows(results, "networks"):
        if row["network"] == network and row["contender"] == contender and row.get("task", task) == task:
            return row
    return None


def memory_ratio(results: Results, network: str) -> float | None:
    for row in rows(results, "memory"):
        if row["network"] == network and row["bytes"].get("PyTorch"):
            return row["bytes"]["minicnn"] / row["bytes"]["PyTorch"]
    return None


def beside_pytorch(results: Results) -> str:
    """Training, inference and memory of each network, with their geometric means."""
    body: list[list[str]] = []
    ratios: dict[str, list[float]] = {"training": [], "inference": [], "memory": []}
    for network, batch in networks(results):
        line = [f"{network} ({batch})"]
        for task in ("training", "inference"):
            row = found(results, network, task, "PyTorch") or found(results, network, task, None)
            value = ratio(row) if row else None
            line += [duration(row["minicnn"]) if row and "minicnn" in row else "–"]
            line += ["–", "–"] if value is None or row is None else [duration(row["seconds"]), f"**{value:.2f}**"]
            if value is not None and not is_paper(network):
                ratios[task].append(value)
        memory = memory_ratio(results, network)
        line.append("–" if memory is None else f"**{memory:.2f}**")
        if memory is not None and not is_paper(network):
            ratios["memory"].append(memory)
        body.append(line)
    if not body:
        return ""
    means = {task: f"**{geometric_mean(values):.2f}**" if values else "–" for task, values in ratios.items()}
    mean = ["geometric mean", "", "", means["training"], "", "", means["inference"], means["memory"]]
    body.insert(sum(not is_paper(network) for network, _ in networks(results)), mean)
    header = ["network (batch)", "training", "PyTorch", "ratio", "inference", "PyTorch", "ratio", "peak memory, ratio"]
    return grid(header, body)


def elsewhere(results: Results) -> str:
    """Training and inference beside PyTorch on other machines, and where both compute as if without AVX-512."""
    return "\n\n".join(ratios_alone(results, section) for section in filter(is_elsewhere, results))


def ratios_alone(results: Results, section: str) -> str:
    """One of these sections, as a sentence and a table."""
    there: Results = {"networks": results[section]}
    names = [network for network, _ in networks(there) if not is_paper(network)]
    body = []
    for task in ("training", "inference"):
        values = [ratio(row) if (row := found(there, name, task, "PyTorch")) else None for name in names]
        known = [value for value in values if value is not None]
        entries = [geometric_mean(known) if known else None, *values]
        body.append([task, *("–" if value is None else f"**{value:.2f}**" for value in entries)])
    where, command = "on another machine", ""
    if section == "avx2":
        where, command = "where both compute as on a processor without AVX-512", "; `python benchmarks/run.py --avx2`"
    text = f"The ratios {where} ({about(there)}{command}):"
    filled = textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)
    return "\n\n".join(filter(None, (filled, grid(["", "geometric mean", *names], body), span(there))))


def span(results: Results) -> str:
    """How many times as long the libraries in NumPy take: the least and the most."""
    raced = [
        (row["contender"], row["task"], 1 / value)
        for row in rows(results, "networks")
        if row["contender"] in OTHERS and (value := ratio(row))
    ]
    parts = []
    for task in ("training", "inference"):
        times = [time for _, of_task, time in raced if of_task == task]
        if times:
            parts.append(f"{task} {min(times):.1f} to {max(times):.1f}")
    names = ", ".join(name for name in OTHERS if name in {contender for contender, *_ in raced})
    return f"The times of {names} over minicnn's: {', '.join(parts)}." if parts else ""


def beside_others(results: Results) -> str:
    """How many times faster minicnn trains and infers than the libraries in NumPy; why not, where one cannot run."""
    body: list[list[str]] = []
    reasons: dict[tuple[str, str], int] = {}
    present = [name for name in OTHERS if any(row["contender"] == name for row in rows(results, "networks"))]
    for network, batch in networks(results):
        line = [f"{network} ({batch})"]
        for library in present:
            row = found(results, network, "training", library)
            if row is None:
                line.append("–")
            elif "reason" in row:
                line.append(f"– ({reasons.setdefault((library, row['reason']), len(reasons) + 1)})")
            else:
                inference = found(results, network, "inference", library)
                times = [1 / value for r in (row, inference) if r and (value := ratio(r))]
                line.append(" / ".join(f"{t:.1f}×" for t in times))
        if any(entry != "–" for entry in line[1:]):
            body.append(line)
    if not body:
        return ""
    notes = "; ".join(f"({number}) {library}: {reason}" for (library, reason), number in reasons.items())
    text = "How many times faster minicnn is, training / inference:\n\n" + grid(["network (batch)", *present], body)
    return text + (f"\n\nNot run: {notes}." if notes else "")


def networks_tables(results: Results) -> str:
    return "\n\n".join(filter(None, (beside_pytorch(results), elsewhere(results), beside_others(results))))


def section(results: Results) -> str:
    """What the README shows."""
    if not results:
        return (
            "No run has been kept yet: `make bench` measures minicnn beside PyTorch, DeZero, MyGrad and Chainer, in\n"
            "about 45 minutes, and writes the tables and the picture here."
        )
    text = (
        "A training step (forward, backward, SGD with momentum and weight decay) and inference, beside PyTorch."
        f"{measured(results)} Processes of their own take turns; times are medians, ratios minicnn's over "
        "PyTorch's: below 1, minicnn is ahead. Peak memory is a training step's, beyond what the process held before. "
        "`make bench` measures and writes this; [all the numbers](benchmarks/results/README.md)."
    )
    parts = [
        textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False),
        networks_tables(results),
        f"![ratios, convolutions, and time against batch size, depth and side]({PICTURE.relative_to(ROOT)})",
    ]
    return "\n\n".join(part for part in parts if part)


def layers_table(results: Results) -> str:
    measured: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows(results, "layers"):
        measured.setdefault((row["network"], row["layer"]), {})[row["pass"]] = row["gflops"]
    body = []
    for (network, layer), passes in measured.items():
        rates = [passes.get(step, {}).get(who, []) for step in PASSES for who in ("minicnn", "PyTorch")]
        rates.append([rate for gflops in passes.values() for rate in gflops.get("product", [])])
        body.append([f"{network}: {layer}", *[f"{statistics.median(r):.3g}" if r else "–" for r in rates]])
    return grid(["layer", *[f"{step}{who}" for step in PASSES for who in ("", ", PyTorch")], "matrix product"], body)


def scaling_table(results: Results) -> str:
    body = []
    for row in rows(results, "scaling"):
        seconds = row["seconds"]
        line = [f"{row['axis']} {row['x']} ({row['network']}, batch {row['batch']}, {row['side']} pixels)"]
        line += [duration(seconds[who]) if who in seconds else "–" for who in ("minicnn", "PyTorch")]
        both = "PyTorch" in seconds
        line.append(
            f"{statistics.median(seconds['minicnn']) / statistics.median(seconds['PyTorch']):.2f}" if both else "–"
        )
        body.append(line)
    return grid(["training step", "minicnn", "PyTorch", "ratio"], body)


def memory_table(results: Results) -> str:
    body = []
    for row in rows(results, "memory"):
        sizes = [row["bytes"].get(who) for who in ("minicnn", "PyTorch", "minicnn, tracemalloc")]
        line = [f"{row['network']} ({row['batch']})"]
        body.append(line + ["–" if size is None else f"{size / 1e6:,.1f} MB" for size in sizes])
    return grid(["network (batch)", "minicnn", "PyTorch", "minicnn, by tracemalloc"], body)


def everything(results: Results) -> str:
    """All the tables: `results/README.md`."""
    tables: list[tuple[str, str, str, Callable[[Results], str]]] = [
        ("networks", "Networks", "", networks_tables),
        (
            "layers",
            "Convolutions, GFLOP/s",
            "Two operations a multiply-add of the direct algorithm, which Winograd's does with fewer; so it may pass "
            "the matrix product of the same size, which NumPy computes on the same threads.",
            layers_table,
        ),
        ("scaling", "Against batch size, depth and side", "", scaling_table),
        (
            "memory",
            "Peak memory of a training step",
            "What the process holds at most during three steps (gradients and momentum come to be in the first), minus "
            "what it held before. tracemalloc counts what NumPy asked for, without what the allocator keeps.",
            memory_table,
        ),
    ]
    parts = ["# Results", "Written by `benchmarks/report.py`." + measured(results)]
    for name, title, text, make in tables:
        if name in results or (name == "networks" and any(map(is_elsewhere, results))):
            parts += [f"## {title}", text, make(results).strip()]
    return "\n\n".join(part for part in parts if part) + "\n"


def pyplot() -> Any:
    """matplotlib's, without a window."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "minicnn"  # the same bytes for the same results
    from matplotlib import pyplot as plt

    return plt


def save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot().close(figure)


def plot(results: Results, path: Path) -> None:
    """Ratios to PyTorch, the convolutions' GFLOP/s, and the three series, in one picture."""
    figure = pyplot().figure(figsize=(11, 10), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=(1, 1.25, 1))
    plot_ratios(results, top.subplots())
    plot_layers(results, middle.subplots())
    for axes, axis in zip(bottom.subplots(1, 3), AXES, strict=True):
        plot_series(results, axes, axis)
    save(figure, path)


def plot_ratios(results: Results, axes: Any) -> None:
    names = [name for name, _ in networks(results)]
    kinds: dict[str, Callable[[str], float | None]] = {
        "training": lambda n: ratio(found(results, n, "training", "PyTorch") or {}),
        "inference": lambda n: ratio(found(results, n, "inference", "PyTorch") or {}),
        "peak memory": lambda n: memory_ratio(results, n),
    }
    for i, ((kind, value), colour) in enumerate(zip(kinds.items(), ("#0b6e99", "#6ab0cf", "#c9b458"), strict=True)):
        axes.bar([x + 0.27 * (i - 1) for x in range(len(names))], [value(n) or 0 for n in names], 0.25, label=kind,
                 color=colour)  # fmt: skip
    axes.axhline(1, color="black", linewidth=1)
    axes.set_xticks(range(len(names)), [n.replace(", ", ",\n") for n in names])
    axes.set_ylabel("minicnn / PyTorch")
    axes.set_title("Below the line, minicnn is ahead", fontsize=10, loc="left")
    axes.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 0.97))  # above the bars, however high


def plot_layers(results: Results, axes: Any) -> None:
    layers = list(dict.fromkeys((row["network"], row["layer"]) for row in rows(results, "layers")))
    place = {layer: i for i, layer in enumerate(layers)}
    markers = dict(zip(PASSES, ("o", "^", "s"), strict=True))
    for who in ("product", "PyTorch", "minicnn"):
        for step in ("forward",) if who == "product" else PASSES:
            chosen = [row for row in rows(results, "layers") if row["pass"] == step and who in row["gflops"]]
            x = [place[row["network"], row["layer"]] for row in chosen]
            y = [statistics.median(row["gflops"][who]) for row in chosen]
            if who == "product":
                axes.bar(x, y, 0.8, color="#e6e6e6", label="matrix product of the same size")
            else:
                axes.plot(x, y, markers[step], color=COLOURS[who], markersize=4, label=f"{who}, {step}")
    axes.set_xticks(range(len(layers)), [f"{n}: {text}" for n, text in layers], rotation=90, fontsize=6)
    axes.set_ylabel("GFLOP/s")
    if layers:
        axes.legend(frameon=False, fontsize=7, ncols=4)


def plot_series(results: Results, axes: Any, axis: str) -> None:
    chosen = [row for row in rows(results, "scaling") if row["axis"] == axis]
    for who in ("PyTorch", "minicnn"):
        points = [(row["x"], statistics.median(row["seconds"][who])) for row in chosen if who in row["seconds"]]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", color=COLOURS[who], label=who)
    axes.set_xlabel(AXES[axis])
    axes.set_ylim(bottom=0)
    if axis == "batch":
        axes.set_ylabel("seconds a training step")
    if chosen:
        axes.legend(frameon=False)


def splice(readme: str, text: str, marker: str) -> str:
    """`readme` with `text` between the comments ``<!-- marker -->`` and ``<!-- /marker -->``.

    Raises:
        ValueError: it has not each of them once.
    """
    begin, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    if readme.count(begin) != 1 or readme.count(end) != 1:
        raise ValueError(f"the README has {begin} and {end} not once each; what is written goes between them")
    before, rest = readme.split(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print", type=Path, metavar="DIR", help="show the tables of the results in DIR")
    options = parser.parse_args()
    if options.print:
        print(everything(load(options.print)))
        return
    results = load(RESULTS)
    readme = ROOT / "README.md"
    readme.write_text(splice(readme.read_text("utf-8"), section(results), "bench"), "utf-8")
    if results:
        (RESULTS / "README.md").write_text(everything(results), "utf-8")
        plot(results, PICTURE)
    print(f"{readme.name}: the section on speed is that of {len(results)} files in {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
