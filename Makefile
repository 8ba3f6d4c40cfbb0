# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Everything that is checked is checked by a target of this file; CI calls the same targets.
# They do their own set-up in .venv and .build, on a machine with make, git and Python 3.11 to 3.13.

# Engines for the system tests: "auto" (the embedded ones and what is at hand), "all" (the whole
# matrix, where a missing engine is a failure) or names: ENGINES="valkey-9.1 redis-6.2".
ENGINES ?= auto
# Not empty: `make test` fails on a row of its table that did not run.
STRICT ?=
# How many processes share the system tests.
JOBS ?= 3
# Folders of test servers: each SETSLOT writes nodes.conf to the disk.
KEYSLOT_FOLDERS ?= $(shell test -w /dev/shm && echo /dev/shm)
# The Python of .venv is the first of these that is 3.11 to 3.13, whole, and really runs.
PYTHON ?= python3.13 python3.12 python3.11 python3

VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
BUILD := $(CURDIR)/.build
# ansible-test refuses a symlink, and looks at what git does not ignore: so, a copy.
COPY := $(BUILD)/ansible_collections/keyslot/redis
# Oldest and newest Python on which modules run.
TARGET_PYTHONS := 3.9 3.13

export ANSIBLE_COLLECTIONS_PATH := $(VENV)/collections
export ANSIBLE_NOCOLOR := 1
export KEYSLOT_ENGINES := $(ENGINES)
export KEYSLOT_FOLDERS
export KEYSLOT_SUMMARY := $(BUILD)/summary.jsonl
export PYTHONDONTWRITEBYTECODE := 1
export PATH := $(BIN):$(PATH)

RUN := $(BIN)/python $(CURDIR)/tests/summary.py run
RECORD := $(BIN)/python $(CURDIR)/tests/summary.py record
# One ansible-test at a time: they share ~/.ansible/test. What is measured is the stage, not the wait.
ANSIBLE_TEST = cd $(COPY) && flock ~/.ansible/test/keyslot.lock $(RUN)
# Its real place: an activated .venv must not be the base of itself.
BASE_PYTHON = $(shell for p in $(PYTHON); do "$$p" -c 'import ensurepip, os, sys, venv; \
	print(os.path.realpath(sys.executable)) if (3, 11) <= sys.version_info[:2] <= (3, 13) else sys.exit(1)' \
	2>/dev/null && break; done)
