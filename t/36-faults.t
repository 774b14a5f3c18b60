#!/usr/bin/perl

# SPDX-License-Identifier: MIT
#
# Whatever breaks, mail goes on and nothing is lost: each fault of PostgreSQL,
# under load.  FAULT_SECONDS=60 is for a longer last one.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Time::HiRes qw(sleep time);

use FaultProxy;
use FaultTest;
use PgCluster;
use PolicydTest qw(install_schema soon wait_for);

my $may_mount = PgCluster::may_mount();
my $pg = install_schema(PgCluster->new(settings => { max_connections => 24 },
	$may_mount ? (disk => '4m') : ()));
$pg->psql(FaultTest::rows() . 'CREATE ROLE others LOGIN');

sub daemon {
	my %where = @_;
	return PolicydTest->new(
		conninfo => $pg->conninfo(user => 'policyd', %where),
		ini      => { FaultTest::ini() }
	)->start;
}

# The processes that serve policyd.
sub backends {
	my $dbh = shift;
	return @{ $dbh->selectcol_arrayref(q{SELECT pid FROM pg_stat_activity
		WHERE usename = 'policyd'}) };
}

sub terminate {
	my ($dbh, @pid) = @_;
	$dbh->do('SELECT pg_terminate_backend(unnest(?::int[]))', undef, \@pid)
		if @pid;
	return;
}

my $d = daemon();
my $test = FaultTest->new(pg => $pg, daemon => $d);

sub fault { $test->fault(@_); return }

# ---- the disk is full ----

SKIP: {
	my $disk = $pg->small_disk;
	my $log = length $pg->log_text;
	skip 'no disk can be mounted here', 1 if !$may_mount;
	$pg->psql("CREATE TABLESPACE small LOCATION '$disk'");
	$pg->psql("ALTER $_ SET TABLESPACE small")
		for 'TABLE policyd.greylist', 'INDEX policyd.greylist_pkey',
		'TABLE policyd.client', 'INDEX policyd.client_pkey';
	fault('no disk',
		break => sub {
			my $dbh = $pg->dbh;
			# All that it takes, and what is left in the last page.
			eval {
				$dbh->do("COPY (SELECT repeat('x', 8191) FROM
					generate_series(1, 10000)) TO '$disk/all'")
			} and die "the disk has no end\n";
			$dbh->disconnect;
		},
		mend => sub { $pg->psql("COPY (SELECT) TO '$disk/all'") }
	);
	like(substr($pg->log_text, $log), qr/could not extend file/,
		'no disk: PostgreSQL could not write');
	$pg->psql("ALTER $_ SET TABLESPACE pg_default")
		for 'TABLE policyd.greylist', 'INDEX policyd.greylist_pkey',
		'TABLE policyd.client', 'INDEX policyd.client_pkey';
	$pg->psql('DROP TABLESPACE small');
}

# ---- it ends ----

fault('stopped',
	break => sub { $pg->stop('fast') },
	mend  => sub { $pg->start });
fault('killed',
	break => sub { $pg->crash },
	mend  => sub { $pg->start });
fault('restarted',
	break => sub { $pg->restart('fast') });
fault('frozen',
	seconds => 2.5,
	break => sub { $pg->freeze },
	mend  => sub { $pg->thaw });
# Shorter than query_timeout: late answers come, and the time of a key counts
# from what its sender was told.
fault('hiccups',
	break     => sub { },
	seconds   => 3,
	meanwhile => sub {
		$pg->freeze;
		sleep 0.9;
		$pg->thaw;
		sleep 0.4;
	});

# ---- it says no ----

