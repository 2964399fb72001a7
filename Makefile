# make serve   let dlenv set up .venv-serve for this machine, and serve the shipped models at http://127.0.0.1:8000
# make test    set up everything in .venv-dev, and run all tests
#
# make test-fast   the tests that need no Ray, build no environment and train nothing for long
# make test-docker the image and what Compose makes of it, where a Docker engine runs (tests/docker/conftest.py)
# make test-chaos  processes killed and stopped under load, full disks, clocks that jump, setups that are killed
# make test-fuzz   a million cases; CASES=20000 is what `make test` tries
# make soak        one service under mixed load for two hours; MINUTES=10 for less
# make overload    a service that is asked for five times what it can do, for ten minutes
# make lint        formatting, linter, types
# make bench       measure dlenv beside other model servers (forty minutes; builds their environments in .bench)
# make bench-replicas  the same service with 1, 2, ... replicas on this machine (three minutes)
# make bench-training  training beside a bare loop, Lightning and skorch (five minutes)
# make docs        the documentation as a site, in docs/_build
# make reference   write docs/reference again, from the code
# make messages    write the catalog of translations (cli/dlenv/locale) again, from the source
# make audit       known vulnerabilities and licences of everything that is locked and installed
# make sbom        dist/sbom.cdx.json: all packages that a service can have, with versions and hashes (CycloneDX)
# make lock        resolve the requirement files again
# make clean       remove what was built (not the environments)

PYTHON    ?= python3
# dlenv without PyTorch: what sets up the other environments.
BOOTSTRAP ?= .venv-bootstrap
# Not .venv: `dlenv setup` keeps an environment for the course there, which `make serve` must not make another of.
SERVE     ?= .venv-serve
DEV       ?= .venv-dev
AUDIT     ?= .venv-audit
# Tests that run at once. Many of them wait most of the time.
WORKERS   ?= 2
BIN       := $(DEV)/bin
UV        := $(BOOTSTRAP)/bin/uv
# Ray reports usage to its makers unless told not to.
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: serve test test-fast test-docker test-chaos test-fuzz soak overload lint bench bench-replicas bench-training docs reference messages licences audit sbom lock clean

serve: $(BOOTSTRAP)/.done
	$(BOOTSTRAP)/bin/dlenv setup --env $(SERVE) --course none --with serve --yes
	exec $(SERVE)/bin/dlenv serve

test: $(DEV)/.done
	$(BIN)/python -m pytest --numprocesses $(WORKERS)

test-fast: $(DEV)/.done
	$(BIN)/python -m pytest --numprocesses $(WORKERS) -m "not ray and not slow"

test-docker: $(DEV)/.done
	$(BIN)/python -m pytest tests/docker

test-chaos: $(DEV)/.done
	TEST_CHAOS=1 $(BIN)/python -m pytest -s tests/chaos

# And new cases for the other tests of properties, which always get the same ones otherwise.
CASES ?= 1000000
test-fuzz: $(DEV)/.done
	TEST_FUZZ_CASES=$(CASES) $(BIN)/python -m pytest --timeout 7200 tests/fuzz
	TEST_FUZZ_CASES=$(CASES) $(BIN)/python -m pytest -m hypothesis --ignore tests/fuzz

MINUTES ?= 120
soak: $(DEV)/.done
	$(BIN)/python tests/chaos/soak.py --minutes $(MINUTES)

overload: $(DEV)/.done
	$(BIN)/python tests/chaos/overload.py

lint: $(DEV)/.done
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(DEV)/.done
	$(BIN)/python tests/bench/compare.py --out tests/bench/RESULTS.md --plot tests/bench/requests.png

bench-replicas: $(DEV)/.done
	$(BIN)/python tests/bench/replicas.py --out tests/bench/RESULTS.md

bench-training: $(DEV)/.done
	$(BIN)/python tests/bench/training.py --out tests/bench/RESULTS.md

docs: $(DEV)/.done
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build

reference: $(DEV)/.done
	$(BIN)/python docs/generate.py

messages: $(DEV)/.done
	$(BIN)/python docs/messages.py

licences: $(DEV)/.done
	$(BIN)/python requirements/licences.py

audit: licences $(AUDIT)/.done
	$(AUDIT)/bin/python requirements/audit.py

sbom: $(AUDIT)/.done
	mkdir -p dist
	$(AUDIT)/bin/cyclonedx-py requirements --pyproject pyproject.toml --mc-type application --output-reproducible \
		--output-format JSON --output-file dist/sbom.cdx.json requirements/serve.txt

clean:
	rm -rf dist build docs/_build .pytest_cache .mypy_cache .ruff_cache runs

# Versions and hashes come from requirements/*.txt; dlenv itself is installed editable.
$(BOOTSTRAP)/.done: requirements/bootstrap.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13) and "dlenv needs Python 3.10 to 3.13, and %s is %s; give another one: make PYTHON=python3.12 ..." % (sys.executable, sys.version.split()[0]))'
	$(PYTHON) -m venv $(BOOTSTRAP)
	$(BOOTSTRAP)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	$(BOOTSTRAP)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

$(DEV)/.done: requirements/dev.txt $(BOOTSTRAP)/.done
	test -d $(DEV) || $(UV) venv --quiet --python $(BOOTSTRAP)/bin/python $(DEV)
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements/dev.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

$(AUDIT)/.done: requirements/audit.txt $(BOOTSTRAP)/.done
	test -d $(AUDIT) || $(UV) venv --quiet --python $(BOOTSTRAP)/bin/python $(AUDIT)
	$(UV) pip install --quiet --python $(AUDIT)/bin/python --require-hashes -r requirements/audit.txt
	touch $@

# One resolution for every supported Python and system; the other files are parts of dev.txt, with the same versions.
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-annotate --custom-compile-command "make lock"
lock: $(BOOTSTRAP)/.done
	$(COMPILE) pyproject.toml requirements/build.in --extra dev -o requirements/dev.txt
	$(COMPILE) pyproject.toml --extra serve --extra train --extra otel -c requirements/dev.txt -o requirements/serve.txt
	$(COMPILE) pyproject.toml requirements/build.in -c requirements/dev.txt -o requirements/bootstrap.txt
	$(COMPILE) requirements/audit.in -c requirements/dev.txt -o requirements/audit.txt
