# Everything a newcomer needs: `make demo` and `make test` work from a fresh clone with python3 and make alone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Python compiles what is imported, a small part of what is installed.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile
# Processes that tests run in, a module in one of them and in order, because modules of a package share fixtures.
WORKERS ?= 2
# Tests on real servers wait for them a third of the time.
REAL_WORKERS ?= 3
# A test that ends its process, as one that hangs does in the end, would be run again in the next one.
TESTS := $(BIN)/pytest -q --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -n
SOURCES := export orchestrator benchmarks tools tests examples deploy
# Where the environment forbids to keep what Python compiles, each of the programs that tests start compiles all of its
# imports anew: 1.5 s of a processor for a gateway.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test check lint compiled integration docs images containers release bench-controller bench-overhead bench-resilience bench-decisions bench-simulator bench-clients bench-restarts bench-fidelity bench-real bench-frozen bench-sharing bench-paper bench-fitted bench-tracing bench-families fuzz attack format clean

help:
	@echo "make demo    the default among its rivals on two real Tritons: reports/demo.html, two minutes (no GPU, no torch)"
	@echo "make test    all checks, then every test, those on real Triton included"
	@echo "make check   format, lint, types, layers and the fast tests"
	@echo "make docs    the documentation as a site, build/site/index.html, and manual pages, build/man; a dead link is an error"
	@echo "make images      the three images with docker, or ENGINE=podman"
	@echo "make containers  the chart's profile without GPU in real containers, on Debian as root: some 6 minutes at first"
	@echo "make release     wheel, sdist and chart in dist/, and the images, checked; SLIMSCHED_REPOSITORY=https://… is where links lead"
	@echo "make bench-controller  the controller on a real Triton: docs/benchmarks/controller.md, some 14 minutes"
	@echo "make bench-overhead    router and gateway against tritonclient and Envoy: docs/benchmarks/overhead.md, some 5 minutes"
	@echo "make bench-resilience  the gateway when Tritons fail, in bursts and for long: docs/benchmarks/resilience.md, 40 minutes"
	@echo "make bench-decisions   what one routing decision takes: docs/benchmarks/decisions.md, half a minute"
	@echo "make bench-simulator   decisions a second in simulation: docs/benchmarks/simulator.md, two minutes"
	@echo "make bench-fidelity    real Tritons against the simulator: docs/evaluation/evaluation-real.md, 15 minutes"
	@echo "make bench-real        every policy on real servers, quiet and beside other work: docs/benchmarks/real.md, 55 minutes for each of REAL_FLEETS"
	@echo "make bench-frozen      policies fitted to each frozen scenario: docs/evaluation/evaluation-frozen.md, three hours of processor time"
	@echo "make bench-sharing     two, four and eight gateways over one fleet against one: docs/benchmarks/sharing.md, some 45 minutes"
	@echo "make bench-fitted      policies fitted to a profile and nine kinds of traffic against the default, on real servers: docs/benchmarks/fitted.md, an hour"
	@echo "make bench-paper       random routing, rules and ppo-paper on three real servers with controllers: docs/benchmarks/paper.md, an hour"
	@echo "make bench-tracing     a gateway that traces 1 % against one that traces none: docs/benchmarks/tracing.md, 9 minutes"
	@echo "make bench-families    a family beside one that floods against it alone: docs/benchmarks/families.md, 5 minutes"
	@echo "make bench-clients     perf_analyzer and kserve at a gateway, all they can: docs/benchmarks/clients.md, some 3 minutes"
	@echo "make bench-restarts    gateways restarted under grpcio, grpc-js, grpc-go and balancers: docs/benchmarks/restarts.md, 10 minutes"
	@echo "make fuzz              bytes that break a parser, FUZZ_SECONDS=20 for each target"
	@echo "make attack            what one client can do to the others: docs/benchmarks/attack.md, some 6 minutes"
	@echo "make format  let ruff rewrite what it can"
	@echo "make clean   remove what the other targets made, $(VENV) included"

