#!/usr/bin/perl

# A change in PostgreSQL is in force within 100 ms of COMMIT in every daemon,
# whole or not at all, and what a lost connection missed is read on return.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Time::HiRes qw(sleep time);

use PolicydTest qw(block in_time site soon wait_for);

my $LIMIT_S = 0.100;

my $pg = site(<<'SQL');
INSERT INTO policyd.domain (name, recipients) VALUES
  ('example.com', 'listed'), ('other.example', 'listed');
INSERT INTO policyd.address (address) VALUES
  ('bob@example.com'), ('pair1@example.com'), ('pair2@other.example');
INSERT INTO policyd.address (address)
  SELECT 'many' || i || '@example.com' FROM generate_series(1, 20000) AS i;
SQL
my $dbh = $pg->dbh;

sub daemon {
	return PolicydTest->new(
		conninfo => $pg->conninfo(user => 'policyd'),
		ini      => { database => { reconnect_max => '500ms' } }
	)->start;
}
my @d = (daemon(), daemon());

my $OK      = qr/^DUNNO$/;
my $UNKNOWN = qr/^550 5\.1\.1 /;
my $RELAY   = qr/^550 5\.7\.1 /;

# Commit this, and see in each daemon when the recipient is judged so.
sub change {
	my ($recipient, $want, $name, $sql, @bind) = @_;
	my @conn = map { $_->connect } @d;

	$dbh->do($sql, undef, @bind);
	my $since = time;
	for my $i (0 .. $#conn) {
		my $ok = wait_for {
			($conn[$i]->ask(recipient => $recipient) // '') =~ $want;
		} 20;
		my $took = time - $since;
		if (!$ok) {
			fail("$name: in force in daemon $i");
			diag $conn[$i]->ask(recipient => $recipient);
		} else {
			in_time($took, $LIMIT_S, "$name: in force in daemon $i");
		}
	}
	return;
}

# ---- each table ----

change('new@example.com', $OK, 'address: insert',
	q{INSERT INTO policyd.address (address) VALUES ('new@example.com')});
change('new@example.com', $UNKNOWN, 'address: update of a flag',
	q{UPDATE policyd.address SET enabled = false
		WHERE address = 'new@example.com'});
change('new@example.com', qr/^550 5\.1\.6 Moved$/, 'address: a reply',
	q{UPDATE policyd.address SET enabled = true, reply = '550 5.1.6 Moved'
		WHERE address = 'new@example.com'});
change('newer@example.com', qr/^550 5\.1\.6 Moved$/, 'address: another key',
	q{UPDATE policyd.address SET address = 'newer@example.com'
		WHERE address = 'new@example.com'});
is($_->ask(recipient => 'new@example.com') =~ $UNKNOWN,
	1, 'address: the old key has gone')
	for @d;
change('newer@example.com', $UNKNOWN, 'address: delete',
	q{DELETE FROM policyd.address WHERE address = 'newer@example.com'});
change('who@example.com', $OK, 'address: a catch-all',
	q{INSERT INTO policyd.address (address) VALUES ('@example.com')});
change('who@example.com', $UNKNOWN, 'address: no catch-all',
	q{DELETE FROM policyd.address WHERE address = '@example.com'});
change('Mixed@example.com', $OK, 'address: letter case',
	q{INSERT INTO policyd.address (address) VALUES ('MIXED@Example.Com')});

change('team@example.com', $OK, 'alias: insert',
	q{INSERT INTO policyd.alias (address, destination) VALUES
		('team@example.com', 'bob@example.com'),
		('team@example.com', 'al@example.com')});
change('team@example.com', $OK, 'alias: one of two rows deleted',
	q{DELETE FROM policyd.alias WHERE destination = 'al@example.com'});
change('team@example.com', $UNKNOWN, 'alias: update',
	q{UPDATE policyd.alias SET enabled = false
		WHERE address = 'team@example.com'});
change('crew@example.com', $OK, 'alias: another key',
	q{UPDATE policyd.alias SET address = 'crew@example.com', enabled = true
		WHERE address = 'team@example.com'});
change('crew@example.com', $UNKNOWN, 'alias: delete',
	q{DELETE FROM policyd.alias WHERE address = 'crew@example.com'});

change('x@new.example', $UNKNOWN, 'domain: insert',
	q{INSERT INTO policyd.domain (name, recipients)
		VALUES ('new.example', 'listed')});
change('x@new.example', $OK, 'domain: update',
	q{UPDATE policyd.domain SET recipients = 'any'
		WHERE name = 'new.example'});
change('x@a.new.example', $OK, 'domain: subdomains',
	q{UPDATE policyd.domain SET subdomains = true
		WHERE name = 'new.example'});
change('x@new.example', $RELAY, 'domain: switched off',
	q{UPDATE policyd.domain SET enabled = false
		WHERE name = 'new.example'});
change('x@newer.example', $OK, 'domain: another key',
	q{UPDATE policyd.domain SET enabled = true, name = 'newer.example'
		WHERE name = 'new.example'});
change('x@newer.example', $RELAY, 'domain: delete',
	q{DELETE FROM policyd.domain WHERE name = 'newer.example'});

change('bob@alias.example', $OK, 'domain_alias: insert',
	q{INSERT INTO policyd.domain_alias (name, target)
		VALUES ('alias.example', 'example.com')});
change('bob@alias.example', $UNKNOWN, 'domain_alias: update',
	q{UPDATE policyd.domain_alias SET target = 'other.example'
		WHERE name = 'alias.example'});
change('bob@alias.example', $RELAY, 'domain_alias: delete',
	q{DELETE FROM policyd.domain_alias WHERE name = 'alias.example'});

# One domain, two spellings: its rows may be written in either.
# DBD::Pg takes characters, the protocol bytes.
my ($u, $c, $a) =
	("b\xc3\xbccher.example", "b\xfccher.example", 'xn--bcher-kva.example');
change("x\@$a", $UNKNOWN, 'domain: a U-label',
	'INSERT INTO policyd.domain (name) VALUES (?)', $c);
change("x\@$u", $OK, 'address: an A-label',
	'INSERT INTO policyd.address (address) VALUES (?)', "x\@$a");
change("y\@$a", $OK, 'address: a U-label',
	'INSERT INTO policyd.address (address) VALUES (?)', "y\@$c");
change("y\@$u", $UNKNOWN, 'address: a U-label disabled',
	'UPDATE policyd.address SET enabled = false WHERE address = ?', "y\@$c");
change("x\@$a", $UNKNOWN, 'address: an A-label deleted',
	'DELETE FROM policyd.address WHERE address = ?', "x\@$a");
change("x\@$u", $RELAY, 'domain: a U-label deleted',
	'DELETE FROM policyd.domain WHERE name = ?', $c);

# ---- many rows at once ----

{
	my $conn = $d[0]->connect;
	my ($worst, $asked, $odd) = (0, 0, 0);
	my $writer = fork;

	die "fork: $!" if !defined $writer;
	if ($writer == 0) {
		# The parent's handle must not be closed by this process.
		$dbh->{AutoInactiveDestroy} = 1;
		eval {
			$pg->psql(q{INSERT INTO policyd.address (address)
				SELECT 'bulk' || i || '@example.com'
				FROM generate_series(1, 50000) AS i});
			1;
		} or POSIX::_exit(1);
		POSIX::_exit(0);
	}
	my $done = wait_for {
		my $begin = time;
		my $got = $conn->ask(recipient => 'bob@example.com') // 'none';
		my $took = time - $begin;
		$worst = $took if $took > $worst;
		$asked++;
		$odd++ if $got ne 'DUNNO';
		return waitpid($writer, 1) == $writer;
	} 30;
	my $since = time;
	is($?, 0, '50 000 rows are written');
	soon {
		my $begin = time;
		my $got   = $conn->ask(recipient => 'bulk50000@example.com');
		my $took  = time - $begin;
		$worst = $took if $took > $worst;
		return $got =~ $OK;
	}
	'and in force', 5;
	diag sprintf '50 000 rows: in force %.0f ms after COMMIT, longest answer '
		. '%.1f ms', 1000 * (time - $since), 1000 * $worst;
	like($_->ask(recipient => 'bulk1@example.com'), $OK, 'the first of them')
		for $d[0];
	is($odd, 0, "$asked others were answered rightly meanwhile");
	in_time($worst, 0.1, 'and none waited for it');
	soon { $d[1]->ask(recipient => 'bulk50000@example.com') =~ $OK }
	'in force in the other daemon', 5;
	change('bulk777@example.com', $UNKNOWN, 'one row after that',
		q{DELETE FROM policyd.address WHERE address = 'bulk777@example.com'});
	$dbh->do(q{DELETE FROM policyd.address WHERE address LIKE 'bulk%'});
	soon { $_->ask(recipient => 'bulk50000@example.com') =~ $UNKNOWN }
	'all deleted', 5
		for @d;
	$dbh->do('TRUNCATE policyd.alias');
	$dbh->do(q{INSERT INTO policyd.alias (address, destination)
		VALUES ('gone@example.com', 'bob@example.com')});
	soon { $d[0]->ask(recipient => 'gone@example.com') =~ $OK } 'an alias', 2;
	$dbh->do('TRUNCATE policyd.alias');
	soon { $d[0]->ask(recipient => 'gone@example.com') =~ $UNKNOWN }
	'TRUNCATE is a change too', 2;
}

# ---- whole or not at all ----

{
	# Both rows change in one transaction: who sees the first changed must see
	# the second changed as well, whatever is asked next.
	my $conn = $d[0]->connect;
	my $half = 0;
	for my $round (1 .. 20) {
		my $enabled = $round % 2 == 0 ? 't' : 'f';
		my $want    = $round % 2 == 0 ? $OK : $UNKNOWN;

		$dbh->begin_work;
		$dbh->do('UPDATE policyd.address SET enabled = ? WHERE address = ?',
			undef, $enabled, $_)
			for $round % 4 < 2
			? qw(pair1@example.com pair2@other.example)
			: qw(pair2@other.example pair1@example.com);
		$dbh->commit;
		my $seen = wait_for {
			for my $first (1, 2) {
				my @who = $first == 1
					? qw(pair1@example.com pair2@other.example)
					: qw(pair2@other.example pair1@example.com);
				$conn->send(join '', map { block(recipient => $_) } @who);
				my @got = map { $conn->reply // '' } @who;
				next if $got[0] !~ $want;
				$half++ if $got[1] !~ $want;
				return 1;
			}
			return;
		} 2;
		fail("round $round is not in force") if !$seen;
	}
	is($half, 0, 'a transaction is in force whole or not at all');

	# The same for different tables.
	$half = 0;
	for my $round (1 .. 20) {
		$dbh->begin_work;
		if ($round % 2) {
			$dbh->do(q{INSERT INTO policyd.domain (name, recipients)
				VALUES ('both.example', 'listed')});
			$dbh->do(q{INSERT INTO policyd.address (address)
				VALUES ('x@both.example')});
		} else {
			$dbh->do(q{DELETE FROM policyd.address
				WHERE address = 'x@both.example'});
			$dbh->do(q{DELETE FROM policyd.domain
				WHERE name = 'both.example'});
		}
		$dbh->commit;
		my $want = $round % 2 ? $OK : $RELAY;
		my $seen = wait_for {
			my $got = $conn->ask(recipient => 'x@both.example') // '';
			$half++ if $got =~ $UNKNOWN;
			return $got =~ $want;
		} 2;
		fail("round $round is not in force") if !$seen;
	}
	is($half, 0, 'nor over several tables');
}

# ---- rolled back ----

{
	$dbh->begin_work;
	$dbh->do(q{DELETE FROM policyd.address WHERE address = 'bob@example.com'});
	$dbh->rollback;
	change('mark@example.com', $OK, 'a change after a rollback',
		q{INSERT INTO policyd.address (address) VALUES ('mark@example.com')});
	like($_->ask(recipient => 'bob@example.com'),
		$OK, 'what was rolled back never was')
		for @d;
}

# ---- a lost connection ----

sub terminate {
	return $dbh->selectrow_array(
		q{SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE usename = 'policyd' AND pid <> pg_backend_pid()});
}

{
	# Nobody may connect until the change has been made.
	$dbh->do('ALTER ROLE policyd NOLOGIN');
	cmp_ok(terminate(), '>=', 2, 'connections are cut');
	wait_for {
		$dbh->selectrow_array(q{SELECT count(*) = 0 FROM pg_stat_activity
			WHERE usename = 'policyd'})
	};
	like($_->ask(recipient => 'bob@example.com'), $OK, 'decisions go on')
		for @d;
	$dbh->do(q{INSERT INTO policyd.address (address)
		VALUES ('missed@example.com')});
	$dbh->do(q{DELETE FROM policyd.address WHERE address = 'mark@example.com'});
	like($_->ask(recipient => 'missed@example.com'), $UNKNOWN,
		'what changes is not known')
		for @d;
	$dbh->do('ALTER ROLE policyd LOGIN');
	for my $d (@d) {
		soon { $d->ask(recipient => 'missed@example.com') =~ $OK }
		'what was missed is read on return', 5;
		like($d->ask(recipient => 'mark@example.com'), $UNKNOWN, 'all of it');
	}
	change('after@example.com', $OK, 'and changes are followed again',
		q{INSERT INTO policyd.address (address) VALUES ('after@example.com')});
}
for my $round (1 .. 5) {
	# Cut and change at the same moment.
	$dbh->do(q{WITH cut AS (SELECT pg_terminate_backend(pid)
			FROM pg_stat_activity WHERE usename = 'policyd')
		INSERT INTO policyd.address (address)
		SELECT 'cut' || ? || '@example.com' FROM cut LIMIT 1},
		undef, $round);
	for my $d (@d) {
		soon { $d->ask(recipient => "cut$round\@example.com") =~ $OK }
		"cut and changed at once, $round", 5;
	}
}

is($_->stop, 0, 'exit status') for @d;
done_testing();
