# `make run` starts a broker from a fresh clone; `make help` lists the rest. Everything made here goes with `make clean`.

PYTHON ?= python3
PYPY ?= pypy3
LISTEN ?= tcp://127.0.0.1:8264
# Rows for bench/run.py: none means all. For example: make bench ROWS="one-way latency"
ROWS ?=
# How many processes the tests run in.
WORKERS ?= 2
PYTEST_ARGS ?=

SHELL := /bin/sh
MAKEFLAGS += --no-print-directory
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_ROOT_USER_ACTION = ignore

BIN := .venv/bin
# An install is stale when one of these is newer than its stamp. The other sources are read in place.
SOURCES := pyproject.toml setup.py protocol/_scan.c protocol/_train.c protocol/_scan_build.py

# $(call environment,FOLDER,PYTHON,PACKAGES): make a virtual environment unless a working one is there.
define environment
@$(1)/bin/python -m pip --version >/dev/null 2>&1 || { \
	command -v $(2) >/dev/null || { echo "$(2) is missing: apt-get install $(3)" >&2; exit 1; }; \
	rm -rf $(1); \
	$(2) -m venv $(1) >/dev/null || { rm -rf $(1); \
		echo "$(2) cannot make a virtual environment: apt-get install $(3)" >&2; exit 1; }; }
endef

# $(call install,FOLDER,WHAT): install the checkout in place, and say which scanner serves.
define install
@echo "installing $(2) into $(1)"
@$(1)/bin/python -m pip install --quiet --editable '$(2)'
@cd $(1) && bin/python -c 'import vanilla.protocol.scan as s; print("scanner:", {"c": "C", "python": \
	"Python (slower; for the C one: apt-get install gcc python3-dev, make clean)"}[s.KIND])'
endef

.PHONY: run test chaos fuzz soak lint demo bench bench-check test-pypy clean help

run: .venv/.installed ## start a broker here, in the foreground
	@echo
	@echo "In a second terminal, from this folder, try:"
	@echo
	@echo "    . .venv/bin/activate"
	@[ '$(LISTEN)' = tcp://127.0.0.1:8264 ] || echo "    export VANILLA_URL=$(LISTEN)"
	@echo "    echo '{\"id\": 1}' | vanilla push jobs"
	@echo "    vanilla pull jobs -n 1"
	@echo "    vanilla status"
	@echo "    vanilla demo"
	@echo
	@echo "ctrl-C here stops the broker."
	@echo
	@exec $(BIN)/vanilla-broker --listen $(LISTEN)

test: .venv/.installed-test ## all tests, and the examples in docstrings
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(PYTEST_ARGS)

# Networks that fail need root, and: apt-get install iproute2 nftables. Without them those scenarios say what is missing.
chaos: .venv/.installed-test ## the scenarios of tests/chaos in their long form, with figures: minutes
	@CHAOS=long $(BIN)/python -m pytest -p no:xdist -v -rs -o faulthandler_timeout=600 tests/chaos $(PYTEST_ARGS)

fuzz: .venv/.installed-test ## strangers and rogues against a live broker over UDP: minutes (FUZZ_SEED=N for one seed again)
	@FUZZ=long $(BIN)/python -m pytest -p no:xdist -v -s -o faulthandler_timeout=900 tests/test_hostile_udp.py $(PYTEST_ARGS)

soak: .venv/.installed-test ## is anything left of 100,000 connections, tasks, timeouts? With figures: minutes
	@SOAK=long $(BIN)/python -m pytest -p no:xdist -v -o faulthandler_timeout=600 tests/test_leaks.py $(PYTEST_ARGS)

lint: .venv/.installed-lint ## ruff, its formatting, and mypy over an installed tree
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python tests/typecheck.py

demo: .venv/.installed ## a tour: a broker and its clients in one terminal
	@exec $(BIN)/vanilla demo

bench: .venv-bench/.installed ## the benchmarks, beside other brokers' clients (ROWS="...")
	@.venv-bench/bin/python bench/run.py $(ROWS)

bench-check: .venv-bench/.installed ## has it got slower than the stored run? (STORE=1 stores this one)
	@.venv-bench/bin/python bench/check.py $(if $(STORE),--store)

test-pypy: .venv-pypy/.installed ## the tests on PyPy
	@.venv-pypy/bin/python -m pytest -n $(WORKERS) --dist loadgroup $(PYTEST_ARGS)

clean: ## remove all that make and the builds have made
	rm -rf .venv .venv-bench .venv-pypy build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f protocol/*.so protocol/*.o
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1: \2/p' Makefile

.venv/.installed: $(SOURCES)
	$(call environment,.venv,$(PYTHON),python3 python3-venv)
	$(call install,.venv,.)
	@touch $@

.venv/.installed-test: $(SOURCES)
	$(call environment,.venv,$(PYTHON),python3 python3-venv)
	$(call install,.venv,.[test])
	@touch .venv/.installed $@

.venv/.installed-lint: $(SOURCES)
	$(call environment,.venv,$(PYTHON),python3 python3-venv)
	$(call install,.venv,.[lint])
	@touch .venv/.installed $@

# A peer that cannot be installed here is named and left out: its rows then say so.
.venv-bench/.installed: $(SOURCES) bench/requirements.txt
	$(call environment,.venv-bench,$(PYTHON),python3 python3-venv)
	$(call install,.venv-bench,.)
	@sed -e 's/#.*//' -e 's/[[:space:]]*$$//' -e '/^$$/d' bench/requirements.txt | while read -r peer; do \
		.venv-bench/bin/python -m pip install --quiet "$$peer" </dev/null || echo "left out: $$peer" >&2; done
	@touch $@

.venv-pypy/.installed: $(SOURCES)
	$(call environment,.venv-pypy,$(PYPY),pypy3 pypy3-venv pypy3-dev)
	$(call install,.venv-pypy,.[test])
	@touch $@
