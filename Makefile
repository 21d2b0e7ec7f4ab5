# make demo : set up, generate data, train and test a small TimeSformer    make test : set up, run the test suite
# make lint : style, format and types                                      PYTHON=python3.12 make test : another interpreter
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA := data/quickstart
RUN := runs/quickstart

.PHONY: demo test lint clean venv
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	@test -f $(DATA)/test.csv || $(BIN)/python tools/gen_data.py video --out $(DATA) --classes 4 --clips 40 --seed 0
	$(BIN)/dust --cfg configs/quickstart/video.yaml

test: $(VENV)/.test
	$(BIN)/python -m pytest --durations=15

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy dust

# The environment is made anew when PYTHON is another version than the one that it was made with.
venv:
	@want=$$($(PYTHON) -c 'import sys; print(sys.version_info[:2])') || exit 1; \
	have=$$($(BIN)/python -c 'import sys; print(sys.version_info[:2])' 2>/dev/null || true); \
	if [ "$$want" != "$$have" ]; then \
	  echo "making $(VENV) with $$($(PYTHON) --version)"; \
	  $(PYTHON) -m venv --clear $(VENV) && $(BIN)/python -m pip install -q --upgrade pip; \
	fi

$(VENV)/.demo: setup.py | venv
	$(BIN)/python -m pip install -q -e .
	@touch $@

$(VENV)/.test: setup.py | venv
	$(BIN)/python -m pip install -q -e ".[test]"
	@touch $@

$(VENV)/.dev: setup.py | venv
	$(BIN)/python -m pip install -q -e ".[dev]"
	@touch $@ $(VENV)/.test

clean:
	rm -rf $(VENV) build dist *.egg-info
