"""What the tests of the experiments share."""

import json

from minicnn import cli


def assert_legends_are_outside(figure, count):
    """The drawn `figure` has `count` legends, each to the right of its axes."""
    legends = [(axes, axes.get_legend()) for axes in figure.axes if axes.get_legend() is not None]
    assert len(legends) == count
    for axes, legend in legends:
        assert legend.get_window_extent().x0 >= axes.get_window_extent().x1


def assert_the_command_prints_and_draws(experiment, result, tmp_path, monkeypatch, capsys):
    """``minicnn lab NAME --json --plot FILE`` knows the experiment, and writes the result that it gives."""
    name = result.name
    assert cli.EXPERIMENTS[name] is experiment
    monkeypatch.setitem(cli.EXPERIMENTS, name, lambda seed, device, progress: result)
    assert cli.main(["lab", name, "--json", "--plot", str(tmp_path / "p.png")]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(result.to_dict()))
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
