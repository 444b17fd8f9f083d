# SPDX-License-Identifier: GPL-2.0-only
#
# make                build scoutfs_fence.ko for the running kernel, or for that of the headers at KDIR=...
# make KERNEL=stable   build it with the lab, for one of the lab's kernels
# make demo           watch fence requests being served, in a virtual machine
# make test           run every test; CASE=name for one, KERNEL=all on every supported kernel,
#                     GUESTS=4 in four virtual machines at a time, WITHOUT=beginning of names
# make test-instruments   plant faults, to see that each is found
# make bench          measure; FENCE_KO=path measures another module, SHORT=1 takes a minute
# make bench-agent    measure how soon the agent acts, beside a loop that polls
# make fuzz           compare the module with its model; STEPS=, SEED= and KERNEL= as wanted
# make cluster        watch a host being fenced in a cluster of virtual machines that share a disk;
#                     DRAW=file.svg draws it
# make test-cluster   have every fault happen to such a cluster; CASE=name, or SHORT=1 for the least
# make torture        everything at once; MINUTES= and KERNEL= as wanted
# make lint           run every check of the sources
# make fmt            format the sources
# make install        install the module for KDIR's kernel, and the agent; or one of the two:
#                     install-module, install-agent. PREFIX= and DESTDIR= as wanted
# make dist           pack the sources, as dist/scoutfs-fence-VERSION.tar.xz
# make deb            make Debian's packages of them, in dist/; make rpm those of Enterprise Linux
# make test-packages  install Debian's packages on a whole system, boot it, upgrade and remove them;
#                     SHORT=1 for the default kernel only, in half the time; after a failure CASE=step
#                     goes on with the system that is left
# make clean          remove what was built
#
# Everything but the first, install, dist and clean sets up what is missing, in a cache folder outside
# this tree; see scripts/lab/.

# The kernel's headers; scripts/rust-build-tree has the defaults.
export KDIR
export LINUX_SOURCE
export RUST_SOURCE
export RUST_TREES
KERNEL ?=
CASE ?=
FENCE_KO ?=
SHORT ?=
DRAW ?=
STEPS ?= 100000
SEED ?= $(shell shuf -i 1-999999999 -n 1)
PLANT ?=
MINUTES ?= 5
GUESTS ?= 1
WITHOUT ?=
# As the environment passes them on, they may hold blanks.
export PREFIX ?= /usr/local
export DESTDIR

lab := scripts/lab/lab
lab_kernel := $(or $(KERNEL),stable)
# A command in the root that goes with the kernel.
lab_run = $(lab) run --in $(shell $(lab) root $(lab_kernel))
ifeq ($(KERNEL),all)
lab_kernel := $(shell $(lab) kernels)
endif

.PHONY: module demo test test-instruments bench bench-agent fuzz cluster test-cluster torture lint \
	fmt install install-module install-agent dist deb rpm test-packages clean lab-module

ifeq ($(KERNEL),)
module:
	+scripts/module build
else
module: lab-module
endif

# The lab's builds are the developers' own: every warning is an error.
lab-module:
	@if test "$(KERNEL)" = all; then \
		echo "KERNEL=all is for make test; name one of: $(lab_kernel)" >&2; \
		exit 1; \
	fi
	$(lab) setup $(lab_kernel)
	$(lab_run) $(MAKE) KERNEL= KDIR=$$($(lab) kdir $(lab_kernel)) \
		KCFLAGS=-Werror KRUSTFLAGS=-Dwarnings module

# Which cases, and how.
cases = --guests $(GUESTS) $(if $(CASE),--case $(CASE)) $(if $(WITHOUT),--without $(WITHOUT))

demo: lab-module
	$(lab_run) scripts/demo/run --kernel $(lab_kernel)

ifeq ($(KERNEL),all)
test:
	$(lab) setup $(lab_kernel)
	$(lab) run tests/run --kernel all $(cases)
	$(MAKE) test KERNEL=testing
else
test: lab-module
	$(lab_run) tests/run --kernel $(lab_kernel) $(cases)
endif

# No kernel has all instruments.
ifeq ($(KERNEL)$(CASE),)
test-instruments:
	$(MAKE) test-instruments KERNEL=debug
	$(MAKE) test-instruments KERNEL=kcsan CASE=data-race
else
test-instruments: lab_kernel := $(or $(KERNEL),debug)
test-instruments:
	$(MAKE) KERNEL=$(lab_kernel) module
	$(lab) run tests/run --kernel $(lab_kernel) --instruments $(if $(CASE),--case $(CASE))
endif

bench: $(if $(FENCE_KO),,lab-module)
	$(lab) setup $(lab_kernel)
	$(lab) run tests/bench/run --kernel $(lab_kernel) \
		$(if $(FENCE_KO),--module $(FENCE_KO)) $(if $(SHORT),--short)

bench-agent: lab-module
	$(lab) run tests/bench_agent/run --kernel $(lab_kernel)

# It takes as long as it takes; a guest that hangs is silent, and killed for that.
fuzz: lab-module
	$(lab_run) env FENCE_TEST_SECONDS=1000000 FENCE_TEST_STEPS=$(STEPS) FENCE_TEST_SEED=$(SEED) \
		FENCE_TEST_PLANT=$(PLANT) tests/run --kernel $(lab_kernel) \
		--case the-module-does-what-the-model-does

torture: lab-module
	$(lab_run) env FENCE_TEST_SECONDS=1000000 \
		FENCE_TEST_SECONDS_OF_TORTURE=$$(($(MINUTES) * 60)) \
		tests/run --kernel $(lab_kernel) --case torture

cluster: lab-module
	$(lab) run tests/cluster/run --kernel $(lab_kernel) \
		--case a-client-wakes-up $(if $(DRAW),--draw $(DRAW))

test-cluster: lab-module
	$(lab) run tests/cluster/run --kernel $(lab_kernel) \
		$(if $(CASE),--case $(CASE)) $(if $(SHORT),--short)

lint:
	$(lab) setup backports
	$(lab) run scripts/lint --kernel backports

fmt:
	$(lab) setup backports
	$(lab) run scripts/lint --kernel backports --format

install: install-module install-agent

install-module:
	+scripts/module install

# The agent needs no module to be built: it serves scoutfs's own fencing as well.
install-agent:
	scripts/agent/install

# Packages are made of the archive, so that they hold what it holds.
archive := dist/scoutfs-fence-$(shell cat VERSION).tar.xz

dist:
	mkdir -p dist
	scripts/tree archive $(archive)

deb rpm: dist
	$(lab) setup packaging
	$(lab) run --in packaging scripts/packaging/build $@ $(archive) dist

test-packages: deb
	$(lab) setup system
	$(lab) run tests/packages/run $(if $(SHORT),--short) $(if $(CASE),--case $(CASE))

clean:
	scripts/tree clean
