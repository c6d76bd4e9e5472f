# Each target is a plain command, printed as it runs; on Windows, type it (with .venv\Scripts instead of .venv/bin).
PYTHON ?= python3
BIN := .venv/bin
# Linux without a GPU: make lab TORCH_INDEX=https://download.pytorch.org/whl/cpu spares gigabytes of CUDA.
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: lab classroom test test-all lint bench notebooks exercises claims interview environment sweep clean

lab: .venv/ready
	$(BIN)/ctkd doctor
	$(BIN)/ctkd lab $(ARGS)

classroom: .venv/ready-classroom
	$(BIN)/ctkd lab --formgrader $(ARGS)

test: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n 2 --dist loadfile --nbval tests notebooks solutions

test-all: test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --nbval notebooks solutions

lint: .venv/ready-dev
	$(BIN)/ruff check .

bench: .venv/ready
	$(BIN)/python tests/bench.py

notebooks: .venv/ready-dev
	$(BIN)/python -m ctkd_lessons.course.authoring notebooks

exercises: .venv/ready-dev
	$(BIN)/python -m ctkd_lessons.course.authoring exercises

claims: .venv/ready-dev
	$(BIN)/python -m ctkd_lessons.course.authoring claims

interview: .venv/ready-dev
	$(BIN)/python -m ctkd_lessons.course.authoring interview

environment: .venv/ready-dev
	$(BIN)/python -m ctkd_lessons.course.authoring environment

# make sweep SEEDS="1 2 4711" LESSON=02: do all claims hold for seeds nobody looked at?
sweep: .venv/ready-dev
	$(BIN)/python -m ctkd_lessons.course.authoring sweep $(if $(LESSON),--lesson $(LESSON)) $(SEEDS)

.venv/ready: constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) -e .
	touch $@

.venv/ready-classroom: constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) -e ".[classroom]"
	touch .venv/ready $@

.venv/ready-dev: constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) -e ".[dev]"
	touch .venv/ready $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .hypothesis .ruff_cache
