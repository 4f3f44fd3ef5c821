# Every target sets itself up from a fresh clone: it makes .venv and installs what it needs there, once.
# Another interpreter: make test PYTHON=python3.13

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

EXTRA_run :=
EXTRA_test := [test]
EXTRA_lint := [dev]
EXTRA_docs := [doc]

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test lint docs parity clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.installed-run ## annotate a small data set, offline
	$(BIN)/python demo/run.py

test: $(VENV)/.installed-test ## run the tests, offline
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

lint: $(VENV)/.installed-lint ## check style, format and types
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy

docs: $(VENV)/.installed-docs ## build the documentation into docs/_build/html
	$(BIN)/python -m sphinx -b html docs docs/_build/html

parity: $(VENV)/.installed-run ## compare scGPT with the official code (installs scgpt, online)
	$(BIN)/python benchmarks/parity.py

clean: ## remove the environment, caches and everything that was built
	rm -rf $(VENV) build dist docs/_build docs/generated docs/notebooks .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -f demo/*.h5ad demo/*.png
	find src tests docs recipes benchmarks demo -type d -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# The stamps are touched last, so an interrupted or failing step is done again next time.
$(VENV)/.created:
	@command -v "$(PYTHON)" >/dev/null 2>&1 || \
		{ echo "error: $(PYTHON) was not found; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: bioverse-sc needs Python 3.11 or newer, but $(PYTHON) is $$("$(PYTHON)" --version 2>&1); name a newer one: make PYTHON=python3.13" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	@touch $@

$(VENV)/.installed-%: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.$(EXTRA_$*)'
	@touch $@
