# Every target makes the virtual environment when it is missing; nothing but Python 3.11+ and make is needed beforehand.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: help demo test test-tools fuzz sim faults busy soak check format bench share wheelhouse deb boot-test clean
help:
	@echo "make demo    four boards on this machine classify a photo together"
	@echo "make test    the whole default test suite"
	@echo "make test-tools  the tests of training and import as well; installs torch"
	@echo "make fuzz    a million hostile frames"
	@echo "make sim     membership on two thousand seeds per row, ten simulated board-hours of busy boards, and thousands of random stories of requests and members (hypothesis)"
	@echo "make faults  boards that crash, stop, hang, are unplugged, split and join, 30 times each, requests meanwhile, and pyre beside ours (root, hours)"
	@echo "make busy    an hour of boards on a machine whose cores are all busy, without and with lost packets (root)"
	@echo "make soak    an hour of random faults while clients ask (root)"
	@echo "make check   format, lint, types, import contracts, units"
	@echo "make wheelhouse ARCH=aarch64|x86_64 [PYTHON_OF_BOARDS=3.11]   the archive that installs a board without internet, in dist/"
	@echo "make deb ARCH=aarch64|x86_64   the same as a Debian package (needs dpkg-deb)"
	@echo "make boot-test [ARCH=...]   Debian machines under qemu: install, join, break, upgrade (root; an hour, emulated)"
	@echo "make bench   benchmarks: overhead of a round, work split, cost of standing by; emulated boards into docs/benchmarks (root, an hour)"
	@echo "make share   completion for bash, zsh and fish, and man pages, from the commands' help"
	@echo "make format  rewrite the code in the house format"
	@echo "make clean   remove the virtual environment and caches"

$(VENV)/.base: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "tokenring needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.test: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

$(VENV)/.check: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[check,test]'
	@touch $@

demo: $(VENV)/.base
	$(BIN)/peerctl up --boards 4 -- sh -c '$(BIN)/peerctl infer docs/photos/chelsea.png --boards 4 --explain && $(BIN)/peerctl plan'

# Daemons that start, settle and time out mostly wait: two workers, however many cores, and no file in both at once.
# The limit, seconds, is far above the slowest test: one that hangs fails with its name and stack, and the others still run.
test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile --timeout 300

# Training and import need the heavy extras, which a board never installs.
test-tools: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[tools,import]'
	$(BIN)/python -m pytest tests/unit/tools

fuzz: $(VENV)/.test
	TOKENRING_FUZZ=1000000 $(BIN)/python -m pytest tests/unit/protocol/test_wire_hostile.py

sim: $(VENV)/.test
	TOKENRING_SIM_SEEDS=2000 TOKENRING_SIM_HOURS=2.5 $(BIN)/python -m pytest -s tests/sim/test_membership_sim.py
	TOKENRING_SIM_EXAMPLES=5000 $(BIN)/python -m pytest tests/sim/test_requests_stateful.py tests/sim/test_membership_stateful.py

# Pyre is measured beside ours, in an environment of its own: the product does not depend on it.
$(VENV)/pyre/.made: $(VENV)/.base
	$(BIN)/python -m venv $(VENV)/pyre
	$(VENV)/pyre/bin/python -m pip install --quiet --disable-pip-version-check zeromq-pyre==0.3.4
	@touch $@

# What was measured is kept in runs/ after every run; stopped and started again, a target goes on where it was.
faults: $(VENV)/.test $(VENV)/pyre/.made
	$(BIN)/python -m tests.faults.joining --out runs/faults-joining.json
	$(BIN)/python -m tests.faults.pyre --python $(VENV)/pyre/bin/python --out runs/faults-pyre.json
	$(BIN)/python -m tests.faults.requests --out runs/faults-requests.json
	$(BIN)/python -m tests.faults.links --out runs/faults-links.json
	$(BIN)/python -m tests.faults.wires --out runs/faults-wires.json
	$(BIN)/python -m tests.faults.load --out runs/faults-load.json
	$(BIN)/python -m tests.faults.speed --out runs/faults-speed.json

busy: $(VENV)/.test
	$(BIN)/python -m tests.faults.busy --out runs/faults-busy.json

soak: $(VENV)/.test
	$(BIN)/python -m tests.faults.soak --minutes 60 --out runs/faults-soak.jsonl

check: $(VENV)/.check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m tools.check_units

format: $(VENV)/.check
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/.bench: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@

# The emulated boards' settings are kept in runs/testbed.jsonl as they end: stopped and started again, it goes on.
bench: $(VENV)/.bench
	$(BIN)/python -m tools.bench.round_overhead
	$(BIN)/python -m tools.bench.work_split
	$(BIN)/python -m tools.bench.machine_bound
	$(BIN)/python -m tools.bench.standing_by
	$(BIN)/python -m tools.bench.hung_board
	$(BIN)/python -m tools.bench.fresh_board
	$(BIN)/python -m tools.bench.fresh_pages
	$(BIN)/python -m tools.bench.planner --images 40
	$(BIN)/python -m tools.testbed validate
	$(BIN)/python -m tools.testbed measure
	$(BIN)/python -m tools.testbed crowd
	$(BIN)/python -m tools.testbed report

ARCH ?= $(shell uname -m)
PYTHON_OF_BOARDS ?= 3.11
wheelhouse: $(VENV)/.base
	$(BIN)/python -m tools.wheelhouse --arch $(ARCH) --python $(PYTHON_OF_BOARDS)

deb: wheelhouse
	$(BIN)/python -m tools.deb --arch $(ARCH) --python $(PYTHON_OF_BOARDS)

# Debian packages that it needs: tests/boot/images.py. Images and what a stage leaves are kept in the user's cache.
boot-test: $(VENV)/.base
	$(BIN)/python -m tests.boot.run --arch $(ARCH)

# After every change of a command or an option: completion and man pages come from the help.
share: $(VENV)/.base
	$(BIN)/python -m tools.share

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
