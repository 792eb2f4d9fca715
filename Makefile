# Two commands matter: `make demo` and `make test`. Both install what they need into .venv first.
#
#   make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu    take the lean CPU build of torch from PyTorch's index
#   make test PYTHON=python3.12                                    choose the interpreter that makes .venv

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
EXTRAS := build,demo,dev,onnx,report,sign,tflite
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin

# More threads than cores make small models slower, and two test runs on one machine starve each other.
export OMP_NUM_THREADS ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint wheels clean

help:
	@echo "make demo    build the sentiment bundle and ask it two sentences"
	@echo "make test    ruff, mypy and pytest (without the slow tests)"
	@echo "make lint    ruff and mypy"
	@echo "make setup   make $(VENV) and install edgekit with all that demo and test need"
	@echo "make wheels  dist/: edgekit, and edgekit-runtime for devices"
	@echo "make clean   remove $(VENV), runs/ and what the tools left behind"

setup: $(STAMP)
	@echo "== $(VENV) is ready"

# The stamp is newer than both files as long as nothing that decides what to install has changed.
$(STAMP): pyproject.toml constraints.txt | $(BIN)/pip
	@echo "== torch (its own step, so that a CPU build that pip finds first is kept)"
	$(BIN)/pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt torch==2.13.0
	@echo "== edgekit with [$(EXTRAS)]"
	$(BIN)/pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@
	@echo "== installed into $(VENV)"

$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON); on Debian: apt install python3" >&2; exit 6; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12" >&2; exit 6; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "error: $(PYTHON) cannot make virtual environments; on Debian: apt install python3-venv" >&2; exit 6; }
	@echo "== $(VENV), made by $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

demo: $(STAMP)
	@echo "== build examples/sentiment.yaml"
	$(BIN)/edgekit build examples/sentiment.yaml --out runs/sentiment
	@echo "== ask the bundle"
	$(BIN)/edgekit run runs/sentiment/*.edge "a warm and funny film that never loses its nerve" "two hours of my life that i will not get back"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -m "not slow"

wheels: $(STAMP)
	$(BIN)/python -m build --quiet --wheel --no-isolation --outdir dist .
	$(BIN)/python -m build --quiet --wheel --no-isolation --outdir dist runtimes
	@ls dist

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
