# policyd: a Postfix policy delegation daemon.  `make help` lists the targets.

VERSION   = 0.1.0
PREFIX   ?= /usr
DESTDIR  ?=
SYSCONFDIR ?= /etc
CFLAGS   ?= -O2 -g
CC       ?= cc
B        ?= build
SAN      ?=

PACKAGES = gcc pkg-config libev-dev libpq-dev libiniparser-dev libsystemd-dev \
	libidn2-dev libxxhash-dev postgresql-15 postfix perl
# The tests and analysers need these as well.
TEST_PACKAGES = $(PACKAGES) libdbd-pg-perl valgrind mandoc systemd clang clang-tidy \
	clang-format clang-tools cppcheck libclang-rt-14-dev shellcheck

WARN = -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion \
	-Wcast-qual -Wpointer-arith -Wstrict-prototypes -Wmissing-prototypes \
	-Wold-style-definition -Wwrite-strings -Wundef -Wvla -Wformat=2 \
	-Wnull-dereference -Wdouble-promotion -Wredundant-decls
HARDEN = -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fstack-clash-protection -fPIE
MY_CPP = -std=c11 -D_GNU_SOURCE -DPOLICYD_VERSION='"$(VERSION)"' -Ipolicyd -I$(B) \
	-isystem /usr/include/postgresql
MY_C   = $(WARN) $(HARDEN) $(SAN)
MY_LD  = -pie -Wl,-z,relro,-z,now $(SAN)
LIBS   = -lev -lpq -liniparser -lsystemd -lidn2 -lxxhash -lm

ROOMS  = base mail config db tables policy net
SRC    = $(foreach r,$(ROOMS),$(wildcard policyd/$r/*.c))
LIBOBJ = $(SRC:%.c=$(B)/%.o)
CTLOBJ = $(patsubst %.c,$(B)/%.o,$(wildcard policyd/ctl/*.c))
UNITS  = $(patsubst t/unit/%.c,$(B)/t/unit/%.t,$(wildcard t/unit/*.c))
BENCH  = $(patsubst t/bench/%.c,$(B)/t/bench/%,$(wildcard t/bench/*.c))

.DELETE_ON_ERROR:
.SECONDARY:

all: $(B)/policyd $(B)/policyctl ## build policyd and policyctl (the default)

$(B)/policyd: $(B)/policyd/main.o $(LIBOBJ)
	$(CC) $(MY_LD) $(LDFLAGS) -o $@ $^ $(LIBS)

$(B)/policyctl: $(CTLOBJ) $(B)/sql.o $(LIBOBJ)
	$(CC) $(MY_LD) $(LDFLAGS) -o $@ $^ $(LIBS)

$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(MY_CPP) $(CPPFLAGS) $(MY_C) $(CFLAGS) -MMD -MP -c -o $@ $<

$(B)/%.o: $(B)/%.c
	$(CC) $(MY_CPP) $(CPPFLAGS) $(MY_C) $(CFLAGS) -MMD -MP -c -o $@ $<

$(B)/t/unit/%.t: $(B)/t/unit/%.o $(LIBOBJ)
	$(CC) $(MY_LD) $(LDFLAGS) -o $@ $^ $(LIBS)

$(B)/t/bench/%: $(B)/t/bench/%.o
	$(CC) $(MY_LD) $(LDFLAGS) -o $@ $^ -lev -lm

clean: ## remove what was built
	rm -rf build build-*

help: ## list the targets
	@sed -n 's/^\([a-z][a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: all clean help
-include $(shell find $(B) -name '*.d' 2>/dev/null)
