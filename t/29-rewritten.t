#!/usr/bin/perl

# SPDX-License-Identifier: MIT
#
# Tables that are written anew, dropped, renamed or locked while policyd reads
# them: what is in force is never empty, nor older than what was there.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use POSIX ();
use Test::More;
use Time::HiRes qw(time);

use PolicydTest qw(block in_time policyctl_path site soon wait_for);

my $pg = site(<<'SQL');
INSERT INTO policyd.domain (name) VALUES ('example.com');
INSERT INTO policyd.address (address) VALUES ('bob@example.com');
CREATE SCHEMA site;
CREATE TABLE site.domain (name text);
CREATE TABLE site.mailbox (address text);
INSERT INTO site.domain VALUES ('example.com');
INSERT INTO site.mailbox VALUES ('bob@example.com');
CREATE MATERIALIZED VIEW site.picture AS SELECT 'bob@example.com' AS address;
GRANT USAGE ON SCHEMA site TO policyd;
ALTER DEFAULT PRIVILEGES IN SCHEMA site GRANT SELECT ON TABLES TO policyd;
GRANT SELECT ON ALL TABLES IN SCHEMA site TO policyd;
SQL

my $OK      = qr/^DUNNO$/;
my $UNKNOWN = qr/^550 5\.1\.1 /;

my %site = (
	domains   => 'SELECT name FROM site.domain',
	addresses => 'SELECT address FROM site.mailbox',
);

sub daemon {
	my (%lookup) = @_;
	return PolicydTest->new(
		conninfo => $pg->conninfo(user => 'policyd'),
		ini      => {
			database => { reconnect_max => '500ms' },
			lookup   => \%lookup
		}
	);
}

# ---- a read that waited for what another transaction did ----

my $writer = $pg->dbh;
my $refill = q{INSERT INTO site.mailbox VALUES ('bob@example.com')};

# The first read waits for these; with what it knew before, it finds nothing.
my @waits = (
	[ 'TRUNCATE and filled', \%site, 'TRUNCATE site.mailbox', $refill ],
	[ 'another table of that name', \%site,
		'ALTER TABLE site.mailbox RENAME TO old_mailbox',
		'CREATE TABLE site.mailbox (address text)', $refill,
		'DROP TABLE site.old_mailbox' ],
	[ 'a materialized view', { %site,
			addresses => 'SELECT address FROM site.picture' },
		'REFRESH MATERIALIZED VIEW site.picture' ],
	[ 'our own table written anew', {},
		'ALTER TABLE policyd.address SET UNLOGGED' ],
	[ 'TRUNCATE of our own', {}, 'TRUNCATE policyd.address',
		q{INSERT INTO policyd.address (address)
			VALUES ('bob@example.com')} ],
);
for my $case (@waits) {
	my ($name, $lookup, @sql) = @$case;
	my $d = daemon(%$lookup);

	$writer->begin_work;
	$writer->do($_) for @sql;
	$d->spawn;
	$pg->wait_for_lock;
	$writer->commit;
	soon { $d->log =~ /tables read/ } "$name: it is read", 20;
	like($d->ask(recipient => 'bob@example.com'), $OK, "$name: and it is there");
	is($d->stop, 0, "$name: exit status");
}
{
	# Two names change places while another table is waited for: the one that
	# is read then was empty before.
	my $d = daemon(%site);

	$pg->psql('CREATE TABLE site.next_mailbox (address text)');
	$writer->begin_work;
	$writer->do('LOCK TABLE site.domain');
	$d->spawn;
	$pg->wait_for_lock;
	$pg->psql($_)
		for q{INSERT INTO site.next_mailbox VALUES ('bob@example.com')},
		'BEGIN; ALTER TABLE site.mailbox RENAME TO last_mailbox;
		ALTER TABLE site.next_mailbox RENAME TO mailbox; COMMIT';
	$writer->rollback;
	soon { $d->log =~ /tables read/ } 'names change places: it is read', 20;
	like($d->ask(recipient => 'bob@example.com'), $OK, 'and it is there');
	is($d->stop, 0, 'exit status');
}
{
	# policyctl reads the same way.
	my $d = daemon(%site);
	my $request = "$d->{dir}/request";

	PolicydTest::spew($request, block(recipient => 'bob@example.com'));
	$writer->begin_work;
	$writer->do($_) for 'TRUNCATE site.mailbox', $refill;
	my $pid = open my $out, '-|';
	die "fork: $!" if !defined $pid;
	if ($pid == 0) {
		my @command =
			(policyctl_path(), '-c', $d->{inifile}, 'explain', $request);
		exec { $command[0] } @command or POSIX::_exit(127);
	}
	$pg->wait_for_lock;
	$writer->commit;
	my $said = do { local $/; readline $out };
	close $out;
	like($said, qr/\bDUNNO\b/, 'policyctl explain finds it as well');
	unlike($said, qr/550/, 'and refuses nothing');
}