{
	my @held;
	my $dbh;
	# True once nobody can connect and policyd is not connected.  It may slip
	# in where somebody is just leaving: this goes on.
	my $take = sub {
		my $more = eval { $pg->dbh(user => 'others') };
		push @held, $more if $more;
		return 0 if $more;
		my @theirs = backends($dbh) or return 1;
		terminate($dbh, @theirs);
		return 0;
	};
	fault('no connections',
		break => sub {
			$dbh = $pg->dbh;
			wait_for { $take->() } 10
				or die "policyd keeps its connections\n";
		},
		meanwhile => sub { sleep 0.05 if $take->() },
		mend => sub {
			ok(wait_for(sub { $take->() }),
				'no connections: policyd has none');
			$_->disconnect for splice(@held), $dbh;
		});
}
{
	my $log = length $pg->log_text;
	fault('read-only',
		break => sub {
			my $dbh = $pg->dbh;
			$dbh->do('ALTER SYSTEM SET default_transaction_read_only = on');
			$dbh->do('SELECT pg_reload_conf()');
			terminate($dbh, backends($dbh));
			$dbh->disconnect;
		},
		mend => sub {
			my $dbh = $pg->dbh;
			$dbh->do('ALTER SYSTEM RESET default_transaction_read_only');
			$dbh->do('SELECT pg_reload_conf()');
			$dbh->disconnect;
		});
	my $refused = () = substr($pg->log_text, $log)
		=~ /in a read-only transaction/g;
	cmp_ok($refused, '>', 0, 'read-only: PostgreSQL refused to write');
	# Two connections, before and after they were terminated.
	cmp_ok($refused, '<=', 4, 'read-only: and is not asked to all the time');
}
# As where the queue of notifications is full: whatever is written is refused,
# and nothing is wrong with it.
fault('a limit',
	break => sub {
		$pg->psql(q{
			CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql
			AS $$ BEGIN RAISE 'the queue is full' USING ERRCODE = '54000';
			END $$;
			CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON policyd.greylist
			FOR EACH ROW EXECUTE FUNCTION public.refuse()});
	},
	mend => sub { $pg->psql('DROP FUNCTION public.refuse CASCADE') });
{
	my $dbh;
	fault('one by one',
		seconds   => $ENV{FAULT_SECONDS} || 8,
		break     => sub { $dbh = $pg->dbh },
		meanwhile => sub {
			my @theirs = backends($dbh);
			terminate($dbh, $theirs[ rand @theirs ]) if @theirs;
			sleep 0.02 + rand 0.15;
		},
		mend => sub { $dbh->disconnect });
}
undef $test;

# ---- it goes twice ----

# Seen while it was away the first time, and tried again the second time.
{
	my %key = (client_name => 'unknown', client_address => '192.0.2.7',
		recipient => 'twice@any.example');
	$pg->stop;
	my $seen = time;
	like($d->ask(%key), qr/^DEFER_IF_PERMIT 4\.2\.0 /, 'twice: a new key');
	$pg->start;
	soon {
		$pg->psql(q{SELECT 1 FROM policyd.greylist
			WHERE recipient = 'twice@any.example'})
	} 'twice: it is written';
	$pg->stop;
	sleep 0.05 while time < $seen + 1.3;
	like($d->ask(%key), qr/^(?:DUNNO|PREPEND)/, 'twice: and not forgotten');
	$pg->start;
}
# ---- the sender is back before policyd is ----

# PostgreSQL is killed when it has taken a key and not written it to disk.  The
# key is tried again, in memory, when PostgreSQL runs and policyd is not connected
# to it yet: then it was lost by a crash all the same.
{
	my %key = (client_name => 'unknown', client_address => '198.18.8.8',
		recipient => 'back@any.example');
	my $row = q{SELECT passed_at IS NOT NULL FROM policyd.greylist
		WHERE recipient = 'back@any.example'};
	my $on_disk = 'SET synchronous_commit = on;';
	wait_for {
		$d->ask(client_name => 'unknown', client_address => '198.18.9.9',
			recipient => 'before@any.example');
		$pg->psql(q{SELECT 1 FROM policyd.greylist
			WHERE recipient = 'before@any.example'});
	} 10;
	my $writer = $pg->psql(q{SELECT pid FROM pg_stat_activity
		WHERE backend_type = 'walwriter'});
	kill 'STOP', $writer;
	$pg->psql("$on_disk ALTER ROLE policyd NOLOGIN");
	my $seen = time;
	like($d->ask(%key), qr/^DEFER_IF_PERMIT 4\.2\.0 /, 'back: a new key');
	is($pg->psql($row), 'f', 'back: PostgreSQL has it');
	kill 'KILL', $pg->pid, $writer;
	$pg->crash;
	$pg->start;
	is($pg->psql($row), '', 'back: and loses it');
	sleep 0.05 while time < $seen + 1;
	like($d->ask(%key), qr/^PREPEND/, 'back: it passes in memory');
	$pg->psql("$on_disk ALTER ROLE policyd LOGIN");
	soon { $pg->psql($row) eq 't' } 'back: it is written', 20;
}
is($d->stop, 0, 'exit status');

# ---- the network ----

my $net = FaultProxy->new(to => "$pg->{dir}/.s.PGSQL.5432");
$d = daemon(host => '127.0.0.1', port => $net->port);
$test = FaultTest->new(pg => $pg, daemon => $d);

fault('black hole',
	seconds => 2.5,
	break => sub { $net->hole(1) },
	mend  => sub { $net->hole(0) });
fault('slow',
	break => sub { $net->delay(0.3) },
	mend  => sub { $net->delay(0) });
# Each answer comes just in time: who waits for the next one too?
fault('sluggish',
	break => sub { $net->delay(0.2) },
	mend  => sub { $net->delay(0) });
undef $test;
is($d->stop, 0, 'exit status');

FaultTest::table();
done_testing();
