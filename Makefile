# Two commands do all the set-up: `make study` and `make test`. Each installs first if needed.
PYTHON ?= python3
VENV ?= .venv
RESULTS ?= $(or $(DART_RESULTS),results)
STUDY ?= studies/quickstart.yaml
PORT ?= 5000
TEST_ARGS ?= -n 2 --dist loadfile

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two test processes share the cores; one thread each keeps them from fighting.
TEST_ENV := OMP_NUM_THREADS=1 MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true

.DEFAULT_GOAL := help
.PHONY: help study test check ui lock clean

help: ## Print this list.
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

$(STAMP): pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dart needs Python 3.11 or newer, and this is " + sys.version.split()[0] + "; name another with: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev]'
	touch $@

study: $(STAMP) ## Run a study (STUDY=studies/quickstart.yaml); finished runs are not repeated.
	$(BIN)/python run_study.py $(STUDY) --results $(RESULTS)

test: $(STAMP) ## Run the tests; TEST_ARGS goes to pytest.
	$(TEST_ENV) $(BIN)/python -m pytest $(TEST_ARGS)

check: $(STAMP) ## Everything that CI runs: style, types, layers, tests.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory test

ui: $(STAMP) ## Open a study's runs in MLflow, on this machine only (STUDY=, PORT=5000).
	$(BIN)/dart ui $(STUDY) --results $(RESULTS) --port $(PORT)

lock: $(STAMP) ## Write the installed versions to requirements.lock.
	echo '# Exact versions for: pip install -c requirements.lock -e ".[dev]"; written by: make lock' \
	  > requirements.lock.new
	$(BIN)/python -m pip freeze --all --exclude-editable \
	  | grep -v -i -E '^(pip|nvidia-[^=]*|cuda-[^=]*|triton)==| @ ' >> requirements.lock.new
	mv requirements.lock.new requirements.lock
	touch $(STAMP)

clean: ## Remove the environment and every cache; results stay.
	rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
