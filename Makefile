.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The newest requirement file decides whether the environment is up to date.
STAMP := $(VENV)/.installed
EMULATORS := .venv-ministack/.installed tests/emulators/node_modules/.installed

# What `make test` runs, and in how many processes; CI runs the slow proofs with it, which mostly wait.
TESTS ?= not slow
JOBS ?= 3

# Tests start hundreds of Python processes: where an environment forbids to keep what was compiled, each would
# compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test slow compiled emulators long fuzz lint types architecture audit checkov check clean bench

help: ## Show this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

demo: $(VENV)/.demo ## Install cloudq into .venv and run its main job: a worker, a thousand tasks
	$(BIN)/cloudq demo

$(STAMP): pyproject.toml requirements/dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check uv
	$(BIN)/uv pip install -q --python $(BIN)/python -r requirements/dev.txt
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@ $(VENV)/.demo

# ministack has an environment of its own: its Lambda functions see what is installed beside it
.venv-ministack/.installed: $(STAMP) requirements/ministack.txt
	$(PYTHON) -m venv --without-pip .venv-ministack
	$(BIN)/uv pip install -q --python .venv-ministack/bin/python -r requirements/ministack.txt
	@touch $@

tests/emulators/node_modules/.installed: tests/emulators/package.json
	@if command -v npm >/dev/null; then \
	  cd tests/emulators && npm install --silent --no-audit --no-fund && touch node_modules/.installed; \
	else echo "npm not found: the Azure tests will be skipped"; fi

test: $(STAMP) .venv-ministack/.installed tests/emulators/node_modules/.installed ## Install what the tests need and run them all (but the slow proofs)
	$(BIN)/pytest -q -n $(JOBS) --dist loadgroup -m "$(TESTS)"

slow: $(STAMP) .venv-ministack/.installed tests/emulators/node_modules/.installed ## Run the slow proofs: chaos and crash tests
	$(BIN)/pytest -q -n 3 --dist loadgroup -m "slow and not long"

# Once, instead of once in each process that runs tests: assertions are rewritten, and everything is compiled.
compiled: $(STAMP) ## Compile the tests
	@$(BIN)/pytest -q --collect-only -m "not long" >/dev/null || $(BIN)/pytest -q --collect-only -m "not long"

long: $(STAMP) .venv-ministack/.installed tests/emulators/node_modules/.installed ## Run the proofs that take minutes each, beyond CI's time
	$(BIN)/pytest -q -n 2 --dist loadgroup -m long

fuzz: $(STAMP) ## Feed bred texts to all that reads what comes from outside; ARGS="--seconds 600 --runs 10000000 message"
	$(BIN)/python tests/fuzz/hunt.py $(ARGS)

lint: $(STAMP) ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## Check types, strictly
	$(BIN)/mypy

architecture: $(STAMP) ## Check that imports run downstairs
	$(BIN)/lint-imports

audit: $(STAMP) ## Look for unsafe code, and for known holes in what is installed (where the advisories can be asked)
	$(BIN)/bandit -q -c pyproject.toml -r cloudq handlers
	$(BIN)/python .ci/audit.py

.venv-bench/.installed: requirements/bench.txt pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install -q --disable-pip-version-check -r requirements/bench.txt
	.venv-bench/bin/python -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

bench: .venv-bench/.installed ## Run cloudq, bare loops, Celery, Dramatiq and taskiq side by side; ARGS="--tasks 5000 --only cloudq,http"
	.venv-bench/bin/python -m benchmarks.field --json field.json --plot field.png $(ARGS)

# checkov pins a hundred packages of its own: it has an environment of its own
.venv-checkov/.installed: $(STAMP) requirements/checkov.txt
	$(PYTHON) -m venv --without-pip .venv-checkov
	$(BIN)/uv pip install -q --python .venv-checkov/bin/python -r requirements/checkov.txt
	@touch $@

checkov: .venv-checkov/.installed ## Check the Terraform modules for unsafe settings; each exception has its reason beside it
	.venv-checkov/bin/checkov -d terraform/modules --framework terraform --skip-download --compact --quiet

check: lint types architecture audit ## All checks that are not tests

emulators: .venv-ministack/.installed tests/emulators/node_modules/.installed ## Install the emulators that the tests need

clean: ## Remove environments and caches
	rm -rf .venv .venv-bench .venv-ministack .venv-checkov tests/emulators/node_modules .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
