# `make demo` and `make test` need Python and nothing else; they install into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := pyproject.toml setup.py
ORT_TRAINING := .venv-ort-training

.PHONY: demo test test-long lint types docs ort-training clean
.NOTPARALLEL:

# What is installed in .venv stays as it is, be it a wheel; the checkout is installed only where nothing is.
demo: $(BIN)/python
	@$(BIN)/edgerev --version >/dev/null 2>&1 || $(INSTALL) -e '.[jit]'
	@$(BIN)/python -c 'import sklearn' 2>/dev/null || $(INSTALL) 'edgerev[demo]'
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

# the site, from docs/*.md and the docstrings; warnings are errors
docs: $(VENV)/.installed-docs
	$(BIN)/sphinx-build -q -W --keep-going -E -a -b html -d .site/doctrees docs .site/html
	@echo "open .site/html/index.html"

# onnxruntime-training installs the same module as onnxruntime: tests run it in an environment of its own.
ort-training: $(ORT_TRAINING)/.installed

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .types .site .ruff_cache .hypothesis demo-output $(VENV)/.installed-* $(ORT_TRAINING)/.installed
	find edgerev kernels deploy docs tools tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp for each set of extras: installed again only when the project's requirements have changed.
$(VENV)/.installed-test: EXTRAS := test,demo
$(VENV)/.installed-lint: EXTRAS := lint
$(VENV)/.installed-docs: EXTRAS := docs

$(VENV)/.installed-%: $(SOURCES) | $(BIN)/python
	$(INSTALL) -e '.[$(EXTRAS)]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "edgerev needs Python 3.10 or newer; name one: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) cannot make a virtual environment; on Debian: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(ORT_TRAINING)/.installed: Makefile
	@$(PYTHON) -c 'import platform, sys; sys.exit(not ((3, 10) <= sys.version_info[:2] <= (3, 12) and platform.machine() == "x86_64"))' || { \
		echo "onnxruntime-training 1.19.2 needs Python 3.10 to 3.12 on x86-64; name one: make PYTHON=/path/to/python3 ort-training"; exit 1; }
	$(PYTHON) -m venv $(ORT_TRAINING) || { rm -rf $(ORT_TRAINING); exit 1; }
	$(ORT_TRAINING)/bin/python -m pip install --quiet --disable-pip-version-check \
		onnxruntime-training==1.19.2 'onnx>=1.16,<1.24' 'numpy>=1.26,<3'
	@touch $@
