# make demo : set up, generate data, train, test and ask a small TimeSformer  make test : set up, run the test suite
#                                                                          WORKERS=8 make test : more processes (2)
# make test-versions : the fast part of the suite with the oldest versions that setup.py allows, and with the newest
# make test-identical BASE=COMMIT : the same small trainings and golden cases by two commits; no bit may differ
# make test-quickstarts : the quickstarts that train for minutes
# make test-faults : 400 kills, and whatever else make test samples, for half an hour
# make test-mutations : 400 mutated clips from ../shared/videos, read against a plain decode; under half an hour
# make test-gpu : the tests that need a GPU; GPU_PYTHON=python3 make test-gpu : with what is installed there, no network
# make test-cluster : a Slurm on this machine, as root or with sudo; installed by apt-get where missing
# make docs : the site, with the reference of every module, into site/   make docs-serve : the same, while you write
# make lint : style, format and types                                      PYTHON=python3.12 make test : another interpreter
PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
DATA := data/quickstart
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
ifeq ($(VERSION),)
$(error PYTHON=$(PYTHON) does not run: name an interpreter of Python 3.10 or newer)
endif

.PHONY: demo docs docs-serve test test-cluster test-faults test-gpu test-identical test-mutations test-quickstarts test-versions lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo-$(VERSION)
	@test -f $(DATA)/test.csv || $(BIN)/dust gen-data video $(DATA) --classes 4 --clips 40 --seed 0
	$(BIN)/dust --cfg configs/quickstart/video.yaml
	$(BIN)/dust predict runs/quickstart $(DATA)/tour.mp4 --timeline --overlay -o runs/quickstart/tour --force

# xdist would wait for ever at the end for what a worker that died had left over; so that ends the run at once.
# The order of the files is that of tests/conftest.py: its own, by the number of tests, leaves the longest to the end.
XDIST := -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0
test: $(VENV)/.test-$(VERSION)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(XDIST) --durations=15

# -rs: a machine that cannot do it says why.
test-cluster: $(VENV)/.test-$(VERSION)
	$(BIN)/python -m pytest -m cluster tests/slurm -rs --durations=8

test-quickstarts: $(VENV)/.test-$(VERSION)
	$(BIN)/python -m pytest -m quickstart --durations=15

# The oldest Python where it is installed (pyenv's folders are looked at too), else this one.
OLDEST_PYTHON := python3.10
FAST := not slow and not cluster and not faults100 and not quickstart and not mutations
test-versions:
	@python=$$(for one in $(OLDEST_PYTHON) $$(ls -d ~/.pyenv/versions/3.10.*/bin/python 2>/dev/null) $(PYTHON); do \
	  $$one -c '' 2>/dev/null && { echo $$one; break; }; done); \
	echo "oldest versions, $$($$python --version)"; $(MAKE) --no-print-directory .venv-oldest/.made OLDEST=$$python
	.venv-oldest/bin/python -m pip list --format freeze | grep -iE '^(torch|torchvision|timm|av|pillow|numpy)='
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest $(XDIST) -rs -m "$(FAST)"
	@echo "newest versions, $$($(PYTHON) --version)"; $(MAKE) --no-print-directory .venv-newest/.made
	.venv-newest/bin/python -m pip list --format freeze | grep -iE '^(torch|torchvision|timm|av|pillow|numpy)='
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest $(XDIST) -rs -m "$(FAST)"

.venv-oldest/.made: setup.py tests/oldest.txt
	$(OLDEST) -m venv --clear .venv-oldest
	.venv-oldest/bin/python -m pip install -q --upgrade pip
	.venv-oldest/bin/python -m pip install -q -e ".[test]" -c tests/oldest.txt
	@touch $@

# made again each time: what is newest changes without a file here that would tell
.venv-newest/.made: FORCE
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip install -q --upgrade pip
	.venv-newest/bin/python -m pip install -q --upgrade -e ".[test]"
	@touch $@

FORCE:

test-identical: $(VENV)/.test-$(VERSION)
	$(BIN)/python benchmarks/identical.py --base $(BASE)

test-faults: $(VENV)/.test-$(VERSION)
	$(BIN)/python -m pytest tests/faults -m "not mutations" -rs --durations=15

# Only files that have such a test are collected: the others may import what a GPU machine lacks.
test-gpu: $(if $(GPU_PYTHON),,$(VENV)/.test-$(VERSION))
	PYTHONPATH=. $(or $(GPU_PYTHON),$(BIN)/python) -m pytest -m gpu -rs --durations=8 \
	  $$(grep -rlE 'pytest\.mark\.gpu' tests --include='test_*.py')

# SEED=7 COUNT=50 make test-mutations : others, or fewer
test-mutations: $(VENV)/.test-$(VERSION)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults/test_mutations.py -m "mutations or not mutations" -rs

lint: $(VENV)/.dev-$(VERSION)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy dust

docs: $(VENV)/.docs-$(VERSION)
	DISABLE_MKDOCS_2_WARNING=true NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(VENV)/.docs-$(VERSION)
	$(BIN)/mkdocs serve

# Stamps carry the interpreter's version, so that another PYTHON makes the environment anew.
$(VENV)/.python-$(VERSION):
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	@touch $@

$(VENV)/.demo-$(VERSION): setup.py $(VENV)/.python-$(VERSION)
	$(BIN)/python -m pip install -q -e .
	@touch $@

$(VENV)/.test-$(VERSION): setup.py $(VENV)/.python-$(VERSION)
	$(BIN)/python -m pip install -q -e ".[test]"
	@touch $@

$(VENV)/.dev-$(VERSION): setup.py $(VENV)/.python-$(VERSION)
	$(BIN)/python -m pip install -q -e ".[dev]"
	@touch $@ $(VENV)/.test-$(VERSION)

$(VENV)/.docs-$(VERSION): setup.py $(VENV)/.python-$(VERSION)
	$(BIN)/python -m pip install -q -e ".[docs]"
	@touch $@

clean:
	rm -rf site $(VENV) .venv-oldest .venv-newest build dist *.egg-info
