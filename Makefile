# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Everything that is checked is checked by a target of this file; CI calls the same targets.
# They do their own set-up in .venv and .build, on a machine with make, git and Python 3.11 to 3.13.

# Engines for the system tests: "auto" (the embedded ones and Redis 7.0), "all" (the whole matrix,
# where a missing engine is a failure) or names: ENGINES="valkey-9.1 redis-6.2".
ENGINES ?= auto
# Not empty: `make test` fails on a row of its table that did not run.
STRICT ?=
# How many processes share the system tests.
JOBS ?= 6
# Folders of test servers: each SETSLOT writes nodes.conf to the disk.
KEYSLOT_FOLDERS ?= $(shell test -w /dev/shm && echo /dev/shm)
# The ansible-cores on which sanity, ansible-units and integration can run, each in a venv of its own
# (with Python 3.12, which all of them take): `make sanity CORE=2.20.10`. Without CORE it is .venv's.
ALL_CORES := 2.16.19 2.19.14 2.20.10 2.21.5
CORE ?=
# Those on which `make test` runs them besides: `make test CORES=all`, or some of that list.
CORES ?=
# The Python of .venv is the first of these that is 3.11 to 3.13, whole, and really runs.
PYTHON ?= python3.13 python3.12 python3.11 python3

VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
BUILD := $(CURDIR)/.build
VENVS := $(CURDIR)/.cache/venvs
CORE_BIN := $(if $(CORE),$(VENVS)/core-$(CORE)/bin,$(BIN))
CORE_STAMP := $(if $(CORE),$(VENVS)/core-$(CORE)/.stamp)
TOOLS := $(VENVS)/tools
# ansible-test refuses a symlink, and looks at what git does not ignore: so, a copy.
COPY := $(BUILD)/$(if $(CORE),core-$(CORE)/)ansible_collections/keyslot/redis
# Oldest and newest Python on which modules run, where the core knows the newest.
TARGET_PYTHONS := 3.9 $(if $(filter 2.16.%,$(CORE)),3.12,3.13)

export ANSIBLE_COLLECTIONS_PATH := $(VENV)/collections
export ANSIBLE_NOCOLOR := 1
export KEYSLOT_ENGINES := $(ENGINES)
export KEYSLOT_FOLDERS
export KEYSLOT_TOOLS := $(TOOLS)/bin
export KEYSLOT_SUMMARY := $(BUILD)/summary.jsonl
export PYTHONPYCACHEPREFIX := $(BUILD)/pycache
unexport PYTHONDONTWRITEBYTECODE
export PATH := $(if $(CORE),$(CORE_BIN):)$(BIN):$(PATH)

RUN := $(BIN)/python $(CURDIR)/tests/summary.py run
RECORD := $(BIN)/python $(CURDIR)/tests/summary.py record
# One ansible-test at a time: they share ~/.ansible/test. What is measured is the stage, not the wait.
ANSIBLE_TEST = cd $(COPY) && flock ~/.ansible/test/keyslot.lock $(RUN)
# Its real place: an activated .venv must not be the base of itself.
BASE_PYTHON = $(shell for p in $(PYTHON); do "$$p" -c 'import ensurepip, os, sys, venv; \
	print(os.path.realpath(sys.executable)) if (3, 11) <= sys.version_info[:2] <= (3, 13) else sys.exit(1)' \
	2>/dev/null && break; done)
