"""CuPy's wheel is installed, and there is no driver: everything on the CPU works, and what is missing is said.

The wheel imports then, and fails at the first array. Here one is made up that does as much; where MINICNN_CUPY_WHEEL
names a folder with the real one (``pip install --no-deps --target FOLDER cupy-cuda12x cuda-pathfinder``), the same is
asked of that.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minicnn import doctor

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(doctor._driver() is not None, reason="there is a driver"),
]

ROOT = Path(__file__).resolve().parents[2]
REAL = os.environ.get("MINICNN_CUPY_WHEEL")
MESSAGE = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"

MADE_UP = f"""
import contextlib, types

__version__ = "14.2.0"

class CUDARuntimeError(RuntimeError): ...
class ndarray: ...

def no_driver(*args, **kwargs):
    raise CUDARuntimeError({MESSAGE!r})

cuda = types.SimpleNamespace(
    Device=lambda index: contextlib.nullcontext(), is_available=lambda: False,
    runtime=types.SimpleNamespace(CUDARuntimeError=CUDARuntimeError, getDeviceCount=no_driver),
)
asarray = ones = zeros = no_driver
"""


@pytest.fixture(params=["made up"] + ["real"] * (REAL is not None))
def python(request, tmp_path):
    """Runs Python with arguments in a process that finds the wheel; gives its exit status, stdout and stderr."""
    wheel = Path(REAL or "") if request.param == "real" else tmp_path
    if request.param == "made up":
        (wheel / "cupy").mkdir()
        (wheel / "cupy" / "__init__.py").write_text(MADE_UP)
        information = wheel / "cupy_cuda12x-14.2.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: cupy-cuda12x\nVersion: 14.2.0\n")

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False,
            env={**os.environ, "PYTHONPATH": f"{wheel.resolve()}{os.pathsep}{ROOT}"},
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    code, out, _ = run("-c", "import cupy; print(cupy.__file__)")
    assert code == 0 and Path(out.strip()).is_relative_to(wheel.resolve()), "or another CuPy would be asked"
    return run


def test_doctor_says_what_is_missing(python):
    code, out, err = python("-m", "minicnn", "doctor")
    assert (code, err) == (0, "")
    [line] = [line for line in out.splitlines() if line.startswith("GPU ")]
    assert "none: CuPy 14.2.0 is there, and an NVIDIA driver (libcuda) is missing. Everything else works" in line


def test_selfcheck_says_what_is_missing(python):
    code, out, err = python("-m", "minicnn", "selfcheck", "--device", "cuda")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1 and f"cuda:0 does not work here: CUDARuntimeError: {MESSAGE}" in err
    assert "an NVIDIA driver (libcuda) is missing" in err


TRAINING = """
import sys
import numpy as np
import minicnn
from minicnn import data, models, optim, train

assert "cupy" not in sys.modules, "import minicnn imported CuPy"
images, labels = np.random.default_rng(0).standard_normal((8, 1, 28, 28)), np.arange(8)
loader = data.DataLoader(data.ArrayDataset(images.astype("float32"), labels), 4)
model = models.lenet5()
history = train.fit(model, loader, loader, optim.SGD(model.parameters(), 0.01))
assert np.isfinite(history["steps"]["loss"]).all() and len(history["steps"]["loss"]) == 2
assert "cupy" not in sys.modules, "training on the CPU imported CuPy"

assert not minicnn.cuda.is_available() and minicnn.cuda.device_count() == 0
try:
    model.to("cuda")
except RuntimeError as error:
    print(error)
assert {p.device for p in model.parameters()} == {"cpu"}
x = minicnn.Tensor(np.ones(3), requires_grad=True)  # and CuPy, now that it is imported, is in nobody's way
(x * x).sum().backward()
assert x.grad.tolist() == [2, 2, 2]
"""


def test_the_cpu_works_and_a_device_says_what_is_missing(python):
    code, out, err = python("-W", "error", "-c", TRAINING)
    assert (code, err) == (0, "")
    assert out.strip() == f"cuda:0 does not work: {MESSAGE}. 'minicnn doctor' says what is missing"
