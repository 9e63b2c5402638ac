# make demo    trains, evaluates and compares three runs on the embedded digits -> results/demo/report.md
# make findings  every study from nothing: trains, evaluates, collects, writes the table of findings and the notebooks
#              (hours on two cores; it resumes). SCALE=digits; on a cluster SUBMIT="--cluster slurm --partition P"
# make test    everything that must hold: style, types, room order, tests (some minutes)
# make soak    kills, damage, bad input, hostile files and full disks for MINUTES=30, by SEED=0; what make test shows in brief
# make docs    the documentation as a site, in build/site; a link or a figure that does not work is an error
# All build .venv first if it is not there; doing either again repeats nothing that is done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1
# to compile the tests takes every worker six seconds: once is enough
unexport PYTHONDONTWRITEBYTECODE

SCALE ?= digits
SUBMIT ?=
MINUTES ?= 30
SEED ?= 0
STUDIES := $(filter-out seeds_smoke final_model testbed,$(basename $(notdir $(wildcard experiments/[a-z]*.py))))

.PHONY: demo findings notebooks docs style types rooms check tests test soak clean
.DEFAULT_GOAL := help

help:
	@grep '^# make' Makefile | cut -c3-

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo ">>> building $(VENV) (a minute or two, once)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[test]"
	@touch $@

demo: $(VENV)/.installed
	@echo ">>> dynamics demo: three runs on 8x8 digits, evaluated and compared, in results/demo"
	$(BIN)/dynamics demo --out results/demo

findings: $(VENV)/.installed
	@for study in $(STUDIES); do \
		echo ">>> $$study"; \
		$(BIN)/python -m experiments $$study submit --scale $(SCALE) $(SUBMIT) || exit 1; \
		$(BIN)/python -m experiments $$study status --scale $(SCALE) --watch || exit 1; \
		$(BIN)/python -m experiments $$study collect --scale $(SCALE) --small --replace || exit 1; \
	done
	$(BIN)/python -m experiments findings --write results/FINDINGS.md
	$(MAKE) notebooks

notebooks: $(VENV)/.installed
	$(BIN)/python analysis_notebooks

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[docs]"
	@touch $@

docs: $(VENV)/.installed-docs
	@echo ">>> build/site/index.html"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

check: style types rooms

style: $(VENV)/.installed
	@echo ">>> style"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	@echo ">>> types"
	$(BIN)/mypy

rooms: $(VENV)/.installed
	@echo ">>> order of the rooms"
	$(BIN)/lint-imports

# three workers on two cores: that of the clusters waits more than it works
tests: $(VENV)/.installed
	@echo ">>> tests"
	$(BIN)/pytest -n 3 --dist loadgroup --durations 10 --durations-min 5 tests dynamics --doctest-modules

test: $(VENV)/.installed
	$(MAKE) --no-print-directory --jobs 2 tests check

soak: $(VENV)/.installed
	@echo ">>> $(MINUTES) minutes of harm -> benchmarks/results/soak.json"
	PYTHONPATH=.:tests $(BIN)/python -m soak --minutes $(MINUTES) --seed $(SEED) --out benchmarks/results/soak.json

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