demo: $(VENV)/.serving
	$(BIN)/slimsched demo --out reports

test: check integration

# What Numba compiles for the tests is compiled while pip installs what else there is, and mypy reads.
check: $(BIN)/pip
	@$(MAKE) --no-print-directory --jobs=2 lint compiled
	$(TESTS) $(WORKERS) -m "not integration and not gpu and not containers"

lint: $(VENV)/.everything
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

compiled: $(VENV)/.compiler
	@$(BIN)/python -m tests.compile_ahead

# One module in ten has such tests; importing all others takes each process half a minute.
integration: $(VENV)/.everything
	$(TESTS) $(REAL_WORKERS) -m "integration or gpu" --integration \
	  $$(grep -rlE 'mark\.(integration|gpu)\b' tests --include='test_*.py' | LC_ALL=C sort)

docs: $(VENV)/.everything
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python -m tools.man_pages build/man

# BUILD_OPTIONS has what your network needs, such as --build-arg BASE=mirror.example.org/python:3.11-slim-bookworm.
ENGINE ?= docker
images:
	for target in gateway controller embedded; do \
	  $(ENGINE) build $(BUILD_OPTIONS) --file deploy/images/Dockerfile --target $$target \
	    --build-arg REVISION=$$(git rev-parse HEAD) --tag slim-scheduler/$$target:0.1.0 . || exit 1; \
	done

containers: $(VENV)/.everything
	tests/deploy/build_images.sh
	$(BIN)/pytest -q --containers tests/deploy/test_real_containers.py

release: $(VENV)/.everything
	$(BIN)/python -m tools.release dist
	@if command -v $(ENGINE) > /dev/null; then \
	  $(MAKE) --no-print-directory images && $(BIN)/python -m tools.release --images $(ENGINE); \
	else echo "no $(ENGINE) here, so no images; set ENGINE, or run 'make images' where there is one"; fi

# Alone on the machine: its figures are times and processor shares.
bench-controller: $(VENV)/.bench
	$(BIN)/python -m benchmarks.controller --out docs/benchmarks

# Likewise: router and gateway against tritonclient and Envoy.
bench-overhead: $(VENV)/.bench
	$(BIN)/python -m benchmarks.overhead --out docs/benchmarks --report reports/bench-overhead.json

# Likewise; the half hour of mixed load alone need not be.
bench-resilience: $(VENV)/.bench
	$(BIN)/python -m benchmarks.resilience --out docs/benchmarks

bench-decisions: $(VENV)/.everything
	$(BIN)/python -m benchmarks.decisions

# Alone on the machine: what it compares is times.
bench-fidelity: $(VENV)/.everything
	rm -rf build/fidelity
	for session in 1 2; do $(BIN)/python -m benchmarks.fidelity --more || exit 1; done
	$(BIN)/python -m benchmarks.fidelity
	$(BIN)/python -m benchmarks.fidelity.matrix --out docs/benchmarks

# Likewise, for 55 minutes a fleet; it goes on where it was interrupted, with what build/real.jsonl has.
REAL_FLEETS ?= --fleet "two unlike" --fleet "four alike, slower"
bench-real: $(VENV)/.bench
	$(BIN)/python -m benchmarks.real $(REAL_FLEETS) --out docs/benchmarks

# It goes on where it was interrupted, with what reports/frozen has.
bench-frozen: $(VENV)/.everything
	$(BIN)/python -m benchmarks.frozen

# It goes on where it was interrupted, with what build/sharing.jsonl has.
bench-sharing: $(VENV)/.bench
	$(BIN)/python -m benchmarks.sharing --out docs/benchmarks

bench-paper: $(VENV)/.everything $(VENV)/.bench
	$(BIN)/python -m benchmarks.paper --out docs/benchmarks

