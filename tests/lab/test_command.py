"""``minicnn lab``: the sentence, the picture, the data; and what every result can do."""

import csv
import inspect
import io
import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest

from minicnn import backend, cli
from minicnn.lab import EXPERIMENTS
from minicnn.lab.result import Result
from tests.device import double


def draw(result, figure):
    figure.add_subplot().plot([row["x"] for row in result.rows], [row["y"] for row in result.rows])


def parabola(seed=0, *, device=None, progress=None):
    rows = []
    for x in range(3):
        if progress:
            progress(x / 3, f"x = {x}")
        rows.append({"x": x, "y": np.float64(x * x + seed), "note": "ok"})
    settings = {"seed": seed, "device": device}
    return Result("parabola", "How fast?", settings, rows, f"It ends at {rows[-1]['y']:.0f}.", draw)


@pytest.fixture
def lab(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(cli.EXPERIMENTS, "parabola", parabola)

    def run(*argv):
        status = cli.main(["lab", *map(str, argv)])
        return status, *capsys.readouterr()

    return run


def test_the_sentence_and_the_picture(lab, tmp_path):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    status, out, err = lab("parabola", "--seed", 5)
    assert (status, out, err) == (0, "How fast?\nIt ends at 9.\n", "written: minicnn-lab-parabola.png\n")
    with image.open(tmp_path / "minicnn-lab-parabola.png") as picture:
        picture.load()
        assert picture.format == "PNG" and picture.width == 1200


@pytest.mark.parametrize(("name", "begins"), [("a.svg", b"<?xml"), ("a.pdf", b"%PDF"), ("a.png", b"\x89PNG")])
def test_the_picture_s_file(lab, tmp_path, name, begins):
    pytest.importorskip("matplotlib")
    assert lab("parabola", "--plot", name)[0] == 0
    assert (tmp_path / name).read_bytes().startswith(begins) and [p.name for p in tmp_path.iterdir()] == [name]


def test_json_is_all_that_stdout_has(lab):
    pytest.importorskip("matplotlib")
    status, out, _ = lab("parabola", "--json", "--plot", "p.png")
    found = json.loads(out)
    assert status == 0 and found["sentence"] == "It ends at 4." and found["settings"] == {"seed": 0, "device": "cpu"}
    assert [row["y"] for row in found["rows"]] == [0, 1, 4]


def test_csv(lab, tmp_path):
    lab("parabola", "--csv", "p.csv")
    lines = list(csv.DictReader(io.StringIO((tmp_path / "p.csv").read_text())))
    assert [line["y"] for line in lines] == ["0.0", "1.0", "4.0"]


def test_the_device(lab, monkeypatch):
    pytest.importorskip("matplotlib")
    with double.installed():
        status, out, _ = lab("parabola", "--json", "--device", "cuda:0")
    assert status == 0 and json.loads(out)["settings"]["device"] == "cuda:0"
    monkeypatch.setattr(backend, "cuda_problem", lambda: "no driver")
    status, out, err = lab("parabola", "--device", "cuda")
    assert status == 2 and out == "" and "cuda does not work here: no driver" in err


def test_progress_goes_to_stderr(lab, monkeypatch):
    monkeypatch.setattr(cli.Meter, "due", lambda self: True)
    _, out, err = lab("parabola")
    assert "67 %  x = 2" in err and "%" not in out


def test_without_matplotlib(lab, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, out, err = lab("parabola")
    assert status == 0 and "It ends at 4." in out and "no picture" in err and "'.[viz]'" in err
    status, out, err = lab("parabola", "--plot", "p.png")
    assert status == 1 and out == "" and "'.[viz]'" in err and not list(tmp_path.iterdir())
    with pytest.raises(ImportError, match=r"'\.\[viz\]'"):
        parabola().plot()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("parabel", "Did you mean 'parabola'"), ("parabola --plot p.gif", "ends in .png or .svg or .pdf"),
        ("parabola --csv p.txt", "ends in .csv"), ("", "NAME"),
    ],
)  # fmt: skip
def test_what_makes_no_sense(lab, argv, message):
    status, out, err = lab(*argv.split())
    assert status == 2 and out == "" and message in err and len(err.splitlines()) == 1


# -------------------------------------------------------------------------------------------------- results

def test_a_result_s_data():
    result = parabola(seed=1)
    assert result.where(x=2) == [{"x": 2, "y": 5, "note": "ok"}] and result.where(note="?") == []
    assert str(result) == "How fast?\nIt ends at 5."
    assert str(replace(result, details=["fast", "slow"])) == "How fast?\nIt ends at 5.\n  fast\n  slow"
    odd = Result("odd", "?", {"a": (1, np.int64(2))}, [{"y": math.inf}, {"y": np.float64("nan")}], "!", draw)
    assert json.loads(json.dumps(odd.to_dict())) == {
        "name": "odd", "question": "?", "settings": {"a": [1, 2]}, "sentence": "!", "details": [],
        "rows": [{"y": "inf"}, {"y": "nan"}],
    }  # fmt: skip


def test_a_result_in_a_notebook_is_its_picture():
    pytest.importorskip("matplotlib")
    assert parabola()._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_takes_a_seed_and_reports_progress(name):
    parameters = inspect.signature(EXPERIMENTS[name]).parameters
    assert next(iter(parameters)) == "seed" and parameters["seed"].default == 0
    assert parameters["device"].default is parameters["progress"].default is None
    assert all(p.default is not inspect.Parameter.empty for p in parameters.values())
    assert EXPERIMENTS[name].__doc__
