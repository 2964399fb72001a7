# make serve   set up what serving needs in .venv, and serve the shipped models at http://127.0.0.1:8000
# make test    set up everything in .venv, and run all tests
#
# make test-fast   the tests that need no Ray and no long training
# make lint        formatting, linter, types
# make lock        resolve the requirement files again
# make clean       remove what was built (not .venv)

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
UV     := $(BIN)/uv pip
# Ray reports usage to its makers unless told not to.
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: serve test test-fast lint lock clean

serve: $(VENV)/.serve
	exec $(BIN)/dlenv serve

test: $(VENV)/.dev
	$(BIN)/python -m pytest

test-fast: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not ray and not slow"

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache runs

# The environment. Versions and hashes come from requirements/*.txt; dlenv itself is installed editable.
$(VENV)/.build: requirements/build.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13) and "dlenv needs Python 3.10 to 3.13, and %s is %s; give another one: make PYTHON=python3.12 ..." % (sys.executable, sys.version.split()[0]))'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/build.txt
	touch $@

$(VENV)/.%: requirements/%.txt pyproject.toml $(VENV)/.build
	$(UV) install --quiet --python $(BIN)/python --require-hashes -r requirements/$*.txt
	$(UV) install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

# One resolution for every supported Python and system; serve.txt is a part of dev.txt, with the same versions.
COMPILE := $(UV) compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-annotate --custom-compile-command "make lock"
lock: $(VENV)/.build
	$(COMPILE) requirements/build.in -o requirements/build.txt
	$(COMPILE) pyproject.toml --extra dev -o requirements/dev.txt
	$(COMPILE) pyproject.toml --extra serve -c requirements/dev.txt -o requirements/serve.txt
