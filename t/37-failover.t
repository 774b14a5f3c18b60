#!/usr/bin/perl

# SPDX-License-Identifier: MIT
#
# The primary goes, and the standby takes its place: policyd, which knows both,
# finds it; mail goes on, and nothing is lost.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;

use FaultTest;
use PgCluster;
use PolicydTest qw(in_time soon site);
use Time::HiRes qw(sleep);

my $one = site(FaultTest::rows());
my $two = $one->standby;

sub follows {
	my $pg = shift;
	my $dbh = $pg->dbh;
	soon {
		$dbh->selectrow_array(q{SELECT EXISTS (SELECT FROM
			pg_stat_replication WHERE state = 'streaming'
			AND replay_lsn = pg_current_wal_lsn())})
	} 'the standby follows';
	$dbh->disconnect;
	return;
}

my $both = $one->conninfo(
	user                 => 'policyd',
	host                 => join(',', $one->dir, $two->dir),
	target_session_attrs => 'read-write'
);
my %ini = FaultTest::ini();

# ---- the first of them is the standby ----

# Nothing says which is meant; or it says that any will do, and it will not.
follows($one);
for my $attrs ('', ' target_session_attrs=any') {
	my $d = PolicydTest->new(
		conninfo => $one->conninfo(
			user => 'policyd',
			host => join(',', $two->dir, $one->dir)
		) . $attrs,
		ini => \%ini
	)->start(until => 'reply');
	my $name = $attrs ? 'any' : 'nothing said';
	my $who  = $attrs ? 'any' : 'none';
	$one->psql("INSERT INTO policyd.address (address)
		VALUES ('$who\@example.com')");
	soon { ($d->ask(recipient => "$who\@example.com") // '') !~ /^(?:550|DEFER_IF_PERMIT 4\.3)/ }
	"$name: the primary is heard", 20;
	soon {
		$d->ask(recipient => "$who\@any.example", client_name => 'unknown');
		$one->psql("SELECT 1 FROM policyd.greylist
			WHERE recipient = '$who\@any.example'")
	} "$name: and written to", 20;
	is($d->stop, 0, 'exit status');
}

# ---- who finds that it is back tells the others ----

{
	my $d = PolicydTest->new(
		conninfo => $one->conninfo(user => 'policyd'),
		ini => { %ini, database => { reconnect_max => '15s' } }
	)->start;
	my $mine = q{FROM pg_stat_activity WHERE usename = 'policyd'};
	my $all  = 7;
	soon { $one->psql("SELECT count(*) $mine") == $all } 'all are connected';
	$one->stop('fast');
	sleep 4;    # long enough for pauses of some seconds
	$one->start;
	soon { $one->psql("SELECT count(*) $mine") == $all } 'and again', 20;
	my $spread = $one->psql('SELECT extract(epoch FROM max(backend_start)
		- min(backend_start)) ' . $mine);
	in_time($spread, 0.3, 'at the same time');
	is($d->stop, 0, 'exit status');
}

# ---- one takes over from the other ----

$ini{database}{listen_conninfo} = $both;
my $d = PolicydTest->new(conninfo => $both, ini => \%ini)->start;
my $test = FaultTest->new(pg => $one, daemon => $d);

sub changes_hold {
	my ($pg, $name) = @_;
	$pg->psql("INSERT INTO policyd.address (address)
		VALUES ('$name\@example.com')");
	soon { ($d->ask(recipient => "$name\@example.com") // '') eq 'DUNNO' }
	"$name: what is changed in the new primary is in force";
	return;
}

# The other one takes over.
my ($primary, $standby) = ($one, $two);

sub prepare {
	$standby->follow($primary) if !$standby->pid;
	follows($primary);
	return;
}

sub take_over {
	$standby->promote;
	($primary, $standby) = ($standby, $primary);
	$test->{pg} = $primary;
	return;
}

# All that was written has arrived at the standby.
$test->fault('handed over',
	prepare => \&prepare,
	break   => sub { $primary->stop('fast') },
	mend    => \&take_over);
changes_hold($primary, 'handed');

# What the primary had yet to write and to send dies with it, which PostgreSQL
# calls asynchronous: here all that it has answered for half a second.
$test->fault('failed over',
	prepare => \&prepare,
	break   => sub {
		my $sender = $primary->psql('SELECT pid FROM pg_stat_replication');
		kill 'STOP', $sender;
		sleep 0.5;
		kill 'KILL', $primary->pid, $sender;
		$primary->crash;
	},
	mend => \&take_over);
changes_hold($primary, 'failed');

# Its host hangs, and resets no connection: the connections find the new one at
# different times.
my $hung;
$test->fault('hung, failed over',
	prepare => \&prepare,
	break   => sub {
		kill 'STOP', $primary->psql('SELECT pid FROM pg_stat_replication');
		sleep 0.5;
		$hung = $primary;
		$primary->freeze;
	},
	mend => \&take_over);
changes_hold($primary, 'hung');
kill 'KILL', $hung->children;
$hung->crash;
undef $test;
is($d->stop, 0, 'exit status');

FaultTest::table();
done_testing();
