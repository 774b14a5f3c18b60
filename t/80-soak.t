#!/usr/bin/perl

# SPDX-License-Identifier: MIT
#
# A soak: mixed load and random faults, while an administrator changes rows and
# settings, and every answer is held against Oracle.pm, a second implementation
# of the contract.
#
# SOAK_SECONDS=N or SOAK_MINUTES=N makes it longer, SOAK_SEED=N takes the same
# random choices once more, SOAK_LOG=all SOAK_LOG_FILE=PATH keeps what policyd has
# logged.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use List::Util qw(max min shuffle sum);
use Test::More;
use Time::HiRes qw(sleep time);

use FaultProxy;
use PolicydTest qw(site slurp soon spew wait_for);
use SoakLoad;
use SoakSite;

use constant {
	IN_FORCE_S => 10,   # a change: far beyond what any machine needs
	WELL_S     => 60,   # after a fault
	WRITTEN_S  => 60,   # until all is in PostgreSQL
	# Of the last third of the run above the first; the cache of what is
	# known fills in the first one of a long run.
	GROWTH_KB  => 4096,
};

my $SECONDS = $ENV{SOAK_SECONDS}
	|| ($ENV{SOAK_MINUTES} ? 60 * $ENV{SOAK_MINUTES} : 15);
my $SEED = $ENV{SOAK_SEED} || time * 1000 % 1_000_000;
srand $SEED;
note "SOAK_SEED=$SEED SOAK_SECONDS=$SECONDS";

my $pg  = site(SoakSite::sql());
my $net = FaultProxy->new(to => "$pg->{dir}/.s.PGSQL.5432");
my $dbh = admin();

my ($settings, $known) = settings_of(0);
my $d = PolicydTest->new(
	conninfo => $pg->conninfo(user => 'policyd', host => '127.0.0.1',
		port => $net->port),
	ini => $settings
)->start;
my $pid = $d->pid;

sub settings_of {
	my $n = shift;
	# Soon full of pages that are in use, and never full of keys.
	return SoakSite::settings($n, greylist => { cache_entries =>
			$SECONDS > 300 ? 250_000 : 50_000 });
}

# What an administrator commits is on disk.
sub admin {
	my $new = $pg->dbh;
	$new->do('SET synchronous_commit = on');
	$new->do('SET client_min_messages = error');
	return $new;
}

# ---- changes ----

my $world   = 0;   # the last one that was committed,
my $pending = 0;   # and whether it may not be in force yet
my $reloads = 0;
my @latency;

my $load = SoakLoad->new(socket => $d->{socket}, seed => $SEED + 1,
	main_seed => $SEED);

sub publish {
	$load->tell(world => { SoakSite::rows($dbh), n => $world,
		ini => $known });
	$pending = 1;
	return;
}

# Some rows, all at once.
sub change {
	$dbh->begin_work;
	SoakSite::change($dbh) for 1 .. 1 + rand 3;
	$world++;
	$dbh->do(q{UPDATE policyd.rule SET action = ? WHERE priority = -1000},
		undef, "450 4.0.0 mark $world");
	# It may be in force as soon as it is committed.
	publish();
	$dbh->commit;
	return;
}

sub mark_is {
	my $got = $d->ask(protocol_state => 'ETRN',
		etrn_domain => 'mark.example') // '';
	return $got eq "450 4.0.0 mark $world" && time;
}

sub settle {
	my $seconds = shift || IN_FORCE_S;
	return 1 if !$pending;
	my $began = time;
	my $at = wait_for(\&mark_is, $seconds);
	if (!$at) {
		fail("change $world is in force");
		diag "SOAK_SEED=$SEED\n" . tail($d->log);
		return 0;
	}
	$load->tell(in_force => $world, at => $at);
	$pending = 0;
	return $at - $began;
}

sub tail { return join '', map {"$_\n"} (split /\n/, shift)[ -15 .. -1 ] }

# Other settings, or the same ones once more.
sub reload {
	my $same = shift;
	settle();
	if (!$same) {
		$reloads++;
		($settings, $known) = settings_of($reloads);
		$d->{ini} = $settings;
		$world++;
		$dbh->do('UPDATE policyd.rule SET action = ? WHERE priority = -1000',
			undef, "450 4.0.0 mark $world");
		$d->write_ini;
		publish();
	}
	my $mark = $d->log_mark;
	$d->signal('HUP');
	ok(wait_for(sub { $d->log_since($mark) =~ /"reloaded"/ }, IN_FORCE_S),
		'settings are in force') or diag tail($d->log);
	return;
}

