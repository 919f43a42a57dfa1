# Everything runs in .venv, which holds exactly what requirements.txt pins; .uv holds the installer.
# A first call sets both up; `make help` lists what there is.

PYTHON ?= python3
PROFILE ?= fast
DEVICE ?= auto
NOTEBOOKS ?=
# Three files of tests at a time, one thread each: the cells of a notebook stay together.
# That keeps two cores busy, as many a test waits for a browser, a cluster or a process.
# papermill executes each notebook, nbval compares what comes out: tests/notebook_plugin.py.
WORKERS ?= 3

BIN := .venv/bin
UV := .uv/bin/uv
READY := .venv/.synced
# Tools that need no place in the environment: uv fetches them where they are called for.
COSMIC_RAY := cosmic-ray==8.7.0
PIP_AUDIT := pip-audit@2.10.1
PIP_LICENSES := pip-licenses@5.5.5
JUPYTER_BOOK := $(BIN)/jupyter-book build --all -W -n --keep-going -q

# uv does not read pip's settings, so where pip's index is set, it is passed on here. Extra indexes
# and folders of wheels are not: a build of theirs would take the place of the one that is pinned.
pip_setting = $${PIP_$(1)-$$(.uv/bin/pip config get global.$(2) 2>/dev/null)}
define from_pip
	index="$(call pip_setting,INDEX_URL,index-url)"; \
	cert="$(call pip_setting,CERT,cert)"; \
	[ -z "$$index" ] || export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX-$$index}"; \
	[ -z "$$cert" ] || export SSL_CERT_FILE="$${SSL_CERT_FILE-$$cert}"
endef

# Compiled modules, and the hashes of the code beside them, are kept: many processes start here.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup book pdf archive test run notebooks bench lock lint soak cluster-test mutants audit licences clean

help:  ## print this list
	@echo 'make TARGET [PROFILE=fast|full] [DEVICE=auto|cpu|cuda] [NOTEBOOKS="density paths"]'
	@sed -n 's/^\([a-z-]*\):.*##/  \1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(READY)  ## only set up the environment

book: $(READY)  ## render the committed notebooks into _build/html
	@rm -rf _build/html _build/.doctrees
	@$(JUPYTER_BOOK) .
	@echo "The book: $(CURDIR)/_build/html/index.html"

pdf: book  ## print the book into one PDF, through Chromium
	@$(BIN)/python book/_ext/pdf.py

archive: book  ## pack book, notebooks, records and code, with checksums
	@$(BIN)/python book/_ext/archive.py

run: $(READY)  ## execute chapters anew (PROFILE, DEVICE, NOTEBOOKS) and render that run
	@$(BIN)/python book/_ext/run.py --profile "$(PROFILE)" --device "$(DEVICE)" $(NOTEBOOKS)

notebooks: $(READY)  ## execute chapters at `fast` for the record, and refresh the tables of verdicts
	@$(BIN)/python book/_ext/run.py --record $(NOTEBOOKS)
	@$(BIN)/mcnn verify --update

bench: $(READY)  ## measure speed against named peers, on DEVICE; minutes
	@$(BIN)/python -m benchmarks --device "$(DEVICE)"

lint: $(READY)  ## ruff, who may import whom, and the notebook lint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo --no-cache
	@$(BIN)/python tests/notebook_lint.py $(wildcard notebooks/*.ipynb)

test: lint book  ## everything: lint, book, unit tests, notebooks, the site, recorded trials again
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs --durations=25 -n $(WORKERS) --dist loadfile \
		--nbval --nbval-current-env tests mcnn $(wildcard notebooks)
	@OMP_NUM_THREADS=1 $(BIN)/mcnn verify --spot 3 --within 60

soak: $(READY)  ## a million damaged files and command lines, kills, full disks; what is lost; hours
	@OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -q -s tests/ledger/test_faults.py \
		tests/ledger/test_records.py tests/ledger/test_cluster.py tests/ledger/test_fuzz.py

cluster-test: $(READY)  ## a Dask cluster on this machine: workers and scheduler killed, other code
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs tests/ledger/test_cluster.py

mutants: $(READY) $(UV)  ## small changes of the code, drawn at random: do the tests notice? hours
	@$(from_pip); OMP_NUM_THREADS=1 nice -n 10 $(UV) run -q --isolated --no-project \
		--with $(COSMIC_RAY) python tests/mutants.py --python $(BIN)/python
	@$(BIN)/python tests/mutants.py --page

audit: $(UV)  ## known weaknesses of what requirements.txt pins, from the index's advisories
	@$(from_pip); $(UV) tool run -q $(PIP_AUDIT) -r requirements.txt --require-hashes --disable-pip

licences: $(READY) $(UV)  ## the licence of each package that is installed
	@$(from_pip); $(UV) tool run -q $(PIP_LICENSES) --python=$(BIN)/python --order=license

lock: $(UV)  ## resolve requirements.in into requirements.txt
	@$(from_pip); $(UV) pip compile requirements.in -o requirements.txt -q --universal \
		--python-version 3.11 --generate-hashes --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links

clean:  ## remove what was built (the environment stays)
	rm -rf _build .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(UV):
	@command -v $(PYTHON) >/dev/null || \
		{ echo "make: no $(PYTHON): install Python 3.11 or newer, or pass PYTHON=..." >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: $$($(PYTHON) -V) is too old: pass PYTHON= a Python 3.11 or newer" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip' || \
		{ echo "make: $(PYTHON) cannot make environments: install its venv package" >&2; exit 2; }
	@echo "Setting up .uv"
	@$(PYTHON) -m venv .uv && .uv/bin/pip install -q uv

$(READY): requirements.txt pyproject.toml | $(UV)
	@echo "Setting up .venv"
	@$(from_pip); set -e; \
	test -x $(BIN)/python || $(UV) venv -q --python .uv/bin/python .venv; \
	$(UV) pip sync -q --python $(BIN)/python --require-hashes requirements.txt; \
	$(UV) pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@
