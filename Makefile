PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: reproduce test test-all format lint notebooks setup bench

# Every paper at smoke scale, then the page with every table and figure.
reproduce: setup
	$(BIN)/python -m detofa.reproduce --scale smoke
	$(BIN)/python -m sm_nas.reproduce --scale smoke
	$(BIN)/python -m joint_detnas.reproduce --scale smoke
	$(BIN)/python -m common.report runs --out runs/report
	@echo "Open runs/report/index.html"

test: setup
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

test-all: setup
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n auto --dist loadfile

notebooks: setup
	$(BIN)/python -m notebooks.build

bench: setup
	$(BIN)/python -m pip install --quiet ".[bench]"
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
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@