# ---- a table that stays locked ----

$pg->psql(q{INSERT INTO policyd.rule (priority, conditions, action) VALUES
	(1, ARRAY['sender in list:bad'], '450 4.9.1 bad')});
my $d = daemon()->start;
my $n = 0;

# A new address is known in a moment: changes are followed.
sub followed {
	my $name = shift;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $who = 'new' . ++$n . '@example.com';
	$pg->psql("INSERT INTO policyd.address (address) VALUES ('$who')");
	soon { ($d->ask(recipient => $who) // '') =~ $OK } $name, 10;
	return;
}

my %bad = (sender => 'bad@example.net');
followed('a change is in force');
for my $what ('all is read', 'the connection is lost') {
	$writer->begin_work;
	$writer->do('LOCK TABLE policyd.list_entry');
	$pg->psql($what eq 'all is read'
		? 'NOTIFY policyd'
		: q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE usename = 'policyd'});
	followed("a table is locked, and $what: the others are followed");
	followed('so is the next change');
	like($d->ask(%bad), $OK, 'the locked one is as it was');
	# No trigger tells of this one.
	$writer->do('SET LOCAL session_replication_role = replica');
	$writer->do(q{INSERT INTO policyd.list_entry (list, value) VALUES
		('bad', 'bad@example.net')});
	$writer->commit;
	soon { $d->ask(%bad) =~ /^450/ } 'it is read once the lock is gone';
	$pg->psql('DELETE FROM policyd.list_entry');
	soon { $d->ask(%bad) =~ $OK } 'and followed';
}
{
	# Both at once, when the lock goes.
	my $half = 0;
	$writer->begin_work;
	$writer->do('LOCK TABLE policyd.list_entry');
	$pg->psql('NOTIFY policyd');
	followed('a table is locked');
	$writer->do(q{INSERT INTO policyd.list_entry (list, value) VALUES
		('bad', 'bad@example.net')});
	$writer->do(q{INSERT INTO policyd.address (address) VALUES
		('both@example.com')});
	$writer->commit;
	soon {
		my $got = $d->ask(%bad, recipient => 'both@example.com');
		$half++ if $got =~ $OK;
		return $got =~ /^450/;
	} 'who locked it changed another as well';
	is($half, 0, 'that is in force whole or not at all');
	$pg->psql('DELETE FROM policyd.list_entry');
}

# ---- a change while everything is read ----

{
	# Each full read takes some seconds, and there is nearly always one.
	my $slow = daemon(refresh => '1s',
		domains => 'SELECT name FROM policyd.domain, pg_sleep(4)')->start;
	my $dbh = $pg->dbh;
	my $reads = sub {
		return $dbh->selectrow_array(q{SELECT count(*) FROM pg_stat_activity
			WHERE usename = 'policyd' AND wait_event = 'PgSleep'});
	};
	my $change = sub {
		my ($sql, $want, $name) = @_;
		$dbh->do($sql);
		my $since = time;
		my $got;
		wait_for {
			$got = $slow->ask(recipient => 'slow@example.com');
			$got =~ $want;
		} 20;
		like($got, $want, $name);
		in_time(time - $since, 0.1, 'in force');
		ok($reads->(), 'while all is read');
	};
	wait_for { !$reads->() };
	my $mark = $slow->log_mark;
	soon { $reads->() } 'everything is read';
	$change->(q{INSERT INTO policyd.address (address) VALUES
		('slow@example.com')}, $OK, 'a new row');
	$change->(q{UPDATE policyd.address SET enabled = false
		WHERE address = 'slow@example.com'}, $UNKNOWN, 'a changed row');
	$change->(q{UPDATE policyd.address SET enabled = true
		WHERE address = 'slow@example.com'}, $OK, 'and again');
	my $wrong = 0;
	soon {
		$wrong++ if $slow->ask(recipient => 'slow@example.com') !~ $OK;
		return $slow->log_since($mark) =~ /tables read/;
	} 'all was read';
	$wrong++ if $slow->ask(recipient => 'slow@example.com') !~ $OK;
	is($wrong, 0, 'and the last change stays');

	# A table changes as a whole, and with it a row: both wait for the end, also
	# where the row changes once more.
	wait_for { !$reads->() };
	soon { $reads->() } 'everything is read once more';
	$dbh->begin_work;
	$dbh->do($_)
		for q{SELECT pg_notify('policyd', 'list_entry')},
		'SET LOCAL session_replication_role = replica', # no key is told of
		q{INSERT INTO policyd.list_entry (list, value) VALUES
			('bad', 'bad@example.net')},
		'SET LOCAL session_replication_role = origin',
		q{INSERT INTO policyd.address (address) VALUES
			('half@example.com')};
	$dbh->commit;
	$dbh->do(q{UPDATE policyd.address SET greylist = false
		WHERE address = 'half@example.com'});
	ok($reads->(), 'a table and a row change while all is read');
	my $half = 0;
	soon {
		my $got = $slow->ask(%bad, recipient => 'half@example.com');
		$half++ if $got =~ $OK;
		return $got =~ /^450/;
	} 'they are in force at its end', 20;
	is($half, 0, 'and not one before the other');
	$pg->psql('DELETE FROM policyd.list_entry');
	is($slow->stop, 0, 'exit status');
}

# ---- what is no row ----

{
	my $mark = $d->log_mark;
	$pg->psql("SELECT pg_notify('policyd', '$_')")
		for qw(rule:x rule:99999999999999999999 rule:-1 rule: address:
		address:" nothing:x list_entry:x :), 'rule:1 2';
	followed('somebody notifies of what there is not');
	unlike($d->log_since($mark), qr/refused|connection down/,
		'and nothing is refused');
}

# ---- no room for notifications ----

# The server refuses a COMMIT then; here, what policyd calls makes it do so.
$pg->psql(<<'SQL');
CREATE SCHEMA full_queue;
GRANT USAGE ON SCHEMA full_queue TO policyd;
CREATE FUNCTION full_queue.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE 'too many notifications in the NOTIFY queue'
	    USING ERRCODE = 'program_limit_exceeded';
END $$;
CREATE FUNCTION full_queue.set_config(text, text, boolean) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
	IF to_regclass('pg_temp.sent') IS NULL THEN
		CREATE TEMP TABLE sent ();
		CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON pg_temp.sent
		    DEFERRABLE INITIALLY DEFERRED
		    FOR EACH ROW EXECUTE FUNCTION full_queue.refuse();
	END IF;
	RETURN pg_catalog.set_config($1, $2, $3);
END $$;
CREATE FUNCTION full_queue.pg_notify(text, text) RETURNS void
LANGUAGE plpgsql AS 'BEGIN INSERT INTO pg_temp.sent DEFAULT VALUES; END';
ALTER ROLE policyd SET search_path = full_queue, pg_catalog;
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE usename = 'policyd';
SQL
soon { $d->log =~ /queue of notifications is full/ } 'the queue is full: said';
followed('changes that came before are followed');
is($d->stop, 0, 'exit status');
{
	my $fresh = daemon()->start;
	like($fresh->ask(recipient => 'bob@example.com'), $OK,
		'a start while it is full');
	is($fresh->stop, 0, 'exit status');
}
$pg->psql('ALTER ROLE policyd RESET search_path');

# ---- a read that takes longer than any should ----

SKIP: {
	skip 'POLICYD_TEST_LONG is not set: two minutes', 2
		if !$ENV{POLICYD_TEST_LONG};
	my $slow = daemon(%site,
		addresses => 'SELECT address FROM site.mailbox, pg_sleep(70)');
	$slow->spawn;
	soon { $slow->log =~ /statement timeout/ } 'a slow query is ended', 90;
	soon { $slow->log =~ /tables read/ } 'and gets longer the next time', 120;
}

done_testing();