VENV_PYTHON = $(shell $(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
CORE = core $(shell $(BIN)/python -c 'import ansible.release as r; print(r.__version__)')
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
	@ln -sfn ../../../.. $(VENV)/collections/ansible_collections/keyslot/redis
	@touch $@

.PHONY: venv
venv: $(STAMP)  ## Set up .venv (again, when requirements-dev.txt has changed)

.PHONY: demo
demo: venv  ## Show on an embedded cluster what the collection does
	@$(BIN)/python -m tests.demo

.PHONY: lint
lint: venv  ## Check style, types, documentation and changelog
	@$(RUN) lint "style, types, documentation" -- $(MAKE) --no-print-directory -k -j1 --output-sync=none $(addprefix _lint-,\
		ruff format mypy yamllint ansible-lint changelog docs)

.PHONY: _lint-ruff _lint-format _lint-mypy _lint-yamllint _lint-ansible-lint _lint-changelog _lint-docs
_lint-ruff:
	$(BIN)/ruff check --quiet .
_lint-format:
	$(BIN)/ruff format --quiet --check .
_lint-mypy:
	MYPYPATH=$(VENV)/collections $(BIN)/mypy $(wildcard tests/harness) tests/summary.py \
		$(VENV)/collections/ansible_collections/keyslot/redis/plugins/module_utils
_lint-yamllint:
	$(BIN)/yamllint --strict .
_lint-ansible-lint:
	$(BIN)/ansible-lint --profile production --offline -q
_lint-changelog:
	$(BIN)/antsibull-changelog lint
_lint-docs:
	$(BIN)/antsibull-docs lint-collection-docs --plugin-docs --skip-rstcheck .

.PHONY: unit
unit: venv  ## Run the unit tests directly (fast)
	@$(RUN) unit "python $(VENV_PYTHON)" -- $(BIN)/pytest tests/unit

.PHONY: system
system: venv  ## Run the system tests against real clusters (ENGINES=auto|all|names)
	@if [ -d tests/system ]; then $(RUN) system "engines: $(ENGINES)" -- \
		$(BIN)/pytest tests/system -n $(JOBS) --dist loadgroup; \
		else $(RECORD) system "engines: $(ENGINES)" "not available" "no tests"; fi

.PHONY: copy
copy: venv
	@rm -rf $(COPY) && mkdir -p $(COPY) && git init --quiet $(COPY)
	@git ls-files -z --cached --others --exclude-standard \
		| xargs -0 sh -c 'for f; do [ ! -e "$$f" ] || printf "%s\0" "$$f"; done' sh \
		| tar --create --null --files-from=- | tar --extract --directory=$(COPY)
	@printf '%s\n' '---' 'keyslot_checkout: "$(CURDIR)"' 'keyslot_python: "$(BIN)/python"' \
		> $(COPY)/tests/integration/integration_config.yml
	@cache=$$($(BIN)/python -c 'from ansible_test._internal.python_requirements import get_venv_packages; \
		import types; print(get_venv_packages(types.SimpleNamespace(version="3"))["pip"].replace(".", "_"))') \
		&& cache=~/.ansible/test/cache/get_pip_$$cache.py && mkdir -p $${cache%/*} \
		&& { [ -e $$cache ] || cp tests/get_pip.py $$cache; }

.PHONY: sanity
sanity: copy  ## Run ansible-test sanity; import and compile on the oldest and newest Python, too
	@rc=0; $(FIND_PYTHON); \
	( $(ANSIBLE_TEST) sanity "$(CORE), python $(VENV_PYTHON)" -- \
		$(BIN)/ansible-test sanity --color no --python $(VENV_PYTHON) ) || rc=1; \
	for v in $(filter-out $(VENV_PYTHON),$(TARGET_PYTHONS)); do \
		if dir=$$(find_python $$v); then \
			( PATH="$$dir:$$PATH"; $(ANSIBLE_TEST) sanity "$(CORE), python $$v, import and compile" -- \
				$(BIN)/ansible-test sanity --color no --python $$v --test import --test compile ) || rc=1; \
		else $(RECORD) sanity "$(CORE), python $$v, import and compile" "not available" "no such Python"; fi; \
	done; exit $$rc

.PHONY: ansible-units
ansible-units: copy  ## Run the unit tests by ansible-test, on the oldest Python that is there
	@$(FIND_PYTHON); v=$(firstword $(TARGET_PYTHONS)); \
		dir=$$(find_python $$v) || { \
			$(RECORD) ansible-units "$(CORE), python $$v" "not available" "no such Python"; \
			v=$(VENV_PYTHON); dir=$(BIN); }; \
		PATH="$(BIN):$$dir:$$PATH"; $(ANSIBLE_TEST) ansible-units "$(CORE), python $$v" -- \
			$(BIN)/ansible-test units --color no --venv --python $$v

.PHONY: integration
integration: copy  ## Run the ansible-test integration targets on an embedded cluster
	@$(ANSIBLE_TEST) integration "$(CORE), python $(VENV_PYTHON)" -- \
		$(BIN)/ansible-test integration --color no --venv --python $(VENV_PYTHON)

.PHONY: build
build: venv  ## Build the collection's tarball in .build, and test it
	@$(BIN)/ansible-galaxy collection build --force --output-path $(BUILD) .
	@$(RUN) build tarball -- $(BIN)/pytest tests/package

# Long ones first, so that two cores are busy to the end.
STAGES := system sanity lint build unit ansible-units integration

.PHONY: test
test: venv  ## Run all of these, and end with one table of what ran
	@rm -f $(KEYSLOT_SUMMARY)
	-@$(MAKE) --no-print-directory --keep-going -j2 --output-sync=target $(STAGES)
	@$(BIN)/python tests/summary.py show $(if $(STRICT),--strict)

.PHONY: clean
clean:  ## Remove all that the targets above have made
	rm -rf $(VENV) $(BUILD) .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache .ansible tests/output
