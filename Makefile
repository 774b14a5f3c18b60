# policyd: a Postfix policy delegation daemon.  `make help` lists the targets.

VERSION   = 0.1.0
PREFIX   ?= /usr
DESTDIR  ?=
SYSCONFDIR ?= /etc
CFLAGS   ?= -O2 -g
CC       ?= cc
B        ?= build
SAN      ?=

# Debian packages: to build and to run the demo; for the tests besides; for lint.
PACKAGES = gcc libc6-dev libev-dev libpq-dev libiniparser-dev libsystemd-dev \
	libidn2-dev libpcre2-dev libpsl-dev libxxhash-dev libdb-dev publicsuffix postgresql-15 postfix perl
TEST_PACKAGES = $(PACKAGES) libdbd-pg-perl mandoc systemd postgrey sqlgrey pgbouncer
LINT_PACKAGES = $(PACKAGES) clang clang-tidy clang-format clang-tools \
	libclang-rt-14-dev cppcheck shellcheck valgrind

TESTS  = $(wildcard t/*.t)
PROVE_FLAGS  ?=
SOAK_MINUTES ?= 30
FUZZ_CPU ?= 60
VALGRIND = valgrind -q --vgdb=no --leak-check=full --error-exitcode=99
GCC_WARN   = -Wcast-align=strict -Wformat-overflow=2 -Wformat-signedness -Wduplicated-cond \
	-Wlogical-op -Walloc-zero -Wstringop-overflow=4 -Warray-bounds=2 -Wjump-misses-init \
	-fanalyzer
CLANG_WARN = -Wcomma -Wunreachable-code

WARN = -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion \
	-Wcast-qual -Wpointer-arith -Wstrict-prototypes -Wmissing-prototypes \
	-Wold-style-definition -Wwrite-strings -Wundef -Wvla -Wformat=2 \
	-Wnull-dereference -Wdouble-promotion -Wredundant-decls
HARDEN = -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fstack-clash-protection -fPIE
MY_CPP = -std=c11 -D_GNU_SOURCE -DPOLICYD_VERSION='"$(VERSION)"' -Ipolicyd -I$(B) \
	-isystem /usr/include/postgresql
MY_C   = $(WARN) $(HARDEN) $(SAN)
MY_LD  = -pie -Wl,-z,relro,-z,now $(SAN)
CTL_LIBS = -ldb
LIBS   = -lev -lpq -liniparser -lsystemd -lidn2 -lpsl -lpcre2-8 -lxxhash -lm

ROOMS  = base mail config db tables policy net
SRC    = $(foreach r,$(ROOMS),$(wildcard policyd/$r/*.c))
LIBOBJ = $(SRC:%.c=$(B)/obj/%.o)
CTLOBJ = $(patsubst %.c,$(B)/obj/%.o,$(wildcard policyd/ctl/*.c))
UNITS  = $(patsubst t/unit/%.c,$(B)/t/unit/%.t,$(wildcard t/unit/*.c))
FUZZ   = $(filter-out replay,$(patsubst t/fuzz/%.c,%,$(wildcard t/fuzz/*.c)))
REPLAY = $(FUZZ:%=$(B)/t/fuzz/%.t)
TOOLS  = $(patsubst t/tools/%.c,$(B)/t/tools/%,$(wildcard t/tools/*.c))
BENCH  = $(patsubst t/bench/%.c,$(B)/t/bench/%,$(wildcard t/bench/*.c))

.DELETE_ON_ERROR:
.SECONDARY:

all: $(B)/policyd $(B)/policyctl ## build policyd and policyctl (the default)

$(B)/policyd: $(B)/obj/policyd/main.o $(LIBOBJ)
	$(CC) $(MY_LD) $(LDFLAGS) -o $@ $^ $(LIBS)

$(B)/policyctl: $(CTLOBJ) $(B)/sql.o $(LIBOBJ)
	$(CC) $(MY_LD) $(LDFLAGS) -o $@ $^ $(LIBS) $(CTL_LIBS)

# The version of the schema is the number of its last step.
$(B)/schema_version.h: $(wildcard sql/[0-9]*.sql)
	@mkdir -p $(@D)
	@printf '#define POLICYD_SCHEMA_VERSION %d\n' \
		$$(ls sql/[0-9]*.sql | sed -n 's/^sql\/0*\([0-9]*\)-.*/\1/p' | sort -n | tail -1) >$@

# The steps themselves, for policyctl schema install.
$(B)/sql.c: sql/embed.awk $(wildcard sql/[0-9]*.sql)
	@mkdir -p $(@D)
	@LC_ALL=C awk -f sql/embed.awk sql/[0-9]*.sql >$@

$(B)/obj/%.o: %.c | $(B)/schema_version.h
	@mkdir -p $(@D)
	$(CC) $(MY_CPP) $(CPPFLAGS) $(MY_C) $(CFLAGS) -MMD -MP -c -o $@ $<

$(B)/%.o: $(B)/%.c
	$(CC) $(MY_CPP) $(CPPFLAGS) $(MY_C) $(CFLAGS) -MMD -MP -c -o $@ $<

$(B)/t/unit/%.t: $(B)/obj/t/unit/%.o $(LIBOBJ)
	@mkdir -p $(@D)
	$(CC) $(MY_LD) $(LDFLAGS) -o $@ $^ $(LIBS)

# Every input that a fuzzer found worth keeping, through the same target.
$(B)/t/fuzz/%.t: $(B)/t/fuzz/%-replay
	@printf '#!/bin/sh\nexec "%s" t/fuzz/corpus/%s\n' '$(abspath $<)' $* >$@ && chmod +x $@

$(B)/t/fuzz/%-replay: $(B)/obj/t/fuzz/replay.o $(B)/obj/t/fuzz/%.o $(LIBOBJ)
	@mkdir -p $(@D)
	$(CC) $(MY_LD) $(LDFLAGS) -o $@ $^ $(LIBS)

$(B)/t/fuzz/%-fuzz: $(B)/obj/t/fuzz/%.o $(LIBOBJ)
	@mkdir -p $(@D)
	$(CC) $(MY_LD) $(LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(LIBS)

$(B)/t/tools/%: $(B)/obj/t/tools/%.o $(LIBOBJ)
	@mkdir -p $(@D)
	$(CC) $(MY_LD) $(LDFLAGS) -o $@ $^ $(LIBS)

$(B)/t/bench/%: $(B)/obj/t/bench/%.o
	@mkdir -p $(@D)
	$(CC) $(MY_LD) $(LDFLAGS) -o $@ $^ -lev -lm

# What is installed, SOURCE:TARGET:MODE; policyd.ini, which is kept, aside.
FILES  = $(B)/policyd:$(PREFIX)/sbin/policyd:755 \
	$(B)/policyctl:$(PREFIX)/bin/policyctl:755 \
	init/policyd.service:$(PREFIX)/lib/systemd/system/policyd.service:644 \
	init/policyd.socket:$(PREFIX)/lib/systemd/system/policyd.socket:644 \
	init/policyd.sysusers:$(PREFIX)/lib/sysusers.d/policyd.conf:644 \
	init/policyd.tmpfiles:$(PREFIX)/lib/tmpfiles.d/policyd.conf:644 \
	conf/policyd.ini:$(PREFIX)/share/doc/policyd/examples/policyd.ini:644 \
	$(foreach f,$(wildcard sql/*.sql sql/examples/*),$(f):$(PREFIX)/share/policyd/$(f):644) \
	$(foreach f,$(wildcard doc/*.[1-8]),$(f):$(PREFIX)/share/man/man$(subst .,,$(suffix $(f)))/$(notdir $(f)):644)
INI    = $(DESTDIR)$(SYSCONFDIR)/policyd/policyd.ini

install: all ## install below DESTDIR and PREFIX; a policyd.ini already there stays
	@set -e; for f in $(FILES); do IFS=:; set -- $$f; \
		echo "install $(DESTDIR)$$2"; install -D -m $$3 $$1 "$(DESTDIR)$$2"; done
	@sed -i 's|/usr/sbin/policyd|$(PREFIX)/sbin/policyd|; s|/etc/policyd|$(SYSCONFDIR)/policyd|' \
		"$(DESTDIR)$(PREFIX)/lib/systemd/system/policyd.service"
	@[ -e "$(INI)" ] || { echo "install $(INI)"; install -D -m 644 conf/policyd.ini "$(INI)"; }
	@[ -n "$(DESTDIR)" ] || echo "Next: systemd-sysusers, systemd-tmpfiles --create," \
		"then as policyd(8) says."

uninstall: ## remove what install put there, but not policyd.ini nor the data
	@for f in $(FILES); do IFS=:; set -- $$f; \
		echo "rm $(DESTDIR)$$2"; rm -f "$(DESTDIR)$$2"; done
	@cd "$(DESTDIR)$(PREFIX)/share" && rmdir policyd/sql/examples policyd/sql policyd doc/policyd/examples \
		doc/policyd 2>/dev/null || :

packages: ## install the Debian packages that the build and the demo need
	@t/packages.sh $(PACKAGES)

packages-test:
	@t/packages.sh $(TEST_PACKAGES)

packages-lint:
	@t/packages.sh $(LINT_PACKAGES)

demo: packages ## see Postfix ask and policyd answer, on servers of its own; KEEP=1
	@$(MAKE) -s --no-print-directory all
	@POLICYD=$(B)/policyd POLICYCTL=$(B)/policyctl t/demo/run

bench: packages-test ## measure policyd against a server that does nothing
	@$(MAKE) -s --no-print-directory all $(BENCH)
	@B=$(B) POLICYD=$(B)/policyd t/bench/run
	@B=$(B) POLICYD=$(B)/policyd t/bench/rules
	@B=$(B) POLICYD=$(B)/policyd t/bench/greylist

soak: packages-test ## SOAK_MINUTES (30) of mixed load and random faults, every answer checked
	@$(MAKE) -s --no-print-directory all
	@POLICYD=$(abspath $(B)/policyd) SOAK_MINUTES=$(SOAK_MINUTES) prove -v t/80-soak.t

test: packages-test ## everything: units, fuzz corpora, PostgreSQL and Postfix
	@$(MAKE) --no-print-directory check

# What test and sanitize run, on the programs of this build.
check: all $(UNITS) $(REPLAY) $(TOOLS) $(BENCH)
	POLICYD=$(abspath $(B)/policyd) POLICYCTL=$(abspath $(B)/policyctl) TOOLS=$(abspath $(B)/t/tools) \
		t/check.sh $(B)/check.log prove --timer $(PROVE_FLAGS) $(UNITS) $(REPLAY) $(TESTS)

sanitize: packages-test ## the same under AddressSanitizer and UBSan
	@# (A booted container has no sanitizer's libraries.)
	@ASAN_OPTIONS=detect_leaks=1:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1 \
		POLICYD_SYSTEMD_TEST=0 \
		$(MAKE) --no-print-directory check B=build-asan CFLAGS='-O1 -g -fno-omit-frame-pointer' \
		SAN='-fsanitize=address,undefined -fno-sanitize-recover=all'

units: $(UNITS) $(REPLAY) $(TOOLS) $(BENCH)

# (Tests of time and memory may fail at its speed: what it says decides.)
valgrind: packages-test packages-lint ## the units, the corpora and the daemon under valgrind
	@# What PCRE2 compiles reads whole blocks, and has no name to be excused by.
	@$(MAKE) --no-print-directory under-valgrind B=build-valgrind CFLAGS='-O1 -g -DPOLICYD_NO_JIT'

under-valgrind: all units
	@TOOLS=$(abspath $(B)/t/tools) VALGRIND='$(VALGRIND)' POLICYD_SYSTEMD_TEST=0 \
		t/valgrind.sh $(abspath $(B)) sh -c 'prove --timer --exec "$$UNDER --trace-children=yes" \
			$(UNITS) $(REPLAY); prove --timer $(TESTS)'

lint: packages-lint ## the strict set with gcc and clang, then the analysers
	@$(MAKE) --no-print-directory B=build-gcc CFLAGS='-O2 -Werror $(GCC_WARN)' all units
	@$(MAKE) --no-print-directory B=build-clang CC=clang CFLAGS='-O2 -Werror $(CLANG_WARN)' all units
	@$(MAKE) --no-print-directory B=build-gcc analyse

analyse:
	clang-tidy --quiet $(SRC) policyd/main.c $(wildcard policyd/ctl/*.c) -- $(MY_CPP)
	@# One thread: getpwnam and getgrnam are safe.
	cppcheck --quiet --error-exitcode=1 --inline-suppr --std=c11 --library=posix \
		--enable=warning,performance,portability \
		--suppress=missingInclude --suppress=getpwnamCalled --suppress=getgrnamCalled \
		--suppress=unmatchedSuppression \
		-D_GNU_SOURCE -DPOLICYD_VERSION='"x"' -Ipolicyd -I$(B) policyd
	scan-build --status-bugs -o build-scan $(MAKE) --no-print-directory -B B=build-scan all >/dev/null
	shellcheck $(wildcard t/*.sh .ci/run t/01-floors.t)

fuzz: packages-lint ## fuzz each parser for FUZZ_CPU (60) seconds of CPU, and keep what was found
	@$(MAKE) --no-print-directory B=build-fuzz CC=clang CFLAGS='-O1 -g' \
		SAN='-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all' \
		$(FUZZ:%=build-fuzz/t/fuzz/%-fuzz)
	@t/fuzz/run --cpu $(FUZZ_CPU) $(FUZZ)
	@t/fuzz/run --merge $(FUZZ)

test-systemd: packages-test ## boot a systemd in a container and run policyd under it
	@$(MAKE) --no-print-directory all
	@POLICYD=$(B)/policyd POLICYD_SYSTEMD_TEST=1 prove -v t/60-systemd.t t/61-booted-load.t

clean: ## remove what was built
	rm -rf build build-*

help: ## list the targets
	@sed -n 's/^\([a-z][a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: all analyse bench check clean demo fuzz help install lint uninstall packages packages-test packages-lint sanitize soak test \
	test-systemd under-valgrind units valgrind
-include $(shell find $(B) -name '*.d' 2>/dev/null)
