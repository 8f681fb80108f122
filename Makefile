# `make` lists the targets. Everything runs inside $(VENV); PYTHON only makes that environment (3.11 or newer):
#   make test PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ACCELERATE_CONFIG ?= recipes/accelerate/one_process.yaml
# Test workers, one thread each, a file of tests each at a time; more workers than cores only swap places.
JOBS ?= 2

NLTK_DATA_HERE := $(abspath $(wildcard ../shared/nltk_data))
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
TEST_ENV := HF_HUB_OFFLINE=1 $(ONE_THREAD) $(if $(NLTK_DATA_HERE),NLTK_DATA=$(NLTK_DATA_HERE))

.DEFAULT_GOAL := help
.PHONY: help venv quickstart study paper docs test quality bench constraints clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## set up .venv with the exact versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11: name a newer one, as in 'make PYTHON=python3.11'." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

quickstart: $(STAMP) ## train a self-correcting captioner on small scenes, write its report (15 minutes on 2 cores at most)
	HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(BIN)/python recipes/quickstart.py --accelerate_config $(ACCELERATE_CONFIG) $(ARGS)

study: $(STAMP) ## compare training methods over seeds -> docs/study.md (2 hours on 2 cores; ARGS=--quick: 15 minutes)
	$(TEST_ENV) $(BIN)/python recipes/study.py $(ARGS)

MODEL ?= qwen2_vl_7b
define PAPER
# $(MODEL) on the paper's data: json files of zl2048/SC-Captioner-data, images of COCO train2017 and DOCCI.
# Every command can be given again after a stop and goes on. Several GPUs: ACCELERATE_CONFIG=recipes/accelerate/multi_gpu.yaml
python recipes/prepare_data.py --dataset train_coco6k_sft.json --image_root coco/train2017 --output_dir data/refinedcaps
python recipes/prepare_data.py --dataset test_docci500.json --dataset_split test --image_root docci/images --output_dir data/docci500
accelerate launch --config_file $(ACCELERATE_CONFIG) recipes/sft.py --config recipes/$(MODEL)/sft.yaml
python recipes/merge.py --adapter outputs/$(MODEL)/sft --output_dir outputs/$(MODEL)/merged
accelerate launch --config_file $(ACCELERATE_CONFIG) recipes/sc.py --config recipes/$(MODEL)/sc.yaml
accelerate launch --config_file $(ACCELERATE_CONFIG) recipes/predict.py --config recipes/$(MODEL)/predict.yaml
python recipes/evaluate.py --predictions outputs/$(MODEL)/docci500 --annotations docci500 --parser factual \
    --encoder sentence-transformers/all-mpnet-base-v2 --output_dir outputs/$(MODEL)/docci500_scores
endef
export PAPER

paper: ## print the commands of the whole paper, data to scores (MODEL=llava_1_5_7b or another folder of recipes/)
	@test -f recipes/$(MODEL)/sft.yaml || { echo "There is no recipes/$(MODEL)/sft.yaml; MODEL is one of" \
		$(patsubst recipes/%/predict.yaml,%,$(wildcard recipes/*/predict.yaml)) >&2; exit 1; }
	@echo "$$PAPER"

docs: $(STAMP) ## build the documentation into site/ (ARGS="--site-dir elsewhere"); no network
	HF_HUB_OFFLINE=1 NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)

test: $(STAMP) ## run the tests (about 20 minutes on 2 cores; ARGS="-k reward" picks some)
	$(TEST_ENV) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

quality: $(STAMP) ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP) ## measure speed against the released procedure -> benchmarks/*.json
	$(TEST_ENV) $(BIN)/python benchmarks/bench_reward.py --output benchmarks/results.json
	$(TEST_ENV) $(BIN)/python benchmarks/bench_parser.py --output benchmarks/parser.json
	$(TEST_ENV) $(BIN)/python benchmarks/bench_step.py --tiny --tokens 128 --output benchmarks/step_cpu.json
	$(TEST_ENV) $(BIN)/python benchmarks/bench_captioning.py --output benchmarks/captioning.json

constraints: $(STAMP) ## write the versions installed in .venv to constraints.txt
	@{ grep '^#' constraints.txt; $(BIN)/python -m pip freeze --all --exclude pip --exclude-editable | LC_ALL=C sort -f; } > constraints.new
	@if grep -n '^[^#]*[+@]' constraints.new; then \
		echo "These lines do not come from a registry: see the head of constraints.txt." >&2; rm constraints.new; exit 1; fi
	@mv constraints.new constraints.txt && touch $(STAMP)

clean: ## remove caches and build leftovers (keeps .venv and outputs)
	rm -rf build dist site .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
