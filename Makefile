# Everything runs from a clean clone: Python >= 3.11, make and a package registry are all it needs.
PYTHON ?= python3
PROFILE ?= paper
BIN = .venv/bin
NOTEBOOKS = 01 02 03 04 05 05b 06 07 08 10
# a notebook of the demo: number, more parameters
file = $(notdir $(wildcard notebooks/$(1)_*.ipynb))
notebook = echo "== notebooks/$(file)" && $(BIN)/papermill notebooks/$(file) runs/demo/$(file) \
  -k python3 --no-progress-bar -p PROFILE demo $(2)

.PHONY: help demo demo-all demo-answers $(NOTEBOOKS:%=demo-%) audit test soak bench lint clean \
  data-eurosat data-eurosat-allbands data-ucmerced data-bigearthnet-v1 data-bigearthnet-v2 \
  data-bigearthnet-v1-stream data-bigearthnet-v2-stream
help: ## what can be made
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-22s %s\n", $$1, $$2}'

demo: .venv/.demo ## set up, then the Custom CNN on made data, end to end: no download, no GPU
	@mkdir -p runs/demo
	@$(call notebook,02)
	@$(call notebook,05,-y 'PRETRAINED: [short]')
	@$(call notebook,08)
	@$(call notebook,10)
	@$(MAKE) --no-print-directory demo-answers

demo-all: .venv/.demo ## the same with every notebook and encoder, two at a time where they can
	@mkdir -p runs/demo
	@OMP_NUM_THREADS=$$($(BIN)/python -c "import os; print((os.cpu_count() + 1) // 2)") \
	  $(MAKE) --no-print-directory -j2 $(NOTEBOOKS:%=demo-%)
	@$(MAKE) --no-print-directory demo-answers

$(NOTEBOOKS:%=demo-%): demo-%:
	@$(call notebook,$*)
demo-05: demo-01 demo-02
demo-06: demo-03
demo-07: demo-04
demo-05b demo-10: demo-05
demo-08: demo-05 demo-06 demo-07

demo-answers:
	@echo && $(BIN)/python -m src.results models/demo/records
	@echo && printf '%-20s%s\n' 'executed notebooks' runs/demo/ checkpoints models/demo/ \
	  figures umap_visualizations/demo/ 'maps for a GIS' data/demo/maps/

audit: .venv/.demo ## what made pretraining hurt? runs that are missing, then notebook 09 (PROFILE=demo: made data)
	@TQDM_DISABLE=1 $(BIN)/python -m audit --profile $(PROFILE) $(AUDIT)
	@mkdir -p runs/audit
	@$(BIN)/papermill notebooks/09_why_pretraining_hurt.ipynb runs/audit/09_why_pretraining_hurt.ipynb -k python3 -p PROFILE $(PROFILE)

test: .venv/.dev ## set up, then run the tests
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

soak: .venv/.dev ## kill trainings of the study's size twenty times each: minutes
	@SOAK=1 $(BIN)/python -m pytest tests/test_runs.py -k kills_at_random -s --durations=4

lint: .venv/.dev ## check style
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

bench: .venv/.bench ## measure speed against peers (many minutes on a CPU)
	@$(BIN)/python benchmarks/speed.py

data-eurosat: .venv/.demo ## download EuroSAT RGB (90 MB)
	@$(BIN)/python -m src.data.download eurosat

data-eurosat-allbands: .venv/.demo ## download EuroSAT with 13 bands (2 GB), and where each image lies
	@$(BIN)/python -m src.data.download eurosat-allbands
	@$(BIN)/python -m src.data.coordinates data/eurosat data/eurosat_latlon.csv

data-ucmerced: .venv/.demo ## download UC Merced (317 MB)
	@$(BIN)/python -m src.data.download ucmerced

data-bigearthnet-v1: .venv/.demo ## download BigEarthNet-S2 v1.0 (66 GB) and build the store of its training split
	@$(BIN)/python -m src.data.download bigearthnet-v1
	@$(BIN)/python -m src.data.bigearthnet data/BigEarthNet-S2-v1.0.tar.gz data/stores/bigearthnet_train_rgb_2750 \
	  --split data/splits/train.csv

data-bigearthnet-v2: .venv/.demo ## download BigEarthNet-S2 v2.0 (63 GB) and build the store of its training split
	@$(BIN)/python -m src.data.download bigearthnet-v2
	@$(BIN)/python -m src.data.bigearthnet data/BigEarthNet-S2.tar.zst data/stores/bigearthnet_v2_train_rgb_2750 \
	  --metadata data/metadata.parquet --split train

data-bigearthnet-v1-stream: .venv/.demo ## build v1's store from the address: no archive is kept, 11.65 GB of disk
	@$(BIN)/python -m src.data.download bigearthnet-v1-lists
	@$(BIN)/python -m src.data.bigearthnet https://zenodo.org/records/12687186/files/BigEarthNet-S2-v1.0.tar.gz \
	  data/stores/bigearthnet_train_rgb_2750 --split data/splits/train.csv

data-bigearthnet-v2-stream: .venv/.demo ## build v2's store from the address: 10.28 GB of disk
	@$(BIN)/python -m src.data.download bigearthnet-v2-lists
	@$(BIN)/python -m src.data.bigearthnet https://zenodo.org/records/10891137/files/BigEarthNet-S2.tar.zst \
	  data/stores/bigearthnet_v2_train_rgb_2750 --metadata data/metadata.parquet --split train

clean: ## remove what demo made (not your data, runs or checkpoints)
	rm -rf data/demo models/demo umap_visualizations/demo runs/demo runs/audit/demo

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

.venv/.dev: .venv/.demo
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

.venv/.bench: .venv/.demo
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	@touch $@
