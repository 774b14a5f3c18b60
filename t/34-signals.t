#!/usr/bin/perl

# SPDX-License-Identifier: MIT
#
# Signals, under load and at odd moments: SIGTERM cuts no answer and loses no
# sighting, SIGHUP is felt by nobody.  (t/31-reload.t has them one by one.)

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Handle;
use JSON::PP ();
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

use PolicydTest qw(block policyd_path site slurp soon wait_for);

use constant {
	AT_ONCE => 20,         # questions that a connection has out
	STOP_S  => 5,          # SPEC
	ROOM    => 1 << 19,    # bytes that are no leak
};

my $sanitized = `ldd @{[ policyd_path() ]} 2>&1` =~ /lib[at]san/;

my $pg = site(<<'SQL');
INSERT INTO policyd.domain (name, recipients, greylist) VALUES
  ('example.com', 'listed', false), ('any.example', 'any', NULL);
INSERT INTO policyd.address (address) VALUES ('bob@example.com');
CREATE FUNCTION policyd_script.waits(request jsonb) RETURNS text
  LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$;
INSERT INTO policyd.rule (priority, conditions, action) VALUES
  (1, ARRAY['sender = no@refused.example'], 'REJECT 5.7.1 No'),
  (2, ARRAY['sender = script@waits.example'], 'script waits');
SQL

my %ini = (
	rcpt     => { errors_wait   => '60s' },
	database => { query_timeout => '20s', reconnect_max => '300ms' },
	greylist => { enabled => 'yes', delay => '1h', auto_allow_after => 0 },
	log      => { decisions => 'none' },
);
my $d = PolicydTest->new(
	conninfo => $pg->conninfo(user => 'policyd'),
	inet     => 1,
	ini      => \%ini
);

# ---- the load ----

my %QUESTION = (
	known   => block(recipient => 'bob@example.com'),
	refused => block(recipient => 'bob@example.com',
		sender => 'no@refused.example'),
	held   => block(recipient => 'nobody@example.com'),
	script => block(recipient => 'bob@example.com',
		sender => 'script@waits.example'),
);
my %ANSWER = (
	known   => qr/^DUNNO$/,
	refused => qr/^REJECT 5\.7\.1 No$/,
	held    => qr/^550 5\.1\.1 /,
	script  => qr/^DEFER_IF_PERMIT 4\.3\.0 /,    # unavailable, or given up
	grey    => qr/^DEFER_IF_PERMIT 4\.2\.0 /,
);
my $ROUND = 0;

# A process with so many connections of each kind, of which every other one
# comes by TCP, until they have all been closed or nobody listens to it any
# more: `often` ask without end, many questions at once; `grey` bring new keys,
# one at a time; `held` and `script` ask once, and wait.
sub load {
	my (%kinds) = @_;
	my $sender = 'list@round' . chr(ord('a') + $ROUND++) . '.example';

	pipe my $from, my $to  or die "pipe: $!";
	pipe my $stop, my $end or die "pipe: $!";
	my $pid = fork // die "fork: $!";
	if ($pid == 0) {
		$SIG{PIPE} = 'IGNORE';
		close $_ for $from, $end;
		print {$to} JSON::PP::encode_json(busy($to, $stop, $sender, %kinds));
		close $to;
		POSIX::_exit(0);
	}
	close $_ for $to, $stop;
	# All have asked, and been answered many times.
	sysread $from, my $dot, 1;
	return { pid => $pid, from => $from, end => $end, sender => $sender };
}

# What became of it: { answers, bad => [...], cut => [...], keys => [...] }, and
# how many of those that ask once have been answered.
sub outcome {
	my $load = shift;
	local $/;

	close $load->{end};
	my $said = readline $load->{from};
	waitpid $load->{pid}, 0;
	return JSON::PP::decode_json($said);
}

