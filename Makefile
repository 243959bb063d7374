# Everything runs from a clean clone: Python >= 3.11, make and a package registry are all it needs.
PYTHON ?= python3
BIN = .venv/bin
NOTEBOOKS = $(sort $(notdir $(wildcard notebooks/0[1-8]_*.ipynb)))

.PHONY: help demo test lint clean
help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-6s %s\n", $$1, $$2}'

demo: .venv/.demo ## set up, then run every notebook on made data (no download, no GPU)
	@mkdir -p runs/demo
	@set -e; for notebook in $(NOTEBOOKS); do \
	  echo "== notebooks/$$notebook"; \
	  $(BIN)/papermill notebooks/$$notebook runs/demo/$$notebook -k python3 -p PROFILE demo; \
	done
	@printf '\nexecuted notebooks  runs/demo/\ncheckpoints         models/demo/\nfigures             umap_visualizations/demo/\n\n'
	@$(BIN)/python -c "from src.results import *; t = runs_table(read_records('models/demo/records')); \
	  print(t[['encoder', 'configuration', *METRICS, 'test_accuracy', 'hours']].round(3).to_string(index=False))"

test: .venv/.dev ## set up, then run the tests
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

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