# It goes on where it was interrupted, with what build/fitted has.
bench-fitted: $(VENV)/.everything $(VENV)/.bench
	$(BIN)/python -m benchmarks.fitted --out docs/benchmarks

bench-tracing: $(VENV)/.everything
	$(BIN)/python -m benchmarks.tracing --out docs/benchmarks

bench-families: $(VENV)/.serving
	$(BIN)/python -m benchmarks.families --out docs/benchmarks

bench-simulator: $(VENV)/.everything
	$(BIN)/python -m benchmarks.simulator

# Whether foreign clients work, not how fast: the machine need not be quiet.
bench-clients: $(VENV)/.bench $(VENV)/kserve
	$(BIN)/python -m benchmarks.clients --out docs/benchmarks --kserve $(VENV)/kserve/bin/python

# Likewise. Debian and Ubuntu have what it needs beside: haproxy, nginx, nodejs, npm, golang-go, golang-google-grpc-dev.
bench-restarts: $(VENV)/.bench $(VENV)/node_modules
	$(BIN)/python -m benchmarks.restarts --out docs/benchmarks --node-modules $(VENV)/node_modules

# One that is found is printed; see CONTRIBUTING.md for what then.
FUZZ_SECONDS ?= 20
fuzz: $(VENV)/.fuzz
	$(BIN)/python -m tests.fuzzing.run --seconds $(FUZZ_SECONDS) $(FUZZ_OPTIONS)

# Alone on the machine. ATTACK_OPTIONS='--grpc host:port --http host:port' attacks a gateway of yours that runs.
attack: $(VENV)/.bench
	$(BIN)/python -m benchmarks.attack $(ATTACK_OPTIONS)

format: $(VENV)/.everything
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else \
	  "slim-scheduler needs Python 3.11 or 3.12, %s is %d.%d; try: make PYTHON=python3.12" % (sys.executable, *v))'
	@echo "making $(VENV)"
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# What serving and the demo need: no torch.
$(VENV)/.serving: pyproject.toml | $(BIN)/pip
	@echo "installing what serving needs into $(VENV) (a few minutes on the first run)"
	$(PIP) --editable '.[local]'
	@echo "compiling what decides (half a minute or more, once for each version of the sources)"
	$(BIN)/python -c 'from orchestrator.policies.preparation import prepare; prepare()'
	@touch $@

# What compiling needs, in versions that the rest can do with.
$(VENV)/.compiler: pyproject.toml | $(BIN)/pip
	@echo "installing what decides into $(VENV)"
	$(PIP) --editable . 'numpy<2'
	@touch $@

# All of it, training and the tests' tools included.
$(VENV)/.everything: pyproject.toml tests/foreign-networks.txt | $(VENV)/.compiler
	@echo "installing everything into $(VENV) (some minutes on the first run)"
	$(PIP) --editable '.[all]'
	$(PIP) --no-deps --requirement tests/foreign-networks.txt
	@touch $(VENV)/.serving $@

# What the benchmarks need beside what serving needs.
$(VENV)/.bench: $(VENV)/.serving
	@echo "installing the load generator into $(VENV)"
	$(PIP) --editable '.[local,bench]'
	@touch $@

# Coverage-guided fuzzing beside what the tests need.
$(VENV)/.fuzz: $(VENV)/.everything
	$(PIP) --editable '.[all,fuzz]'
	@touch $@

# kserve asks for numpy 2, which the embedded Triton refuses.
$(VENV)/kserve: | $(BIN)/pip
	@echo "installing kserve into $@"
	$(PYTHON) -m venv $@
	$@/bin/python -m pip --disable-pip-version-check install --quiet kserve || { rm -rf $@; exit 1; }

# Where there is no npm, the benchmark says what it left out.
$(VENV)/node_modules: | $(BIN)/pip
	@echo "installing grpc-js into $@"
	npm install --silent --no-save --prefix $(VENV) @grpc/grpc-js || rm -rf $@

clean:
	rm -rf $(VENV) reports build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
