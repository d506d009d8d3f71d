"""The README's Python blocks run as they stand, one after the other."""

import re
from pathlib import Path

import pytest

from minicnn import nn

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_blocks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"MyLayer": nn.Sigmoid}  # the reader's own
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), names)
    names["test_my_layer"]()
    assert len(BLOCKS) >= 5 and (tmp_path / "step.html").stat().st_size > 1e5
    out = capsys.readouterr().out
    assert "loss cross_entropy" in out and "conv2d, the gradient of weight[2, 0, 1, 1]" in out


@pytest.mark.parametrize("path", re.findall(r"\]\(([\w./]+)\)", README))
def test_what_it_shows_is_there(path):
    assert (Path(__file__).parents[1] / path).is_file()
