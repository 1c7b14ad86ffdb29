# SPDX-License-Identifier: BSD-3-Clause
# Thin: meson and ninja build, tests/run tests. "make help" lists the targets.

BUILD_DIR ?= build
prefix ?= /usr/local
DESTDIR ?=
PYTHON ?= /usr/bin/python3

.DEFAULT_GOAL := all
.PHONY: all demo test check-fast check-models soak install clean help

all: ## build everything into build/ (installs the Debian packages this needs, if any is missing)
	@scripts/build.sh $(BUILD_DIR)

demo: ## a VM does verified I/O on remote NVMe/TCP disks, NVMe and virtio-blk, and does not notice kill -9 of service and target
	@scripts/deps.sh build guest
	@scripts/build.sh $(BUILD_DIR)
	@$(PYTHON) scripts/demo.py

test: ## every test, as CI runs it; ends with "N passed, M failed"
	@scripts/deps.sh all
	@scripts/build.sh $(BUILD_DIR)
	@$(PYTHON) tests/run

check-fast: ## style, unit, rpc and wire tests: a few minutes
	@scripts/build.sh $(BUILD_DIR)
	@$(PYTHON) tests/run --fast

check-models: ## the bounded models of docs/models (MODEL_KILLS=2: deeper, minutes)
	@scripts/deps.sh build test
	@$(PYTHON) tests/run --suite models

soak: ## kill and recovery rounds for SOAK_MINUTES (default 60)
	@scripts/deps.sh build test
	@scripts/build.sh $(BUILD_DIR)
	@$(PYTHON) tests/run --soak

install: ## install below $(DESTDIR)$(prefix)
	@scripts/build.sh $(BUILD_DIR) -Dprefix=$(abspath $(prefix))
	@meson install -C $(BUILD_DIR) --no-rebuild $(if $(DESTDIR),--destdir $(abspath $(DESTDIR)))

clean: ## remove the build directories
	rm -rf $(BUILD_DIR) build-asan build-tsan

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
