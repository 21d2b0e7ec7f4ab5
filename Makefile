# make demo : set up, generate data, train and test a small TimeSformer    make test : set up, run the test suite
#                                                                          WORKERS=8 make test : more processes (2)
# make test-quickstarts : the quickstarts that train for minutes
# make test-faults : 400 kills, and whatever else make test samples, for half an hour
# make test-cluster : a Slurm on this machine, as root or with sudo; installed by apt-get where missing
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

.PHONY: demo test test-cluster test-faults test-quickstarts lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo-$(VERSION)
	@test -f $(DATA)/test.csv || $(BIN)/python tools/gen_data.py video --out $(DATA) --classes 4 --clips 40 --seed 0
	$(BIN)/dust --cfg configs/quickstart/video.yaml

test: $(VENV)/.test-$(VERSION)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --durations=15

# -rs: a machine that cannot do it says why.
test-cluster: $(VENV)/.test-$(VERSION)
	$(BIN)/python -m pytest -m cluster tests/slurm -rs --durations=8

test-quickstarts: $(VENV)/.test-$(VERSION)
	$(BIN)/python -m pytest -m quickstart --durations=15

test-faults: $(VENV)/.test-$(VERSION)
	$(BIN)/python -m pytest tests/faults -m "faults100 or not faults100" -rs --durations=15

lint: $(VENV)/.dev-$(VERSION)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy dust

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

clean:
	rm -rf $(VENV) build dist *.egg-info
