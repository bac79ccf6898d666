# Every target creates what it needs: on a fresh machine `make demo` or `make test` alone is enough.
#   make demo TORCH_INDEX=<address of PyTorch's CPU package index>   installs the small CPU build of torch instead
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
TORCH_INDEX ?=
# Processes that `make test` runs in; auto is one a core.
WORKERS ?= auto
MXNET_VENV ?= .venv-mxnet
PYTHON311 = $(shell for each in python3.11 $(PYTHON); do \
	$$each -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && { echo $$each; break; }; done)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo test test-mxnet check bench soak format clean
help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (several GB on Linux: torch's ordinary build carries CUDA) ..."
	$(PYTHON) -c 'import sys; sys.exit("Headstart needs Python 3.11 or later; name one with PYTHON=python3.x" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(BIN)/pip install --progress-bar off --index-url $(TORCH_INDEX) torch torchvision)
	$(BIN)/pip install --progress-bar off $(if $(TORCH_INDEX),,-c constraints.txt) -e '.[dev,lite]'
	@touch $@

demo: $(VENV)/.installed  ## train two strategies on pictures that need no download
	$(BIN)/headstart demo

test: $(VENV)/.installed  ## unit, contract and integration tests
	$(BIN)/python -m pytest -m "not soak and not mxnet" -n $(WORKERS) --maxprocesses 8 --dist worksteal

test-mxnet: $(VENV)/.installed  ## compare with MXNet itself, in an environment of its own (Python 3.11)
	@if [ -z "$(PYTHON311)" ]; then echo "No Python 3.11 here, which MXNet needs: the comparison with it is left out."; \
	else $(MAKE) --no-print-directory $(MXNET_VENV)/.installed && \
	MXNET_PYTHON=$(MXNET_VENV)/bin/python $(BIN)/python -m pytest -m mxnet tests/mxnet; fi

$(MXNET_VENV)/.installed: tests/mxnet/requirements.txt
	$(PYTHON311) -m venv $(MXNET_VENV)
	$(MXNET_VENV)/bin/pip install --progress-bar off -r tests/mxnet/requirements.txt
	@touch $@

check: $(VENV)/.installed  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(VENV)/.installed  ## write docs/benchmarks.md: make bench DATA=folder of hymenoptera and hotdog
	@test -n "$(DATA)" || { echo "name the folder of the real sets: make bench DATA=DIR"; exit 2; }
	$(BIN)/python -m benchmarks --data "$(DATA)" $(if $(FASTAI_PYTHON),--fastai-python "$(FASTAI_PYTHON)")

soak: $(VENV)/.installed  ## what is too long for CI
	$(BIN)/python -m pytest -m soak

format: $(VENV)/.installed  ## write the canonical formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and caches
	rm -rf $(VENV) $(MXNET_VENV) .mypy_cache .ruff_cache .pytest_cache
