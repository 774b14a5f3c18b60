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
use PolicydTest qw(soon site);

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
# calls asynchronous.
$test->fault('failed over',
	unsynced => 1,
	prepare  => \&prepare,
	break    => sub { $primary->crash },
	mend     => \&take_over);
changes_hold($primary, 'failed');
undef $test;
is($d->stop, 0, 'exit status');

FaultTest::table();
done_testing();
