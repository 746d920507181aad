# `make demo` and `make test` need Python and nothing else; they install into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := pyproject.toml setup.py

.PHONY: demo test test-long lint types clean
.NOTPARALLEL:

demo: $(VENV)/.installed-demo
	$(BIN)/edgerev demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

test-long: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m long

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check

# mypy does not know setup.py's mapping of folders to packages: it gets the tree as it is installed.
types: $(VENV)/.installed-test $(VENV)/.installed-lint
	@rm -rf .types && mkdir -p .types/edgerev && ln -s $(CURDIR)/edgerev/* $(CURDIR)/kernels $(CURDIR)/deploy $(CURDIR)/tools .types/edgerev
	cd .types && MYPYPATH=$(CURDIR)/.types ../$(BIN)/mypy --config-file ../pyproject.toml --cache-dir ../.mypy_cache -p edgerev

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .types .ruff_cache .hypothesis demo-output $(VENV)/.installed-*
	find edgerev kernels deploy tools tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp for each set of extras: installed again only when the project's requirements have changed.
$(VENV)/.installed-demo: EXTRAS := demo,jit
$(VENV)/.installed-test: EXTRAS := test,demo
$(VENV)/.installed-lint: EXTRAS := lint

$(VENV)/.installed-%: $(SOURCES) | $(BIN)/python
	$(INSTALL) -e '.[$(EXTRAS)]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "edgerev needs Python 3.10 or newer; name one: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) cannot make a virtual environment; on Debian: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
