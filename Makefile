# Everything runs from a clean clone: Python >= 3.11, make and a package registry are all it needs.
PYTHON ?= python3
BIN = .venv/bin
NOTEBOOKS = 01_simclr_pretrain_custom_cnn_300epochs 02_simclr_pretrain_custom_cnn_50epochs \
            05_finetune_custom_cnn_after_simclr

.PHONY: help demo test lint clean
help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-6s %s\n", $$1, $$2}'

demo: .venv/.demo ## set up, then run every notebook on made data (no download, no GPU)
	@mkdir -p runs/demo
	@set -e; for notebook in $(NOTEBOOKS); do \
	  echo "== notebooks/$$notebook.ipynb"; \
	  $(BIN)/papermill notebooks/$$notebook.ipynb runs/demo/$$notebook.ipynb -k python3 -p PROFILE demo; \
	done
	@printf '\nexecuted notebooks  runs/demo/\ncheckpoints         models/demo/\nfigures             umap_visualizations/demo/\n\n'
	@$(BIN)/python -c "import pandas as pd; print(pd.read_csv('umap_visualizations/demo/custom_cnn_finetuned_results.csv', index_col=0).T.round(3))"

test: .venv/.dev ## set up, then run the tests
	@$(BIN)/python -m pytest

lint: .venv/.dev ## check style
	@$(BIN)/ruff check . && $(BIN)/ruff format --check src tests

clean: ## remove what demo made (not your data, runs or checkpoints)
	rm -rf data/demo models/demo umap_visualizations/demo runs/demo

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

.venv/.dev: .venv/.demo
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@