sub busy {
	my ($to, $stop, $sender, %kinds) = @_;
	my %seen = (answers => 0, bad => [], cut => [], keys => []);
	my ($readers, %by_fd) = ('');
	my $key = 0;

	my $ask = sub {
		my $c = shift;
		my $text = '';
		while (@{ $c->{want} } < ($c->{kind} eq 'often' ? AT_ONCE : 1)) {
			my $kind = $c->{kind};
			$kind = ++$c->{turn} % 3 ? 'known' : 'refused'
				if $kind eq 'often';
			if ($kind eq 'grey') {
				$c->{key} = sprintf 'k%d@any.example', ++$key;
				$text .= block(
					client_name    => 'unknown',
					client_address => sprintf('20.%d.%d.7', $key >> 8, $key & 255),
					sender         => $sender,
					recipient      => $c->{key}
				);
			}
			$text .= $QUESTION{$kind} // '';
			push @{ $c->{want} }, $kind;
		}
		$c->{conn}->send($text);
		return;
	};
	my $end_of = sub {
		my $c = shift;
		push @{ $seen{cut} }, $c->{conn}{in} if length $c->{conn}{in};
		vec($readers, $c->{fd}, 1) = 0;
		delete $by_fd{ $c->{fd} };
		return;
	};
	my $inet = 0;
	for my $kind (sort keys %kinds) {
		for (1 .. $kinds{$kind}) {
			my $c = { kind => $kind, want => [],
				conn => $d->connect(inet => $inet++ % 2) };
			$c->{fd} = fileno $c->{conn}->sock;
			$by_fd{ $c->{fd} } = $c;
			vec($readers, $c->{fd}, 1) = 1;
			$ask->($c);
		}
	}
	vec($readers, fileno $stop, 1) = 1;
	my $told;
	while (%by_fd) {
		select my $ready = $readers, undef, undef, undef;
		last if vec $ready, fileno $stop, 1;
		for my $c (grep { vec $ready, $_->{fd}, 1 } values %by_fd) {
			my $conn = $c->{conn};
			my $n = sysread $conn->sock, $conn->{in}, 65536,
				length $conn->{in};
			if (!$n) {
				$end_of->($c);
				next;
			}
			while ($conn->{in} =~ s/\Aaction=([^\n]*)\n\n//) {
				my $answer = $1;
				my $kind   = shift @{ $c->{want} } // 'nothing';
				$seen{answers}++;
				$seen{once}{$kind}++ if $kind eq 'held' || $kind eq 'script';
				push @{ $seen{keys} }, $c->{key}
					if $kind eq 'grey' && $answer =~ $ANSWER{grey};
				push @{ $seen{bad} }, "$kind: $answer"
					if $answer !~ ($ANSWER{$kind} // qr/^(?!)/);
			}
			$ask->($c) if $c->{kind} eq 'often' || $c->{kind} eq 'grey';
		}
		$told ||= syswrite $to, '.'
			if $seen{answers} > 3000
			&& (!$kinds{grey} || @{ $seen{keys} } > 30);
	}
	return \%seen;
}

# ---- SIGTERM ----

my %ALL = (often => 30, grey => 10, held => 5, script => 5);

# The recipients that PostgreSQL knows of this sender.
sub rows {
	my $load = shift;
	return split ' ', $pg->psql(qq{SELECT coalesce(string_agg(recipient, ' '), '')
		FROM policyd.greylist WHERE sender = '$load->{sender}'});
}

# What is asked, and answered, before it ends is whole and known afterwards.
sub stops {
	my ($name, %opt) = @_;

	$d->start;
	my $load = load(%ALL);
	$opt{before}->() if $opt{before};
	my $began = time;
	$d->signal($_) for @{ $opt{signals} || ['TERM'] };
	my $status = $d->wait_end(10 + STOP_S);
	my $took   = time - $began;
	my $seen   = outcome($load);

	is($status, 0, "$name: exit status");
	cmp_ok($took, '<', STOP_S, "$name: in time");
	is_deeply($seen->{cut}, [], "$name: no answer is cut");
	# Told twice, it does not wait for what PostgreSQL has to say.
	my @bad = grep { @{ $opt{signals} || [] } < 3 || !/^grey: DEFER\S+ 4\.3\.0 / }
		@{ $seen->{bad} };
	is_deeply(\@bad, [], "$name: nor wrong, nor out of turn");
	is_deeply($seen->{once}, { held => 5, script => 5 },
		"$name: who waits for an answer gets one");
	$opt{after}->() if $opt{after};
	my @lost;
	my $there = wait_for {
		my %row = map { $_ => 1 } rows($load);
		@lost = grep { !$row{$_} } @{ $seen->{keys} };
		return !@lost;
	} $opt{after} ? 10 : 0.1;
	is("@lost", '', "$name: no sighting is lost");
	cmp_ok(scalar @{ $seen->{keys} }, '>', 20, "$name: there were some");
	$d->stop;
	return;
}

stops('under load');
stops('twice', signals => [ 'TERM', 'TERM', 'INT' ]);
stops('while it reloads', signals => [ 'HUP', 'TERM' ]);
stops(
	'while it reads its tables',
	before => sub {
		my $dbh  = $pg->dbh;
		my $mark = $d->log_mark;
		$dbh->do('NOTIFY policyd');
		$dbh->disconnect;
	}
);
stops(
	'while PostgreSQL is frozen',
	before => sub { $pg->freeze; sleep 0.7 },
	after  => sub { $pg->thaw; $d->start }
);
stops(
	'while PostgreSQL is away',
	before => sub { $pg->stop('fast'); sleep 0.7 },
	after  => sub { $pg->start; $d->start }
);

# ---- SIGHUP ----

{
	$d->start;
	my $load = load(often => 50);
	my $other = "$d->{dir}/other.sock";
	my @changes = (
		{ reply    => { relay_denied => '550 5.7.1 Other' } },
		{ policyd  => { listen => "unix:$d->{socket} unix:$other" } },
		{ database => { connections => 3, script_connections => 1 } },
		{ rcpt     => { no_such_key => 1 } },
		{ greylist => { cache_entries => 100_000 } },
		{},
	);
	my $fds = sub { scalar(() = glob '/proc/' . $d->pid . '/fd/*') };
	my ($first, $rss, @late);
	for my $i (0 .. 53) {
		my $mark = $d->log_mark;
		my $bad  = $i % @changes == 3;
		$d->write_ini(%{ $changes[ $i % @changes ] });
		$d->signal('HUP');
		wait_for {
			$d->log_since($mark) =~ ($bad ? qr/not reloaded/ : qr/"reloaded"|=reloaded/)
		} or push @late, $i;
		# The last of a round leaves all as it was.
		next if $i % @changes != $#changes;
		if ($i < 18) {    # caches have filled
			wait_for { connections() >= 5 };
			($first, $rss) = ($fds->(), rss());
		}
	}
	is("@late", '', '54 reloads, each is told');
	soon { $fds->() <= $first } 'no descriptor is left over';
	SKIP: {
		skip 'a sanitizer has its own malloc', 1 if $sanitized;
		cmp_ok(rss() - $rss, '<', ROOM, 'and no memory');
	}
	my $seen = outcome($load);
	is_deeply([ @$seen{qw(bad cut)} ], [ [], [] ],
		"none of $seen->{answers} requests fails");
	is($d->stop, 0, 'exit status');
	$d->write_ini;
}

sub rss {
	my ($kb) = slurp('/proc/' . $d->pid . '/status') =~ /^VmRSS:\s+(\d+)/m;
	return $kb * 1024;
}

sub connections {
	return $pg->psql(q{SELECT count(*) FROM pg_stat_activity
		WHERE usename = 'policyd'});
}

# ---- too early ----

# While it reads its configuration, which comes through a pipe.
{
	my $text = slurp($d->{inifile});
	my $mark = $d->log_mark;

	unlink $d->{inifile};
	POSIX::mkfifo($d->{inifile}, 0600) or die "mkfifo: $!\n";
	$d->spawn;
	open my $pipe, '>', $d->{inifile} or die "$d->{inifile}: $!\n";
	$d->signal($_) for qw(HUP PIPE);
	unlink $d->{inifile};
	$d->write_ini;
	print {$pipe} $text;
	close $pipe;
	soon { $d->log_since($mark) =~ /\breloaded\b/ }
	'SIGHUP while it reads its configuration is heard later';
	is($d->stop, 0, 'exit status');
}

# PostgreSQL does not answer, and there is no copy to begin with.
for my $signal (qw(TERM INT)) {
	unlink glob "$d->{statedir}/*";
	$pg->freeze;
	my $mark = $d->log_mark;
	$d->spawn;
	wait_for { $d->connect };
	my $waits = $d->connect;
	$waits->send(block());
	$d->signal('PIPE')->signal('HUP');
	soon { $d->log_since($mark) =~ /reloaded/ } 'it hears signals meanwhile';
	my $began = time;
	$d->signal($signal);
	is($d->wait_end(10 + STOP_S), 0,
		"SIG$signal while it waits for its first tables");
	cmp_ok(time - $began, '<', STOP_S, 'in time');
	ok($waits->closed(1), 'who came early is let go');
	$pg->thaw;
}

done_testing();
