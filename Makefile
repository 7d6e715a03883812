PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

SHELL := bash
.SHELLFLAGS := -o pipefail -c

.PHONY: reproduce test test-all test-cluster gpu mutation format lint notebooks setup bench

# What is imported is compiled once, whatever the environment says: tests start dozens of processes, and in each of them
# compiling torch anew would take seconds.
unexport PYTHONDONTWRITEBYTECODE

PAPERS := $(patsubst %/reproduce.py,%,$(wildcard */reproduce.py))

# Every paper at smoke scale, all side by side on a core each, then the page with every table and figure.
reproduce: setup
	@$(MAKE) --no-print-directory --jobs $(words $(PAPERS)) $(PAPERS:%=smoke-%)
	$(BIN)/python -m common.report runs --out runs/report
	@echo "Open runs/report/index.html"

smoke-%: setup
	@OMP_NUM_THREADS=1 $(BIN)/python -u -m $*.reproduce --scale smoke 2>&1 | sed -u "s/^/$*: /"

test: setup
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

test-all: setup
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n auto --dist loadfile

# The searches on a real Ray cluster of this machine.
test-cluster: setup
	$(BIN)/python -m pip install --quiet -e ".[cluster]"
	$(BIN)/python -m pytest tests/common/search/test_ray.py tests/test_same_numbers.py -k ray

# On a machine with a GPU: CUDA against the CPU, what it does in a second, and a training for the minutes that are left.
MINUTES ?= 10
DATA ?= scenes
gpu: setup
	$(BIN)/python -m benchmarks.gpu --minutes $(MINUTES) --data $(DATA) --out results/gpu
	$(BIN)/python -m pytest -m "not slow" -k cuda tests/common

# Plants faults in exhibits, claims and statistics, and counts those that a test notices. Takes half an hour.
mutation: setup
	$(BIN)/python -m pip install --quiet -e ".[mutation]"
	OMP_NUM_THREADS=1 $(BIN)/mutmut run
	$(BIN)/mutmut export-cicd-stats
	@$(BIN)/python -c "import json; n = json.load(open('mutants/mutmut-cicd-stats.json')); \
	    print(f\"{n['killed'] + n['timeout']} of {n['total']} planted faults noticed\")"

notebooks: setup
	$(BIN)/python -m notebooks.build

bench: setup
	$(BIN)/python -m pip install --quiet -e ".[bench]"
	$(BIN)/python -m benchmarks

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: setup
	$(BIN)/ruff check .
	$(BIN)/lint-imports

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@# Python compiles what is imported when it is: all of torch and jupyter would take half a minute
	$(BIN)/python -m pip install --quiet --no-compile -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps -e .
	touch $@
