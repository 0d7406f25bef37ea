# SPDX-License-Identifier: Apache-2.0
# `make help` lists the targets. Each does the set-up that it needs, in .venv and build.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SERVERS := zookeeper postgresql mysql redis etcd chromium
# Those that take minutes at most; each says how to ask it for more.
BENCHMARKS := $(filter-out report,$(basename $(notdir $(wildcard benchmarks/*.py))))
PEERS := dbos langgraph
# Tests wait for servers and clocks more than they work, so there are more of them at once than processors.
WORKERS ?= 4
ARGS ?=

PACKAGE_FILES := $(wildcard pyproject.toml setup.py README.md LICENSE)
# What is built is known by its content: times of change say nothing after a checkout, and a removed file has none.
CONTENT := $(shell find $(PACKAGE_FILES) lazy_engine -type f ! -name '*.pyc' -exec cksum {} + \
	| LC_ALL=C sort | cksum | tr ' ' '-')
TOOLS := $(shell cksum <pyproject.toml | tr ' ' '-')

MADE := $(VENV)/.made
WHEEL := build/wheel/$(CONTENT)
INSTALLED := $(VENV)/.installed-$(CONTENT)
EQUIPPED := $(VENV)/.equipped-$(TOOLS)

.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help demo demo-zookeeper test lint types docs pytest bench bench-peers bench-report clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## park a flow, deliver to it and resume it; needs no server
	$(BIN)/lazy-engine demo

demo-zookeeper: $(INSTALLED) ## the same with a conductor and a ZooKeeper of its own
	tools/ensure-installed --required zookeeper
	$(BIN)/lazy-engine demo --zookeeper

test: lint types docs pytest ## all checks; ARGS="..." is passed to pytest

lint: $(EQUIPPED) ## style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(EQUIPPED) ## static types
	$(BIN)/mypy --strict lazy_engine tests/typing

docs: $(EQUIPPED) $(INSTALLED) ## the documentation, in build/doc
	@if [ -e doc/conf.py ]; then \
		$(BIN)/sphinx-build -q -W --keep-going -b html doc build/doc; \
	fi

# The built package is tested, so the repository must not be on sys.path: hence the script and not `python -m pytest`.
pytest: $(EQUIPPED) $(INSTALLED) ## the tests alone
	tools/ensure-installed $(SERVERS)
	LAZY_ENGINE_TEST_INSTALLED=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal $(ARGS)

bench: $(EQUIPPED) $(INSTALLED) $(PEERS:%=build/peers/%/.made) ## the benchmarks, beside peers; lines go to build/bench
	@mkdir -p build/bench
	@for script in $(BENCHMARKS); do \
		echo "== $$script"; \
		$(BIN)/python "benchmarks/$$script.py" $(ARGS) >"build/bench/$$script.new" || exit 1; \
		mv "build/bench/$$script.new" "build/bench/$$script.jsonl"; cat "build/bench/$$script.jsonl"; \
	done

bench-peers: $(PEERS:%=build/peers/%/.made) ## what the benchmarks stand beside, each in an environment of its own

bench-report: $(EQUIPPED) ## write what `make bench` printed into the documentation
	$(BIN)/python -m pip install --quiet "$$(echo $(WHEEL)/*.whl)[bench]"
	$(BIN)/python benchmarks/report.py build/bench/*.jsonl

clean: ## remove what the other targets made
	rm -rf $(VENV) build .tox .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(MADE):
	PYTHON="$(PYTHON)" tools/ensure-installed python
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=23.1' 'setuptools>=77'
	touch $@

# Built from a copy, so that neither the repository nor a left-over build directory finds its way into the wheel.
$(WHEEL): $(MADE)
	rm -rf build/wheel build/source
	mkdir -p build/source
	cp -R $(PACKAGE_FILES) lazy_engine build/source
	find build/source -name __pycache__ -type d -prune -exec rm -rf {} +
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir $@.new build/source
	mv $@.new $@

$(INSTALLED): $(WHEEL)
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps $(WHEEL)/*.whl
	$(BIN)/python -m pip install --quiet $(WHEEL)/*.whl
	rm -f $(VENV)/.installed-*
	touch $@

$(EQUIPPED): $(MADE) | $(INSTALLED)
	$(BIN)/python -m pip install --quiet "$$(echo $(WHEEL)/*.whl)[all,test,lint,docs]"
	rm -f $(VENV)/.equipped-*
	touch $@

build/peers/%/.made: benchmarks/subjects/%.txt
	tools/ensure-installed python
	$(PYTHON) -m venv --clear build/peers/$*
	build/peers/$*/bin/python -m pip install --quiet -r $<
	touch $@
