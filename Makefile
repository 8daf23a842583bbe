# make lab     set up once, then open the workbook in JupyterLab
# make quick   set up once, then the tests that need no model, no page and no compiler: under 3 minutes on two cores
# make test    set up once, then all tests and every page: under 45 minutes on two cores

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# JupyterLab's own settings for the workbook: it keeps sliders as they were left, and asks nobody about news.
SETTINGS := $(VENV)/etc/jupyter/labconfig
# Its extension for the workbook: words for who cannot see a picture, and the dark theme on pages not yet run.
EXTENSIONS := $(VENV)/share/jupyter/labextensions
READY  := $(VENV)/.ready
PIP    := $(BIN)/python -m pip install --disable-pip-version-check
# JupyterLab refuses to run as root unless told to; in a container everybody is root.
LAB_ARGS ?= $(if $(filter 0,$(shell id -u)),--allow-root)
# Tests run in two processes that share the cores; a file's tests stay in one. Each run ends with its ten slowest.
WORKERS ?= 2
PYTEST  := $(BIN)/python -m pytest --durations=10
SHARED  := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# An index that has PyTorch's CPU build alone (pytorch.org/get-started names one): 1 GB in place of 5 on Linux.
TORCH_INDEX ?=

FIRST  ?= 00_your_machine.ipynb
# OpenMP's idle threads spin and starve whoever works beside them; see calm_threads in aiinfra/environment.py.
ifeq ($(OMP_WAIT_POLICY)$(KMP_BLOCKTIME),)
export GOMP_SPINCOUNT ?= 3000
endif

.PHONY: help setup lab update quick test unit notebooks gpu page model clean
.DEFAULT_GOAL := help

help:           ## show this list
	@grep -E '^[a-z]+: .*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(READY) model   ## make .venv, install what is pinned, fetch the model; does nothing twice

$(READY): requirements.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON) found; install Python 3.11 or newer, or run: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"error: $(PYTHON) is Python {v[0]}.{v[1]}; this workbook needs 3.11 or newer. Run: make PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); echo "error: $(PYTHON) cannot make a virtual environment; install its venv package (Debian: apt install python3-venv)."; exit 1; }
	@echo "installing what requirements.txt pins into $(VENV), once: 2 to 5 minutes; 5 GB with PyTorch's CUDA packages, 1.3 GB without"
	@test -e /proc/driver/nvidia/version -o -n "$(TORCH_INDEX)" || echo "no NVIDIA driver here: TORCH_INDEX=… (see the README) takes PyTorch's smaller CPU build"
	@test -z "$(TORCH_INDEX)" || $(PIP) --index-url "$(TORCH_INDEX)" $$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements.txt) || { echo "error: pip could not install PyTorch from $(TORCH_INDEX) (its message is above)."; exit 1; }
	@$(PIP) -r requirements.txt || { echo "error: pip could not install the requirements (its message is above); check the network and run the same command again."; exit 1; }
	@$(PIP) --quiet --no-deps -e . || { echo "error: pip could not install this package (its message is above)."; exit 1; }
	@touch $(READY)
	@echo "ready: 'source $(BIN)/activate' makes this environment the shell's own, so that python finds everything"

model: $(READY)
	@$(BIN)/python -m aiinfra fetch

lab: setup      ## open the workbook in JupyterLab
	@$(BIN)/python -m aiinfra info
	@$(BIN)/python -m aiinfra.lab.copies lay
	@mkdir -p $(SETTINGS) && cp aiinfra/lab/jupyterlab.json $(SETTINGS)/default_setting_overrides.json
	@mkdir -p $(EXTENSIONS) && cp -R aiinfra/lab/labextension/. $(EXTENSIONS)/aiinfra-pages
	@$(BIN)/python -m jupyterlab $(LAB_ARGS) --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/work/$(FIRST)

update:         ## fetch what is new, and bring your own copies in work/ on; what you wrote stays
	@git pull --ff-only
	@$(MAKE) --no-print-directory setup
	@$(BIN)/python -m aiinfra.lab.copies update

quick: $(READY) ## unit tests without real model, pages, compiler and the slow ones, fewer random cases
	@$(PYTEST) $(SHARED) --hypothesis-profile=quick -m "not (model or page or compile or program or slow or alone)"

test: setup unit notebooks   ## unit tests and every page, solved on the way; then nbval

unit: setup     ## unit tests and every page
	@$(PYTEST) $(SHARED) -m "not alone"
	@$(PYTEST) -m alone                     # what measures or fills the whole machine

# nbval shows that a page also runs as shipped, cell by cell in a test of its own: the sheets, and the quickest notebook.
# The other notebooks are run by tests/pages/test_exercises.py, once, with stubs and solutions.
NBVAL ?= notebooks/01_fit_a_line.ipynb puzzles/sheets

notebooks: setup   ## puzzle sheets and a notebook through nbval; all of them: make notebooks NBVAL="notebooks puzzles/sheets"
	@data=$$(mktemp -d) && trap 'rm -rf "$$data"' EXIT && \
	AIINFRA_DATA=$$data $(PYTEST) $(SHARED) --nbval-lax --nbval-cell-timeout=300 -p no:cacheprovider $(NBVAL)

gpu: $(READY)    ## what only a GPU can tell, into data/recorded/; without one: what it would do
	@$(BIN)/python -m aiinfra.bench.gpu_report --tests tests/kernels tests/gpu/test_graph.py \
		tests/engine/test_graphs.py tests/puzzles/test_accepted.py

page: setup     ## run page NB=12 again and keep its outputs, as they are to be committed
	@test -n "$(NB)" || { echo "error: which page? For instance: make page NB=12"; exit 1; }
	@$(BIN)/python -m aiinfra.lab.rerun notebooks/$(NB)_*.ipynb

clean:          ## remove .venv; models stay in the cache folder
	rm -rf $(VENV)
