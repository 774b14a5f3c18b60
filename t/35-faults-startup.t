#!/usr/bin/perl

# The Nth call fails, for every N: of memory, of the system (t/lib/faults.c).
# policyd -t, a start and a reload say so and end with a status, or get along
# without it; they never die by a signal, never hang, and after a reload that
# failed the old settings answer.  Out of memory policyd ends (EX_OSERR).  Who
# gets along holds no more memory and descriptors than without a failure: after
# a start, once it is stopped; after a reload, once another one went well.
#
# Under a sanitizer, which has a malloc of its own, only calls of the system
# fail; what leaks it says itself.
#
# FAULTS_SECONDS is how long it may take: of what does not fit, every second
# call or every tenth is tried.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use File::Temp qw(tempdir);
use IO::Socket::UNIX;
use POSIX qw(SIGABRT);
use Socket qw(SOCK_DGRAM);
use Test::More;
use Time::HiRes qw(sleep time);

use PolicydTest qw(policyd_path site slurp soon spew wait_for);

use constant { MEMORY => 1, SYSTEM => 2, EX_OSERR => 71 };

my $SECONDS = $ENV{FAULTS_SECONDS} || 36;

plan skip_all => 'under valgrind' if $ENV{UNDER};

my ($sanitizer) = `ldd @{[ policyd_path() ]} 2>&1` =~ /(\S*\/libasan\S*)/;
my $dir = tempdir('faults-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $lib = "$dir/faults.so";
system($ENV{CC} || 'cc', qw(-shared -fPIC -O1 -o), $lib,
	$sanitizer ? '-DSYSTEM_ONLY' : (), "$FindBin::Bin/lib/faults.c") == 0
	or die "t/lib/faults.c does not compile\n";
my $preload = $sanitizer ? "$sanitizer:$lib" : $lib;

# What systemd would hear.
my $notify = IO::Socket::UNIX->new(
	Type  => SOCK_DGRAM,
	Local => "$dir/notify"
) or die "$dir/notify: $!\n";
$notify->blocking(0);

# One of everything: what is parsed, compiled and folded can run out of memory.
my $pg = site(<<'SQL');
INSERT INTO policyd.domain (name, recipients) VALUES
	('example.com', 'listed'), ('bücher.example', 'any');
INSERT INTO policyd.domain_alias (name, target) VALUES
	('example.org', 'example.com');
INSERT INTO policyd.address (address) VALUES ('bob@example.com');
INSERT INTO policyd.alias (address, destination) VALUES
	('info@example.com', 'bob@example.com');
INSERT INTO policyd.list_entry (list, value) VALUES
	('l', '@example.net'), ('n', '203.0.113.0/24'), ('h', '.example.net');
INSERT INTO policyd.rule (priority, conditions, action) VALUES
	(1, ARRAY['sender in list:l', 'sender matches ^x.*y'], 'REJECT no'),
	(2, ARRAY['client_address in 198.51.100.0/24, ::1'], 'set relay yes'),
	(3, ARRAY['sender like *[!a]z@x', 'sender = {recipient}'], 'DEFER no');
SQL

my $d = PolicydTest->new(
	conninfo => $pg->conninfo(user => 'policyd'),
	inet     => 1,
	prefix   => [ 'env', "LD_PRELOAD=$preload", "FAULTS=$dir/faults",
		"NOTIFY_SOCKET=$dir/notify" ],
	ini      => { database => { reconnect_max => '100ms', query_timeout => '500ms' } },
);

# ---- the wrapper's file ----

# Which call fails: 0 for none.  The name of what failed last may be kept.
sub arm {
	my ($kinds, $n, $keep) = @_;
	my $failed = $keep ? (armed())[1] : '';

	spew("$dir/faults", '') if !-e "$dir/faults";
	open my $f, '+<:raw', "$dir/faults" or die "$dir/faults: $!";
	syswrite $f, pack 'LLLa48', $kinds, $n, 0, $failed;
	truncate $f, 64;
	close $f;
	return;
}

# How many calls there were, and the name of the one that failed.
sub armed {
	my (undef, undef, $count, $failed) = unpack 'LLLZ48', slurp("$dir/faults");
	return ($count, $failed);
}

# How many pieces of memory, and descriptors, it holds.
sub memory { return (unpack 'LLLZ48l', slurp("$dir/faults"))[4] }

sub descriptors { return scalar(() = glob "/proc/$d->{pid}/fd/*") }

# What systemd has heard since it was asked last.
sub heard {
	my $all = '';
	while (defined $notify->recv(my $text, 1000)) {
		$all .= "$text\n";
	}
	return $all;
}

# ---- what is allowed ----

my (@wrong, %aborts);

sub fresh_log { spew($d->{logfile}, ''); return }

sub wrong {
	my ($what, $n, $why) = @_;
	my (undef, $failed) = armed();

	push @wrong, "$what, call $n ($failed): $why\n" . $d->log;
	return;
}

# It may end, with a status and a word, unless the word is what failed.
sub judge_end {
	my ($what, $n, $status) = @_;
	my (undef, $failed) = armed();

	if ($d->log =~ /Sanitizer|runtime error:/) {
		wrong($what, $n, 'not clean');
	} elsif ($status == SIGABRT && $d->log !~ /\S/) {
		$aborts{$what}++;
	} elsif ($status & 127) {
		wrong($what, $n, 'signal ' . ($status & 127));
	} elsif ($status == 0) {
		wrong($what, $n, 'ended as if all were well');
	} elsif ($d->log !~ /\S/ && $failed ne 'write') {
		wrong($what, $n, 'ended with ' . ($status >> 8) . ' and no word');
	} elsif ($d->log =~ /msg="out of memory"/ && $status >> 8 != EX_OSERR) {
		wrong($what, $n, 'out of memory, but ended with ' . ($status >> 8));
	}
	return;
}

# What one of the doors says to a recipient.
sub answer {
	my ($inet, $recipient) = @_;
	my $c = $d->connect(inet => $inet) or return;

	return $c->ask(recipient => $recipient // 'bob@example.com', timeout => 2);
}

# ---- what is tried ----

# policyd -t: good or not, but with a word.
sub try_check {
	my $n = shift;

	fresh_log();
	$d->spawn('-t');
	my $status = $d->wait_end(10);
	wrong('-t', $n, 'hangs') if !defined $status;
	$d->stop;
	judge_end('-t', $n, $status) if $status;
	return (armed())[0];
}

# A start: both doors answer in time, or it ends.  n is 0 for the one that all
# others are held against.
{
my ($fds, $live) = (0, 0);

sub try_start {
	my $n = shift;

	fresh_log();
	heard();
	$d->spawn;
	my $ok = wait_for { !$d->alive || (answer(0) && answer(1)) } 5;
	my ($count) = armed();
	if (!$ok) {
		wrong('start', $n, 'no answer');
	} elsif (!$d->alive) {
		judge_end('start', $n, $d->{status});
		return $count;
	}
	arm(0, 0, 'keep');
	my $ready = heard() =~ /^READY=1$/m || $d->log =~ /cannot tell systemd/;
	my $end = time + ($n == 0);
	while (time < $end) { # there are connections that come later
		$fds = descriptors() if descriptors() > $fds;
		sleep 0.01;
	}
	# Without an eventfd libev takes a pipe, which has two ends.
	my $may = $fds + ((armed())[1] eq 'eventfd');
	wait_for { descriptors() <= $may };
	my $more = descriptors() - $may;
	my $status = $d->stop;
	# One more may be there to get along with, as PCRE2's without JIT.
	$live = memory() + 1 if $n == 0;
	wrong('start', $n, 'systemd does not know') if !$ready;
	wrong('start', $n, 'no word of it') if (armed())[1] eq 'setrlimit'
		&& $d->log !~ /descriptors may be open/;
	wrong('start', $n, "$more descriptors more") if $more > 0;
	wrong('start', $n, "stopped with $status") if $status;
	wrong('start', $n, 'memory left: ' . (memory() - $live))
		if memory() > $live;
	return $count;
}
}

# A reload that opens or closes a door and changes an answer: the new settings
# are in force, or the old ones with a word, or it ended.
{
	my $now = 0;

	sub settings {
		my $which = shift;
		my $unix = "unix:$d->{socket}";

		$d->write_ini(
			reply   => { unknown_user => "550 5.1.1 Nobody $which" },
			policyd => { listen => $which
				? "$unix inet:127.0.0.1:$d->{port}"
				: $unix });
		return;
	}

	my ($fds, $live);

	# Of which nothing fails; what it holds then it may hold.
	sub reload_well {
		settings($now = 0);
		fresh_log();
		heard();
		$d->signal('HUP');
		return wait_for { $d->log =~ /"reloaded"/ };
	}

	sub running {
		return if $d->alive;
		arm(0, 0);
		settings($now = 0);
		fresh_log();
		$d->start;
		reload_well();
		answer(0, 'no@example.com');
		# libev keeps one for the first child, which comes a second later.
		($fds, $live) = (descriptors(), memory() + 1);
		return;
	}

	sub leaks {
		my $n = shift;

		reload_well() or return wrong('reload', $n, 'no further reload');
		return if wait_for { descriptors() <= $fds && memory() <= $live } 5;
		wrong('reload', $n, sprintf 'it holds %d pieces of memory and %d '
				. 'descriptors more', memory() - $live,
			descriptors() - $fds);
		($fds, $live) = (descriptors(), memory());
		return;
	}

	sub try_reload {
		my ($n, $kind) = @_;

		running();
		settings(1 - $now);
		fresh_log();
		arm($kind, $n);
		$d->signal('HUP');
		wait_for { !$d->alive || $d->log =~ /reloaded/ } 1;
		sleep 0.02; # the tables are read again
		my ($count) = armed();
		if (!$d->alive) {
			judge_end('reload', $n, $d->{status});
			return $count;
		}
		arm(0, 0, 'keep');
		my $got = answer(0, 'no@example.com') // 'none';
		my $word = $d->log =~ /(not )?reloaded/ ? $1 // '' : 'nothing said';
		my ($which) = $got =~ /^550 5\.1\.1 Nobody ([01])$/;
		if (!defined $which) {
			wrong('reload', $n, "answers $got");
		} elsif ($word ne 'nothing said'
			&& $which != ($word ? $now : 1 - $now)) {
			wrong('reload', $n, "${word}reloaded, but answers $got");
		}
		$now = $which // $now;
		leaks($n);
		return $count;
	}
}

# Every call that there is, or as many as the time lets.
sub try_all {
	my ($what, $kind, $seconds, $try) = @_;
	my $start = time;

	@wrong = ();
	arm($kind, 0);
	my $count = $try->(0, $kind);
	my $each = time - $start;
	my ($tried, $step) = (0, 1);
	for (my $n = 1; $n <= $count; $n += $step) {
		arm($kind, $n);
		$try->($n, $kind);
		$tried++;
		# What is left must do for the rest, as long as each took so far.
		my $left = $seconds - (time - $start);
		$each = (time - $start) / ($tried + 1);
		my $room = $left / $each;
		$step = $room < 1 ? $count : 1 + int(($count - $n) / $room);
	}
	arm(0, 0);
	ok(!@wrong, "$what: $tried of $count calls fail");
	diag $_ for @wrong;
	return;
}

my @tries = (
	[ 'policyd -t, system', SYSTEM, .1,  \&try_check ],
	[ 'policyd -t, memory', MEMORY, .1,  \&try_check ],
	[ 'start, system',      SYSTEM, .25, \&try_start ],
	[ 'start, memory',      MEMORY, .2,  \&try_start ],
	[ 'reload, system',     SYSTEM, .15, \&try_reload ],
	[ 'reload, memory',     MEMORY, .2,  \&try_reload ],
);
for (grep { !$sanitizer || $_->[1] == SYSTEM } @tries) {
	my ($what, $kind, $share, $try) = @$_;
	try_all($what, $kind, $SECONDS * $share, $try);
}

is(join(' ', sort keys %aborts), '', 'nothing aborts without a word');
running();
is($d->stop, 0, 'a stop after all of it');

done_testing();
