# make demo: the quick start.   make demo-domains: that of classification.   make test: the tests.
# make test-all: those that take long as well.   Each sets up .venv first, where that is needed.
PYTHON ?= python3
VENV ?= .venv
INSTALLED := $(VENV)/.installed
PYTEST := $(VENV)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo demo-domains test test-all

demo: $(INSTALLED)
	$(VENV)/bin/python Train_pip.py -opt options/train/LDT/train_LDT_MambaIR_quickstart.yml

demo-domains: $(INSTALLED)
	$(VENV)/bin/python Train_pip.py -opt options/train/LDT/train_LDT_SmallCNN_digits.yml

test: $(INSTALLED)
	$(PYTEST) -m 'not slow'

test-all: $(INSTALLED)
	$(PYTEST)

$(INSTALLED): setup.py requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo 'Python 3.10 or newer is needed: make PYTHON=python3.12 …'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo 'Python has no venv: on Debian and Ubuntu, apt install python3-venv'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -e .[test]
	touch $(INSTALLED)