CORE_PYTHON = $(shell $(CORE_BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
CORE_VERSION = $(shell $(CORE_BIN)/python -c 'import ansible.release as r; print(r.__version__)')
CORE_TOLD = core $(CORE_VERSION)
# find_python 3.9: the folder of a python3.9 that runs, from the PATH or from pyenv (whose shims
# may stand on the PATH and not run).
FIND_PYTHON = find_python() { \
	for p in "python$$1" "$${PYENV_ROOT:-$$HOME/.pyenv}/versions/$$1."*"/bin/python$$1"; do \
	"$$p" -c 'import os, sys; print(os.path.dirname(os.path.realpath(sys.executable)))' \
	2>/dev/null && return; done; return 1; }

.DEFAULT_GOAL := help
.PHONY: help
help:  ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

$(STAMP): requirements-dev.txt
	@python=$(BASE_PYTHON); [ -n "$$python" ] || \
		{ echo "No Python 3.11 to 3.13 with venv and ensurepip among: $(PYTHON)" >&2; exit 1; }; \
	echo "Setting up .venv with $$python"; "$$python" -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	@mkdir -p $(VENV)/collections/ansible_collections/keyslot
	@ln -sfnr $(CURDIR) $(VENV)/collections/ansible_collections/keyslot/redis
	@touch $@

$(VENVS)/core-%/.stamp: tests/integration/requirements.txt | $(STAMP)
	@$(FIND_PYTHON); dir=$$(find_python 3.12) || { echo "No Python 3.12 for ansible-core $*" >&2; exit 1; }; \
		$$dir/python3.12 -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check ansible-core==$* \
		--requirement tests/integration/requirements.txt
	@touch $@

$(TOOLS)/.stamp: requirements-tools.txt requirements-dev.txt | $(STAMP)
	@$(BASE_PYTHON) -m venv --clear $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements-tools.txt
	@touch $@

.PHONY: venv tools
venv: $(STAMP)  ## Set up .venv (again, when requirements-dev.txt has changed)
tools: $(STAMP) $(TOOLS)/.stamp

.PHONY: demo
demo: venv  ## Show on an embedded cluster what the collection does
	@$(BIN)/python -m tests.demo

.PHONY: lint
lint: venv  ## Check style, types, documentation and changelog
	@$(RUN) lint "style, types, documentation" -- $(MAKE) --no-print-directory -k -j1 --output-sync=none $(addprefix _lint-,\
		ruff format mypy yamllint ansible-lint changelog docs reuse)

.PHONY: _lint-ruff _lint-format _lint-mypy _lint-yamllint _lint-ansible-lint _lint-changelog _lint-docs _lint-reuse
_lint-ruff:
	$(BIN)/ruff check --quiet .
_lint-format:
	$(BIN)/ruff format --quiet --check .
_lint-mypy:
	MYPYPATH=$(VENV)/collections $(BIN)/mypy $(wildcard tests/harness tests/chaos benchmarks) tests/summary.py \
		$(addprefix $(VENV)/collections/ansible_collections/keyslot/redis/plugins/,\
			filter inventory module_utils plugin_utils)
_lint-yamllint:
	$(BIN)/yamllint --strict .
_lint-ansible-lint:
	$(BIN)/ansible-lint --profile production --offline -q
_lint-changelog:
	$(BIN)/antsibull-changelog lint
_lint-docs:
	$(BIN)/antsibull-docs lint-collection-docs --plugin-docs --validate-collection-refs=all .
_lint-reuse:
	$(BIN)/reuse lint --quiet || $(BIN)/reuse lint --lines

.PHONY: unit
unit: venv  ## Run the unit tests directly (fast)
	@$(RUN) unit "python $(CORE_PYTHON)" -- $(BIN)/pytest tests/unit

.PHONY: system
system: venv  ## Run the system tests against real clusters (ENGINES=auto|all|names)
	@if [ -d tests/system ]; then $(RUN) system "engines: $(ENGINES)" -- \
		$(BIN)/pytest tests/system -n $(JOBS) --dist loadscope; \
		else $(RECORD) system "engines: $(ENGINES)" "not available" "no tests"; fi

# What to measure: CASES="classic atomic", and how: BENCH="--keys 100000 --repeats 5".
CASES ?=
BENCH ?=
.PHONY: bench
bench: venv  ## Measure this and the vendors' tools in turn (CASES="classic atomic", BENCH=options)
	@$(BIN)/python -m benchmarks run $(CASES) --json $(BUILD)/benchmarks.json $(BENCH)

# How long faults strike on each engine, and in which order they come.
SECONDS ?= 300
SEED ?= 1
.PHONY: chaos
chaos: venv  ## Strike at clusters while slots move, and cut runs everywhere (SECONDS=, SEED=, ENGINES=)
	@PYTHONPATH=$(VENV)/collections $(BIN)/python -m tests.chaos --seconds $(SECONDS) --seed $(SEED) \
		--baseline --json $(BUILD)/chaos.json
	@KEYSLOT_CRASH_POINTS=all $(BIN)/pytest tests/system/test_crash_points.py -n $(JOBS) --dist loadscope

.PHONY: copy
copy: venv $(CORE_STAMP)
	@rm -rf $(COPY) && mkdir -p $(COPY) && git init --quiet $(COPY)
	@git ls-files -z --cached --others --exclude-standard \
		| xargs -0 sh -c 'for f; do [ ! -e "$$f" ] || printf "%s\0" "$$f"; done' sh \
		| tar --create --null --files-from=- | tar --extract --directory=$(COPY)
	@printf '%s\n' '---' 'harness_checkout: "$(CURDIR)"' 'harness_python: "$(BIN)/python"' \
		> $(COPY)/tests/integration/integration_config.yml
	@cache=$$($(CORE_BIN)/python -c 'from ansible_test._internal.python_requirements import get_venv_packages; \
		import types; print(get_venv_packages(types.SimpleNamespace(version="3"))["pip"].replace(".", "_"))') \
		&& cache=~/.ansible/test/cache/get_pip_$$cache.py && mkdir -p $${cache%/*} \
		&& { [ -e $$cache ] || cp tests/get_pip.py $$cache; }

.PHONY: sanity
sanity: copy  ## Run ansible-test sanity; import and compile on the oldest and newest Python, too
	@rc=0; $(FIND_PYTHON); \
	( $(ANSIBLE_TEST) sanity "$(CORE_TOLD), python $(CORE_PYTHON)" -- \
		$(CORE_BIN)/ansible-test sanity --color no --python $(CORE_PYTHON) ) || rc=1; \
	for v in $(filter-out $(CORE_PYTHON),$(TARGET_PYTHONS)); do \
		if dir=$$(find_python $$v); then \
			( PATH="$$dir:$$PATH"; $(ANSIBLE_TEST) sanity "$(CORE_TOLD), python $$v, import and compile" -- \
				$(CORE_BIN)/ansible-test sanity --color no --python $$v --test import --test compile ) || rc=1; \
		else $(RECORD) sanity "$(CORE_TOLD), python $$v, import and compile" "not available" "no such Python"; fi; \
	done; exit $$rc

.PHONY: ansible-units
ansible-units: copy  ## Run the unit tests by ansible-test, on the oldest and newest Python
	@rc=0; $(FIND_PYTHON); for v in $(TARGET_PYTHONS); do \
		if dir=$$(find_python $$v); then \
			( PATH="$(CORE_BIN):$$dir:$$PATH"; $(ANSIBLE_TEST) ansible-units "$(CORE_TOLD), python $$v" -- \
				$(CORE_BIN)/ansible-test units --color no --venv --python $$v ) || rc=1; \
		else $(RECORD) ansible-units "$(CORE_TOLD), python $$v" "not available" "no such Python"; fi; \
	done; exit $$rc

.PHONY: integration
integration: copy  ## Run the ansible-test integration targets, with modules on the oldest and newest Python
	@rc=0; $(FIND_PYTHON); for v in $(TARGET_PYTHONS); do \
		if dir=$$(find_python $$v); then \
			( PATH="$(CORE_BIN):$$dir:$$PATH"; $(ANSIBLE_TEST) integration "$(CORE_TOLD), python $$v" -- \
				$(CORE_BIN)/ansible-test integration --color no \
				--controller origin:python=$(CORE_PYTHON) --target controller:python=venv/$$v ) || rc=1; \
		else $(RECORD) integration "$(CORE_TOLD), python $$v" "not available" "no such Python"; fi; \
	done; exit $$rc

.PHONY: cores
cores: venv  ## Run sanity, ansible-units and integration on the ansible-cores CORES (default: all but .venv's)
	@rc=0; $(FIND_PYTHON); for core in $(filter-out $(if $(filter all,$(or $(CORES),all)),$(CORE_VERSION)),\
			$(if $(filter all,$(or $(CORES),all)),$(ALL_CORES),$(CORES))); do \
		if find_python 3.12 > /dev/null; then \
			$(MAKE) --no-print-directory --keep-going -j1 CORE=$$core core || rc=1; \
		else $(RECORD) cores "core $$core" "not available" "no Python 3.12"; fi; \
	done; exit $$rc
.PHONY: core
core: sanity ansible-units integration

.PHONY: build
build: tools  ## Build the collection's tarball in .build, and test it
	@$(BIN)/ansible-galaxy collection build --force --output-path $(BUILD) .
	@$(RUN) build tarball -- $(BIN)/pytest tests/package

.PHONY: docs
docs: tools  ## Build the documentation in .build/docs; every warning is an error
	@rm -rf $(BUILD)/docs && mkdir -p -m 700 $(BUILD)/docs
	@$(TOOLS)/bin/antsibull-docs sphinx-init --use-current --squash-hierarchy --fail-on-error \
		--dest-dir $(BUILD)/docs --project keyslot.redis --title keyslot.redis keyslot.redis > /dev/null
	@cat tests/sphinx_conf.py >> $(BUILD)/docs/conf.py
	@PATH="$(TOOLS)/bin:$$PATH"; $(RUN) docs "antsibull-docs, sphinx" -- $(BUILD)/docs/build.sh
	@echo "$(BUILD)/docs/build/html/index.html"

.PHONY: molecule
molecule: tools  ## Run the molecule scenario on this machine
	@cd extensions && PATH="$(TOOLS)/bin:$$PATH" KEYSLOT_PYTHON=$(BIN)/python NO_COLOR=1 \
		$(RUN) molecule default -- $(TOOLS)/bin/molecule test --all

# Long ones first, so that two cores are busy to the end.
STAGES := system $(if $(CORES),cores) sanity lint build unit ansible-units integration docs molecule

.PHONY: test
test: venv  ## Run all of these, and end with one table of what ran
	@rm -f $(KEYSLOT_SUMMARY)
	-@$(MAKE) --no-print-directory --keep-going -j2 --output-sync=target $(STAGES)
	@$(BIN)/python tests/summary.py show $(if $(STRICT),--strict)

.PHONY: clean
clean:  ## Remove all that the targets above have made
	rm -rf $(VENV) $(BUILD) .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache .ansible tests/output
