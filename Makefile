# make demo    train LeNet-5 on MNIST, from nothing, and test it
# make test    the test suite, and most of it again on a strict double of CuPy; LONG=1 adds the long tests, and the slow ones on it
# make test-cupysim  the tests on CuPy itself, on an emulated device, where ../shared/cupysim is; LONG=1: and heavy ones
# make test-no-driver  the test suite with CuPy's wheel and without a driver for it
# make bench   measure against PyTorch and others, about 45 minutes; QUICK=1: a glance that is not kept, in 3
# make lint    ruff, mypy, and what a GPU would refuse
# make clean   remove the virtual environments and what the tools left behind
#
# demo, test and bench make their own virtual environments under .venv/, once, with PYTHON (3.10 or newer).

PYTHON ?= python3
JOBS ?= 2
LONG ?=
QUICK ?=

# Named for the Python that made it, so that another PYTHON makes the environment anew.
READY := ready-$(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)

.PHONY: demo test bench lint clean

demo: .venv/demo/$(READY)
	@.venv/demo/bin/python -m minicnn demo

# On the double without what is slow there; tests/lab/test_devices.py compares the labs on it with the host's.
QUICKLY = --at-least 3900 -m "not long and not gpu and not heavy" --ignore tests/lab
test: .venv/test/$(READY)
	@.venv/test/bin/python -m pytest -n $(JOBS) --at-least 6900 $(if $(LONG),-m "not gpu")
	@.venv/test/bin/python -m pytest -n $(JOBS) --device double $(if $(LONG),--at-least 4000,$(QUICKLY))

# The same tests on CuPy itself, on a device that is emulated: it is no GPU. Where ../shared/cupysim is. What is marked
# heavy is left out, unless with LONG=1.
CUPYSIM = ../shared/cupysim
ON_CUPYSIM = . .venv/cupysim/env.sh; export MINICNN_REQUIRE_GPU=1 PYTHONPATH=.
PYTEST_ON_CUPYSIM = .venv/cupysim/venv/bin/python -m pytest -q -p no:cacheprovider -m "gpu$(if $(LONG),, and not heavy)"
NETWORKS = tests/inspect tests/lab tests/models
PARTS_ON_CUPYSIM = cupysim-networks cupysim-networks-reversed cupysim-operations cupysim-operations-reversed \
    cupysim-selfcheck cupysim-selfcheck-reversed
CUPYS_WHEEL = .venv/cupy-cuda12x-14.2.0
.PHONY: test-cupysim $(PARTS_ON_CUPYSIM) test-no-driver
test-cupysim: .venv/test/$(READY)
	@$(CUPYSIM)/build.sh $(CURDIR)/.venv/cupysim
	@$(MAKE) --no-print-directory --output-sync -j $(JOBS) $(PARTS_ON_CUPYSIM)

# Reversed: all threads, blocks and loops from the last to the first.
%-reversed: export CUPYSIM_REVERSE = 1
cupysim-networks cupysim-networks-reversed:
	@$(ON_CUPYSIM); $(PYTEST_ON_CUPYSIM) --at-least 1300 $(NETWORKS)
cupysim-operations cupysim-operations-reversed: # on the second of two devices, while the first is current
	@$(ON_CUPYSIM) CUPYSIM_DEVICES=2; $(PYTEST_ON_CUPYSIM) --device cuda:1 --at-least 3200 $(NETWORKS:%=--ignore=%)
cupysim-selfcheck cupysim-selfcheck-reversed:
	@$(ON_CUPYSIM); .venv/cupysim/venv/bin/python -m minicnn selfcheck --device cuda

# The suite once more where CuPy's wheel is installed as it comes, and there is no driver. The page and the notebooks
# never ask for CuPy.
test-no-driver: .venv/test/$(READY)
	@[ -e $(CUPYS_WHEEL) ] || { rm -rf $(CUPYS_WHEEL).part && .venv/test/bin/python -m pip install \
	    --quiet --no-deps --disable-pip-version-check --target $(CUPYS_WHEEL).part cupy-cuda12x==14.2.0 cuda-pathfinder \
	    && mv $(CUPYS_WHEEL).part $(CUPYS_WHEEL); }
	@PYTHONPATH=$(CURDIR)/$(CUPYS_WHEEL) MINICNN_CUPY_WHEEL=$(CURDIR)/$(CUPYS_WHEEL) .venv/test/bin/python -m pytest \
	    -n $(JOBS) -m "not long and not gpu and not page" --ignore tests/notebooks --at-least 6800

bench: .venv/bench/peers
ifdef QUICK
	@.venv/bench/bin/python benchmarks/run.py --quick
	@.venv/bench/bin/python benchmarks/report.py --print .benchmarks
else
	@.venv/bench/bin/python benchmarks/import_time.py
	@.venv/bench/bin/python benchmarks/run.py --out benchmarks/results
	@rm -f benchmarks/results/avx2.json
	@if grep -qs avx512f /proc/cpuinfo; then .venv/bench/bin/python benchmarks/run.py --avx2 --out benchmarks/results; fi
	@.venv/bench/bin/python benchmarks/report.py
endif

# Whom minicnn is measured against; each where it can be installed. Chainer's installer wants the setuptools of its day.
PIP = .venv/bench/bin/python -m pip install --quiet --disable-pip-version-check
.venv/bench/peers: .venv/bench/$(READY)
	@$(PIP) torch==2.13.0 || echo "make: going on without PyTorch"
	@$(PIP) dezero==0.0.13 || echo "make: going on without DeZero"
	@$(PIP) mygrad==2.5.0 || echo "make: going on without MyGrad"
	@{ $(PIP) 'setuptools<81' wheel && $(PIP) --no-build-isolation chainer==7.8.1; } || echo "make: going on without Chainer"
	@touch $@

lint: .venv/test/$(READY)
	@.venv/test/bin/python -m ruff check
	@.venv/test/bin/python -m mypy minicnn
	@.venv/test/bin/python -m tests.device.lint

clean:
	rm -rf .venv .benchmarks build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv/demo/$(READY): EXTRAS = data,fast,viz
.venv/bench/$(READY): EXTRAS = bench
.venv/test/$(READY): EXTRAS = test

.venv/%/$(READY): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "make: '$(PYTHON)' is missing or older than Python 3.10. Name another one: make $* PYTHON=python3.12"; \
	    exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "make: '$(PYTHON)' cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv"; \
	    exit 1; }
	@echo "making .venv/$* with $$($(PYTHON) --version), once; this takes about half a minute"
	@$(PYTHON) -m venv --clear .venv/$*
	@.venv/$*/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch $@
