# All that a newcomer types. Everything is installed into .venv; nothing here needs more than make and a POSIX shell.

PYTHON ?=
HOROVOD ?=
ARGS ?=
BENCH_ARGS ?= -s single -s mirrored -s multiworker -s ps -s horovod -n 1,2 \
	--model cnn --dataset mnist-12k --global-batch 128 --epochs 6 --optimizer adam --output bench-results

export PIP_ROOT_USER_ACTION = ignore
export PIP_DISABLE_PIP_VERSION_CHECK = 1

py := .venv/bin/python
pythons := $(or $(PYTHON),python3 python3.13 python3.12 python3.11)

# The stamps are written last, so that whatever was interrupted is taken up again. A .venv that was finished but no
# longer leads to this checkout (it was moved or copied, or its Python is gone) is made anew.
stale := $(shell test ! -e .venv/.installed || $(py) -P -c 'import importlib.util, os; \
	assert os.path.samefile(importlib.util.find_spec("stratbench").origin, "__init__.py")' 2>/dev/null || echo stale)

.PHONY: help setup bench test check overhead clean stale wanted

help:
	@echo 'make bench      compare every strategy on this machine; results go to bench-results'
	@echo 'make test       run the tests (one of them: make test ARGS="-k horovod")'
	@echo 'make check      lint, format and type checks'
	@echo 'make overhead   measure what the harness itself costs'
	@echo 'make setup      install everything into .venv, Horovod included (about 6 minutes, once);'
	@echo '                bench, test, check and overhead do this by themselves'
	@echo 'make clean      remove .venv and caches; results and the Horovod built (.wheels) stay'
	@echo ''
	@echo 'PYTHON=python3.12     with another Python than the first of: $(pythons)'
	@echo 'HOROVOD=0             without Horovod; HOROVOD=1 installs it later'
	@echo 'HOROVOD_WITH_MPI=1, HOROVOD_GPU_OPERATIONS=NCCL and their like reach its build'

setup: .venv/.ready
	@echo 'Ready. Next: make bench, or .venv/bin/stratbench --help'

bench: .venv/.ready
	.venv/bin/stratbench compare $(BENCH_ARGS) $(ARGS)

test: .venv/.ready
	$(py) -m pytest $(ARGS)

check: .venv/.ready
	$(py) -m ruff check .
	$(py) -m ruff format --check .
	$(py) -m mypy

overhead: .venv/.ready
	$(py) tests/overhead.py $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed: setup.cfg pyproject.toml constraints.txt $(stale)
	@if [ -n '$(stale)' ]; then echo 'The .venv here is not of this checkout any more: making it anew.'; rm -rf .venv; fi
	@$(py) -m pip --version >/dev/null 2>&1 || { \
		found=; \
		for python in $(pythons); do \
			if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then found=$$python; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo 'stratbench needs Python 3.11, 3.12 or 3.13, as TensorFlow 2.21 does. Tried: $(pythons);' \
				'install one (Debian: apt-get install python3 python3-venv) or name it: make setup PYTHON=...' >&2; exit 1; \
		fi; \
		if ! $$found -c 'import venv, ensurepip' 2>/dev/null; then \
			echo "$$found has no venv module; install it (Debian: apt-get install python3-venv)" >&2; exit 1; \
		fi; \
		echo "Making .venv with $$found"; \
		rm -rf .venv && $$found -m venv .venv; }
	$(py) -m pip install -c constraints.txt -e '.[dev]'
	@# mypy doesn't follow the import hook of an editable install; setup.cfg points it here.
	@mkdir -p .venv/src && rm -f .venv/src/stratbench && ln -s ../.. .venv/src/stratbench
	@touch $@

# HOROVOD=0 is remembered here, so that a later plain `make bench` goes without it too.
.venv/.ready: .venv/.installed harness/horovod_setup/recipe.py $(if $(filter 1,$(HOROVOD)),wanted)
ifeq ($(HOROVOD),0)
	@echo 'Going without Horovod, as HOROVOD=0 says.'
else
	@PIP_CONSTRAINT=constraints.txt .venv/bin/stratbench install-horovod --cache .wheels || { \
		echo 'To go without Horovod: make setup HOROVOD=0' >&2; exit 1; }
endif
	@.venv/bin/stratbench doctor
	@touch $@
