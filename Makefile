# make demo    train LeNet-5 on MNIST, from nothing, and test it
# make test    the test suite, and most of it again on a strict double of CuPy; LONG=1 adds the long tests
# make lint    ruff and mypy
# make clean   remove the virtual environments and what the tools left behind
#
# demo and test make their own virtual environments under .venv/, once, with PYTHON (3.10 or newer).

PYTHON ?= python3
JOBS ?= 2
LONG ?=

# Named for the Python that made it, so that another PYTHON makes the environment anew.
READY := ready-$(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)

.PHONY: demo test lint clean

demo: .venv/demo/$(READY)
	@.venv/demo/bin/python -m minicnn demo

test: .venv/test/$(READY)
	@.venv/test/bin/python -m pytest -n $(JOBS) $(if $(LONG),-m "not gpu")
	@.venv/test/bin/python -m pytest -n $(JOBS) --device double --at-least 3600 -m "not long and not gpu and not page"

lint: .venv/test/$(READY)
	@.venv/test/bin/python -m ruff check
	@.venv/test/bin/python -m mypy minicnn

clean:
	rm -rf .venv build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv/demo/$(READY): EXTRAS = data,fast,viz
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