# ---- an administrator, and what is seen of the daemon ----

my @samples;

sub sample {
	my ($rss) = slurp("/proc/$pid/status") =~ /^VmRSS:\s+(\d+)/m;
	push @samples, [ time, $rss, scalar(() = glob "/proc/$pid/fd/*") ];
	return;
}

# Open now, but for connections to PostgreSQL, which come and go.
sub fds {
	sample();
	return $samples[-1][2] - $dbh->selectrow_array(q{SELECT count(*)
		FROM pg_stat_activity WHERE usename = 'policyd'});
}

sub tamper {
	my $victims = $load->tell(victims => 1)->{victims};
	return if !@$victims;
	for my $v (@$victims) {
		my $where = 'WHERE client = ? AND recipient = ?';
		my @key = @{$v}{qw(client recipient)};
		my @how = $v->{passed} ? qw(forgotten) : qw(forgotten aged released);
		my $how = $how[ rand @how ];
		my $n = $how eq 'forgotten'
			? $dbh->do("DELETE FROM policyd.greylist $where", undef, @key)
			: $dbh->do('UPDATE policyd.greylist SET first_seen = first_seen - '
				. ($how eq 'aged' ? q{interval '2 d'} : "interval '"
					. SoakSite::DELAY_S . " s'") . " $where", undef, @key);
		$v->{how} = $n > 0 ? $how : 'nothing';
	}
	change();
	settle();
	$load->tell(tampered => $victims);
	return;
}

# So long the administrator works; what is pending may stay so.
sub work {
	my ($seconds, $patient) = @_;
	my $until = time + $seconds;

	while (time < $until) {
		change();
		my $took = $patient ? settle() : $pending;
		push @latency, $took if $patient && $took;
		sample();
		tamper() if $patient && rand() < 0.2;
		sleep rand 0.25;
	}
	return;
}

sub idle {
	my $until = time + shift;
	while (time < $until) {
		sample();
		sleep 0.1;
	}
	return;
}

my $probe = 0;

