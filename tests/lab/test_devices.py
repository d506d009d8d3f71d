"""The experiments on a device, the strict double: the host's numbers, and no step of training that is waited for."""

import math

import pytest

from minicnn import optim, use_kernels
from minicnn.lab import EXPERIMENTS, deep, theory
from minicnn.nn import ReLU
from tests.device import double

pytestmark = pytest.mark.host  # these bring the double themselves

SMALL = {
    "vanishing": dict(
        activations=("relu", "tanh"), depths=(3,), initialisations=("he",), seeds=2, width=16, batch=8, compare_depth=3,
        compare_seeds=2, training_steps=6, training_depths=(2,), training_initialisations=("he",),
    ),
    "exploding": dict(
        chain_length=6, chain_width=8, chain_seeds=2, runs=("rate", "recurrent"), trials=1, steps=4, width=16, batch=8
    ),
    "auxiliary_heads": dict(
        activations=("relu",), norms=("LRN",), seeds=1, steps=8, images=8, classes=2, input_size=31,
        width=1 / 16, batch_size=4,
    ),
    "shortcuts": dict(
        depths=(20,), seeds=1, epochs=2, images=24, input_size=4, width=1 / 8, batch_size=8, learning_rate=1e-4
    ),
    "normalisation": dict(
        scales=(1.0,), learning_rates=(0.05,), seeds=1, steps=16, depth=2, channels=2, images=32, batch_size=8
    ),
    "dead_units": dict(
        activations=("relu",), scenarios=("moderate",), trials=1, steps=9, images=64, batch=16, width=12, every=3
    ),
}  # fmt: skip

# How many steps of training begin only when the one before has been looked at, and of how many: none within an epoch or
# between two looks. `exploding` looks for infinities and NaN in every operation, and so at every step.
WAITED_FOR = {
    "vanishing": (2 * 4 * 1, 2 * 4 * 5),
    "auxiliary_heads": (2 * 3, 2 * 7),
    "shortcuts": (2 * 1, 2 * 5),
    "normalisation": (3 * 1, 3 * 15),
    "dead_units": (3, 9),
}


def experiments(names):
    """Parameters of tests; `auxiliary_heads` is long, as its GoogLeNet takes as much time as all others."""
    return [pytest.param(name, marks=[pytest.mark.long] * (name == "auxiliary_heads")) for name in names]


@pytest.fixture
def pretended():
    """CuPy's strict double, while the test runs."""
    with double.installed():
        yield


@pytest.mark.parametrize("name", experiments(SMALL))
def test_the_numbers_are_the_hosts(pretended, name):
    with use_kernels("im2col"):  # as on a device: the fast kernels round otherwise, and runs that explode would tell
        host, there = (EXPERIMENTS[name](**SMALL[name], device=device) for device in ("cpu", "cuda"))
    assert there.settings == host.settings | {"device": "cuda:0"} and host.settings["device"] == "cpu"
    assert len(there.rows) == len(host.rows)
    for mine, its in zip(there.rows, host.rows, strict=True):
        assert mine.keys() == its.keys()
        for key, value in its.items():
            if isinstance(value, float):
                assert type(mine[key]) is float
                assert mine[key] == pytest.approx(value, rel=2e-3, abs=1e-4, nan_ok=True), key
            else:
                assert mine[key] == value, key
    str(there)


@pytest.mark.parametrize("name", experiments(WAITED_FOR))
def test_training_waits_only_where_it_is_looked_at(pretended, name, monkeypatch):
    waits, runs = [], []
    step = optim.SGD.step

    def counted(self, *args):
        if self not in runs:
            runs.append(self)
        elif double.Counts.to_host > waits[-1][1]:
            waits[-1] = (True, 0)
        step(self, *args)
        waits.append((False, double.Counts.to_host))

    monkeypatch.setattr(optim.SGD, "step", counted)
    EXPERIMENTS[name](**SMALL[name], device="cuda")
    assert (sum(waited for waited, _ in waits), len(waits) - len(runs)) == WAITED_FOR[name]


def test_theory_is_the_hosts(pretended):
    expected = theory.mean_field(ReLU(), 4, 2.0)
    double.Counts.reset()
    with deep.on("cuda") as name:
        found = theory.mean_field(ReLU(), 4, 2.0)
    assert name == "cuda:0" and (found.gradient == expected.gradient).all()
    assert (double.Counts.to_host, double.Counts.to_device) == (0, 1)  # `on` tries the device


@pytest.mark.parametrize("name", SMALL)
def test_a_device_that_does_not_work_is_found_out_before_the_work(pretended, name):
    with pytest.raises(RuntimeError, match="cuda:7 does not work"):
        EXPERIMENTS[name](**SMALL[name], device="cuda:7", progress=lambda *_: pytest.fail("it works"))
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        EXPERIMENTS[name](**SMALL[name], device="gpu")


def test_without_a_name_it_is_where_new_tensors_are_made(pretended):
    with deep.on("cuda"):
        assert EXPERIMENTS["dead_units"](**SMALL["dead_units"]).settings["device"] == "cuda:0"
    found = EXPERIMENTS["dead_units"](**SMALL["dead_units"])
    assert found.settings["device"] == "cpu" and math.isfinite(found.rows[-1]["loss"])