# All is as it was before the fault.
sub well {
	my $began = time;
	if (!eval { $dbh->ping }) {
		$dbh = admin();
	}
	change() if !$pending;
	settle(WELL_S) or return;
	ok(wait_for(sub {
		($d->ask(policy_context => 'probe') // '') =~ /^450 4\.9\.1 said /
	}, WELL_S), 'scripts run') or return;
	ok(wait_for(\&is_written, WELL_S), 'PostgreSQL greylists') or return;
	$load->tell(well => 1);
	return time - $began;
}

# Is a new key in the table when it is answered?
sub is_written {
	my $to  = 'p' . ++$probe . '@grey.example';
	my $net = join '.', 198, 19 + ($probe >> 8), $probe & 255;

	$d->ask(client_name => 'unknown', client_address => "$net.7",
		recipient => $to, policy_context => 'grey');
	return $dbh->selectrow_array('SELECT EXISTS (SELECT FROM policyd.greylist
		WHERE client = ? AND recipient = ?)', undef, "$net.0/24", $to);
}

# ---- faults ----

sub terminate {
	my $all = shift;
	my @pid = @{ $dbh->selectcol_arrayref(q{SELECT pid FROM pg_stat_activity
		WHERE usename = 'policyd'}) };
	@pid = $pid[ rand @pid ] if @pid && !$all;
	$dbh->do('SELECT pg_terminate_backend(unnest(?::int[]))', undef, \@pid)
		if @pid;
	return;
}

sub one_by_one {
	my $until = time + shift;
	while (time < $until) {
		terminate();
		change() if rand() < 0.3;
		sleep 0.05 + rand 0.2;
	}
	return;
}

# during: what is done until it is mended, or nothing for a while; plain:
# PostgreSQL is there all the time.
my %FAULT = (
	stopped   => { break => sub { $pg->stop }, mend => sub { $pg->start } },
	killed    => { break => sub { $pg->crash }, mend => sub { $pg->start } },
	restarted => { break => sub { $pg->restart }, during => sub { } },
	frozen    => { break => sub { $pg->freeze }, mend => sub { $pg->thaw } },
	hiccups   => {
		during => sub {
			for (1 .. 3) {
				$pg->freeze;
				idle(0.9);
				$pg->thaw;
				idle(0.4);
			}
		},
	},
	terminated => { break => sub { terminate('all') },
		during => sub { work(0.5) } },
	'one by one' => { during => sub { one_by_one(3) } },
	'black hole' => { break => sub { $net->hole(1) },
		during => sub { work(2) }, mend => sub { $net->hole(0) } },
	slow => { break => sub { $net->delay(0.15 + rand 0.3) },
		during => sub { work(2) }, mend => sub { $net->delay(0) } },
	reload => { plain => 1, during => sub {
		reload('same'), idle(0.3) for 1 .. 3 } },
	'new settings' => { plain => 1, during => sub {
		for (1 .. 2) { reload(); well(); idle(0.5) } } },
	'bad settings' => { plain => 1, during => \&bad_settings },
	garbage => { plain => 1, break => sub { $load->tell(storm => 40) },
		during => sub { work(2, 1) }, mend => sub { $load->tell(storm => 0) } },
);

sub bad_settings {
	my $mark = $d->log_mark;
	$d->write_ini(rcpt => { max_recipients => 'lots' });
	$d->signal('HUP');
	ok(wait_for(sub { $d->log_since($mark) =~ /max_recipients/ }),
		'bad settings are refused');
	idle(0.5);
	$d->write_ini;
	return;
}

# Which ones, and in which order: all of them before one comes again.
my @deck;

sub next_fault {
	@deck = shuffle sort keys %FAULT if !@deck;
	return shift @deck;
}

my %TABLE;

sub strike {
	my $name  = shift;
	my $fault = $FAULT{$name};
	my $row   = $TABLE{$name} ||= { times => 0, p99_before => [], p99 => [],
		well => [], map { $_ => 0 } qw(asked failed mismatches) };

	# What is committed and not yet in force is part of it.
	$load->tell(fault => $name) if !$fault->{plain};
	change() if !$fault->{plain} && rand() < 0.5;
	push @{ $row->{p99_before} },
		$load->tell(report => 1, phase => $name)->{p99};
	$fault->{break}->() if $fault->{break};
	$fault->{during} ? $fault->{during}->() : idle(1 + rand 2);
	$fault->{mend}->() if $fault->{mend};
	push @{ $row->{well} }, well() // WELL_S;
	my $seen = $load->tell(report => 1, phase => "after $name");
	$row->{times}++;
	$row->{$_} += $seen->{$_} for qw(asked failed mismatches);
	push @{ $row->{p99} }, $seen->{p99};
	return;
}

# ---- the run ----

# All that was asked is answered, and nobody asks any more: what is open then.
sub at_rest {
	$load->tell(quiet => 1, storm => 0);
	ok(wait_for(sub { sample(); !$load->tell(left => 1)->{left} }, 60),
		'all are answered');
	return fds();
}

# Those of state_dir that nothing accounts for: none is left half written.
sub strange_files {
	return join ' ', grep { !/^(?:tables\.copy|greylist\.(?:known|journal))$/ }
		map { s{.*/}{}r } glob "$d->{statedir}/*";
}

publish();
settle();
my $warm = min(10, $SECONDS / 6);
work($warm, 1);
well();
my $fds = at_rest();
$load->tell(quiet => 0);

my $began = time;
my $end   = $began + $SECONDS - $warm;
while (time < $end && $d->alive) {
	$load->tell(phase => 'quiet');
	work(1 + rand 2, 1);
	strike(next_fault());
}
my $ended = time;
ok($d->alive && $d->pid == $pid, 'policyd was not restarted')
	or BAIL_OUT(tail($d->log));
well();
my $fds_after;
at_rest();
wait_for { ($fds_after = fds()) == $fds };
my $totals = $load->tell(report => 1)->{totals};
my $seen = $load->tell(keys => 1);
$load->stop;

is($totals->{mismatches}, 0, "all of $totals->{asked} answers are right")
	or diag "SOAK_SEED=$SEED SOAK_SECONDS=$SECONDS prove -v $0";
is($totals->{failed}, 0, 'no request fails');
cmp_ok($totals->{open}, '<=', 5 + $totals->{asked} / 50,
	'hardly one that is open');
cmp_ok($totals->{asked}, '>', 20 * $SECONDS, 'there were many');
cmp_ok(scalar(keys %{ $seen->{answers} }), '>', 6, 'of many kinds');

# ---- nothing is lost ----

my $keys = $seen->{keys};
my %rows;

# In the table, seen no later than the answer, and passed if it has.
sub fault_of {
	my $name = shift;
	my ($is, $passed, $lo, $hi, $vague) = @{ $keys->{$name} };
	my $row = $rows{$name};
	return if $is != 1 || $vague;
	return 'no row' if !$row;
	return sprintf 'seen %.3f s after the answer', $row->[3] - $hi
		if $row->[3] > $hi + Oracle::SLACK_S;
	return 'has not passed' if $passed == 1 && !$row->[4];
	return;
}

# "KEY: what is wrong with it".
sub lost {
	%rows = map { utf8::encode(my $name = join ' ', @{$_}[ 0 .. 2 ]);
		($name => $_) } @{ $dbh->selectall_arrayref(
		'SELECT client, sender, recipient,
			extract(epoch FROM first_seen)::float8, passed_at IS NOT NULL
			FROM policyd.greylist') };
	return map { my $why = fault_of($_); $why ? "$_: $why ($keys->{$_}[5])\n" : () }
		sort keys %$keys;
}

{
	my @lost;
	wait_for { @lost = lost(); !@lost } WRITTEN_S;
	is(scalar(@lost), 0, keys(%$keys) . ' keys of greylisting are there')
		or diag @lost[ 0 .. min(9, $#lost) ];
	my $sure = grep { $_->[0] == 1 && !$_->[4] } values %$keys;
	cmp_ok($sure, '>', keys(%$keys) / 2, 'most of which are certain');
	# Our own, and vandals, who hang up before they have an answer.
	my @extra = grep { !$keys->{$_} && !/^198\.\d\d\./ } sort keys %rows;
	is(scalar(@extra), 0, keys(%rows) . ' rows, and nothing else')
		or diag map {"$_\n"} @extra[ 0 .. min(9, $#extra) ];
}

# ---- nothing grows ----

is($fds_after, $fds, 'as many descriptors as at first');
soon { strange_files() eq '' } 'no other files in state_dir';
{
	my $third = ($ended - $began) / 3;
	my ($first, $last) = map { my $from = $_; max map { $_->[1] }
		grep { $_->[0] >= $from && $_->[0] <= $from + $third } @samples }
		$began, $ended - $third;
	note "resident memory: first third at most $first KiB, last $last KiB; "
		. 'descriptors at most ' . max(map { $_->[2] } @samples) . ", $fds at rest";
	# Sanitizers keep what was freed.
	cmp_ok($last, '<=', $first + GROWTH_KB, 'resident memory is flat')
		if !$ENV{ASAN_OPTIONS};
}
is($d->stop, 0, 'exit status');
spew($ENV{SOAK_LOG_FILE}, $d->log) if $ENV{SOAK_LOG_FILE};
unlike($d->log, qr/AddressSanitizer|runtime error|level=(?:alert|crit)/,
	'nothing odd in the log');

# ---- what was seen ----

sub ms { return @_ ? sprintf '%.1f', 1000 * max @_ : '-' }

sub median {
	my @sorted = sort { $a <=> $b } @_;
	return $sorted[ $#sorted / 2 ] // 0;
}

note 'times in ms; p99 of what memory answers, the median of all times';
note sprintf '%-14s %5s %9s %6s %10s %10s %8s %9s', 'fault', 'times', 'asked',
	'failed', 'mismatches', 'p99 before', 'p99', 'well after';
for my $name (sort keys %TABLE) {
	my $t = $TABLE{$name};
	note sprintf '%-14s %5d %9d %6d %10d %10s %8s %9s', $name,
		@{$t}{qw(times asked failed mismatches)},
		map({ ms(median(@$_)) } @{$t}{qw(p99_before p99)}),
		ms(@{ $t->{well} });
}
note sprintf '%d faults; %d answers (%.0f/s), %d failed, %d mismatches',
	sum(map { $_->{times} } values %TABLE), $totals->{asked},
	$totals->{asked} / $SECONDS, @{$totals}{qw(failed mismatches)};
note sprintf '%d changes, in force after %s ms (median), %s ms (worst of %d)',
	$world, ms(median(@latency)), ms(@latency), scalar @latency;
note sprintf '%d keys of greylisting, %s; %d vandals', scalar(keys %$keys),
	join(', ', map {"$seen->{count}{$_} $_"} sort keys %{ $seen->{count} }),
	$seen->{vandalism};
note join ', ', map {"$seen->{answers}{$_} $_"}
	sort { $seen->{answers}{$b} <=> $seen->{answers}{$a} }
	keys %{ $seen->{answers} };
done_testing();
