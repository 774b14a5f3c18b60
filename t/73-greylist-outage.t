#!/usr/bin/perl

# Greylisting while PostgreSQL is away, slow or comes back; what is written when
# policyd ends, what a reload changes, and what is purged.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

use GreylistTest;
use PolicydTest qw(block session soon wait_for);

# "At once", on a machine that does other things as well.
my $AT_ONCE_S = 0.5;

# ---- the purge, which begins a minute after start: looked at last ----

my $old_rows = <<'SQL';
INSERT INTO policyd.greylist VALUES
  ('c', 's', 'waits',  now() - interval '23 h', now(), NULL, 1),
  ('c', 's', 'late',   now() - interval '25 h', now(), NULL, 1),
  ('c', 's', 'passed', now() - interval '99 d', now() - interval '34 d',
   now() - interval '99 d', 2),
  ('c', 's', 'old',    now() - interval '99 d', now() - interval '36 d',
   now() - interval '99 d', 2);
INSERT INTO policyd.greylist
  SELECT 'many', repeat('x', 100), i::text, now() - interval '40 d',
  now() - interval '39 d', NULL, 1 FROM generate_series(1, 20000) AS i;
INSERT INTO policyd.client (client, passes, last_seen, allowed_at) VALUES
  ('fresh', 1, now() - interval '34 d', NULL),
  ('old', 9, now() - interval '36 d', NULL),
  ('allowed', 0, now() - interval '99 d', now() - interval '99 d');
SQL
my $purged = greylist_site($old_rows);
$purged->psql('CREATE DATABASE locked', dbname => 'postgres');
$purged->load_into('locked', sort glob PolicydTest::top() . '/sql/[0-9]*.sql');
$purged->psql($old_rows, dbname => 'locked');
my $lock = $purged->dbh(dbname => 'locked');
$lock->do('SELECT pg_advisory_lock(1886350457, 1)');
my $began   = time;
my $in_lock = PolicydTest->new(conninfo => $purged->conninfo(
		user => 'policyd', dbname => 'locked'),
	ini => { greylist => { enabled => 'yes' } })->start;
my $purger = greylister($purged);
my $look   = known();

# ---- helpers ----

my $pg  = greylist_site();
my $dbh = $pg->dbh;
known($dbh);

sub again { $dbh = $pg->dbh; known($dbh); return }

my $sender = 0;

# A sender that nobody has seen.
sub fresh {
	my $name = join '', map { chr(ord('a') + $_) } ++$sender =~ /\d/g;
	return "new$name\@sender.example";
}

sub row_of { return row('sender = ?', shift) }
sub rows   { return value('SELECT count(*) FROM policyd.greylist') }

sub to { return (recipient => 'bob@example.com', @_) }

# (answer, seconds)
sub timed {
	my ($d, @attr) = @_;
	my $begin = time;
	my $got   = $d->ask(@attr, timeout => 20) // 'no answer';
	return ($got, time - $begin);
}

sub at_once {
	my ($d, $want, $name, @attr) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($got, $took) = timed($d, @attr);
	like($got, $want, $name);
	cmp_ok($took, '<', $AT_ONCE_S, "$name: at once");
	return;
}

# The same attempt again and again: when does it pass?  Not before the delay.
sub passes_after {
	my ($d, $delay, $since, $name, @attr) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $got;
	wait_for { ($got = $d->ask(@attr) // 'no answer') !~ $GREYLISTED }
		$delay + 10;
	my $took = time - $since;
	like($got, $PASSED, "$name: passes");
	cmp_ok($took, '>=', $delay - 0.01, "$name: not before the delay");
	return;
}

# A key that has passed, and its daemon knows.
sub passed_key {
	my ($d, @attr) = @_;
	my @key = to(sender => fresh(), @attr);
	$d->ask(@key);
	older(3601, 'sender = ?', $key[3]);
	settle($d);
	ask_is($d, $PASSED, 'a key passes', @key);
	ask_is($d, $OK, 'and is known', @key);
	return @key;
}

# Uses within a second of the last are not noted, and when more than one is, within
# somewhat more.
sub unused { my $end = time + 2.5; wait_for { time > $end }; return }

sub sender_of { my %attr = @_; return $attr{sender} }

# ---- what is known is known while PostgreSQL is frozen, or gone ----

my %database = (query_timeout => '1s');
my $d = greylister($pg, delay => '1s', database => \%database);
my @passed = map { [ passed_key($d) ] } 1 .. 3;
my @friend = to(client_name => 'mx.friend.example');
$dbh->do(q{INSERT INTO policyd.client (client, allowed_at)
	VALUES ('friend.example', now())});
settle($d);
ask_is($d, $OK, 'a client that is allowed', @friend, sender => fresh());

{
	my $before = rows();
	$pg->freeze;
	for (1 .. 2) {
		at_once($d, $OK, 'frozen: a key that has passed', @$_) for @passed;
		at_once($d, $OK, 'frozen: a client that is allowed', @friend,
			sender => fresh());
	}
	# Fresh keys: the first ones wait for the server, for query_timeout at most.
	my @from = map { fresh() } 1 .. 30;
	my @conn = map { $d->connect } @from;
	my $since = time;
	$conn[$_]->send(block(to(sender => $from[$_]))) for 0 .. 19;
	at_once($d, $OK, 'frozen: who is known waits for none of them',
		@{ $passed[0] });
	my @got = map { $_->reply(20) // 'no answer' } @conn[ 0 .. 19 ];
	my $took = time - $since;
	is(scalar(grep { $_ =~ $GREYLISTED } @got), 20,
		'frozen: twenty new keys are greylisted');
	cmp_ok($took, '<', 1 + 3 * $AT_ONCE_S, 'after query_timeout at most');
	at_once($d, $GREYLISTED, 'frozen: a later one', to(sender => $from[$_]))
		for 20 .. 29;
	# Those of the first twenty that wait since before the first answer.
	passes_after($d, 1, $since, 'frozen: retried', to(sender => $from[0]));
	at_once($d, $OK, 'frozen: and has passed', to(sender => $from[0]));
	passes_after($d, 0, $since, 'frozen: so do the others',
		to(sender => $from[$_])) for 1 .. 9;
	$pg->thaw;
	soon { rows() == $before + 30 } 'thawed: each of them has a row', 30
		or diag rows() - $before;
	soon {
		value('SELECT count(*) FROM policyd.greylist WHERE sender = ANY (?)
			AND passed_at IS NOT NULL', undef, [ @from[ 0 .. 9 ] ]) == 10
	}
	'and those that have passed, have', 30;
	is(value('SELECT count(*) FROM policyd.greylist WHERE sender = ANY (?)
			AND passed_at IS NULL', undef, [ @from[ 10 .. 29 ] ]), 20,
		'the others have not');
	ask_is($d, $OK, 'what has passed has passed', to(sender => $from[$_]))
		for 0 .. 9;
	my $new = fresh();
	soon { $d->ask(to(sender => $new)); row_of($new) }
	'a new key goes to the table again', 10;
}

{
	my $early = fresh();
	my $late  = fresh();
	# Some other host has seen this one.
	$dbh->do(q{INSERT INTO policyd.greylist (client, sender, recipient,
		first_seen, last_seen) VALUES ('example.net', ?, 'bob@example.com',
		now() - interval '5 h', now() - interval '5 h')}, undef, $early);
	ask_is($d, $GREYLISTED, 'a key', to(sender => $late));
	my $first = row_of($late)->{first_us};
	my $before = rows();
	$dbh->disconnect;
	$pg->stop;

	at_once($d, $OK, 'stopped: a key that has passed', @$_) for @passed;
	at_once($d, $OK, 'stopped: a client that is allowed', @friend,
		sender => fresh());
	my $since = time;
	my @from = map { fresh() } 1 .. 200;
	my ($worst, $bad) = (0, 0);
	for my $from (@from) {
		my ($got, $took) = timed($d, to(sender => $from));
		$bad++ if $got !~ $GREYLISTED;
		$worst = $took if $took > $worst;
	}
	is($bad, 0, 'stopped: 200 new keys are greylisted');
	cmp_ok($worst, '<', 1 + $AT_ONCE_S, 'stopped: none waits for long');
	at_once($d, $GREYLISTED, 'stopped: the next one', to(sender => $early));
	ask_is($d, $GREYLISTED, 'stopped: each message counts',
		to(sender => $from[150])) for 1 .. 3;
	passes_after($d, 1, $since, 'stopped: retried', to(sender => $from[0]));
	ask_is($d, $OK, 'stopped: and has passed', to(sender => $from[0]));
	wait_for { time - $since > 1.5 } 5;
	$bad = grep { ($d->ask(to(sender => $_)) // '') !~ $PASSED }
		@from[ 1 .. 99 ];
	is($bad, 0, 'stopped: a hundred pass');
	passes_after($d, 0, $since, 'stopped: seen before', to(sender => $late));

	# A header, once a message, in memory as well.
	my @s = session(sender => fresh());
	my @to = qw(a@any.example b@any.example);
	my $asked = time;
	ask_is($d, $GREYLISTED, 'stopped: two recipients', @s, recipient => $_)
		for @to;
	my @kept = @s;
	wait_for { time - $asked > 1.3 } 5;
	@s = session(sender => { @kept }->{sender});
	ask_is($d, $PASSED, 'stopped: one header', @s, recipient => $to[0]);
	ask_is($d, $OK, 'stopped: one only', @s, recipient => $to[1]);

	$pg->start;
	again();
	my $expect = $before + 200 + 2;
	soon { rows() >= $expect } 'back: every key is in the table', 30
		or diag rows() . " of $expect";
	is(rows(), $expect, 'once');
	my $passed = sub {
		value('SELECT count(*) FROM policyd.greylist WHERE sender = ANY (?)
			AND passed_at IS NOT NULL', undef, \@from);
	};
	soon { $passed->() == 100 } 'back: those that have passed, have', 20
		or diag $passed->();
	soon { (row_of($late) || {})->{passed_us} } 'and one from before', 20;
	is(row_of($late)->{first_us}, $first, 'with its first_seen');
	soon { row_of($early)->{attempts} == 2 } 'attempts are added', 20;
	cmp_ok(row_of($early)->{first}, '>', 4 * 3600,
		'the earlier first_seen wins');
	soon { row_of($from[150])->{attempts} == 4 } 'attempts in memory, too', 20;
	soon {
		value('SELECT passes > 100 FROM policyd.client
			WHERE client = ?', undef, 'example.net')
	}
	'back: passes of the client', 20;
	ask_is($d, $OK, 'what has passed has passed', to(sender => $from[$_]))
		for 0 .. 4;
	ask_is($d, $PASSED, 'what waited passes now', to(sender => $from[100]));
	ask_is($d, $PASSED, 'whoever saw it first', to(sender => $early));
	my $new = fresh();
	soon { $d->ask(to(sender => $new)); row_of($new) }
	'a new key goes to the table again', 10;
}

# ---- what was deleted stays deleted ----

{
	my ($gone, $mark) = ([ passed_key($d) ], [ passed_key($d) ]);
	my $last = row_of(sender_of(@$mark))->{last_us};
	unused();
	ask_is($d, $OK, 'a key that will go is used', @$gone);
	ask_is($d, $OK, 'and one that stays',         @$mark);
	$dbh->do('DELETE FROM policyd.greylist WHERE sender = ?', undef,
		sender_of(@$gone));
	soon { row_of(sender_of(@$mark))->{last_us} > $last }
	'last_seen of the other is written', 20;
	is(row_of(sender_of(@$gone)), undef, 'what was deleted is not');
}
{
	# Deleted while the daemon was cut off.
	my ($gone, $mark) = ([ passed_key($d) ], [ passed_key($d) ]);
	my $client = 'gone.example';
	my @auto = to(client_name => "mx.$client");
	$dbh->do('INSERT INTO policyd.client (client, allowed_at) VALUES (?, now())',
		undef, $client);
	settle($d);
	ask_is($d, $OK, 'a client that is allowed', @auto, sender => fresh());
	my $cut = sub {
		$dbh->do('ALTER ROLE policyd NOLOGIN');
		$dbh->do(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE usename = 'policyd'});
		wait_for {
			value(q{SELECT count(*) = 0 FROM pg_stat_activity
				WHERE usename = 'policyd'})
		};
	};
	$cut->();
	my $last = row_of(sender_of(@$mark))->{last_us};
	unused();
	ask_is($d, $OK, 'cut off: used', @$_) for $gone, $mark;
	ask_is($d, $OK, 'cut off: allowed', @auto, sender => fresh());
	my $new = fresh();
	ask_is($d, $GREYLISTED, 'cut off: a new one', to(sender => $new));
	$dbh->do('DELETE FROM policyd.greylist WHERE sender = ?', undef,
		sender_of(@$gone));
	$dbh->do('DELETE FROM policyd.client WHERE client = ?', undef, $client);
	$dbh->do('ALTER ROLE policyd LOGIN');
	soon { row_of($new) } 'back: the new one is written', 20;
	soon { row_of(sender_of(@$mark))->{last_us} > $last }
	'back: last_seen is written', 20;
	is(row_of(sender_of(@$gone)), undef, 'back: what was deleted is not');
	is(value('SELECT count(*) FROM policyd.client WHERE client = ?', undef,
		$client), 0, 'nor is a client');
	settle($d);
	ask_is($d, $GREYLISTED, 'what was deleted meanwhile is forgotten', @$gone);
	ask_is($d, $GREYLISTED, 'and so is a client', @auto, sender => fresh());
	ask_is($d, $OK, 'what was not is known', @$mark);
}

# ---- the end ----

{
	my @key  = passed_key($d);
	my $last = row_of(sender_of(@key))->{last_us};
	unused();
	ask_is($d, $OK, 'used once more', @key);
	is($d->stop, 0, 'SIGTERM');
	cmp_ok(row_of(sender_of(@key))->{last_us}, '>', $last,
		'writes out last_seen');
	$d->start;
	my $from = fresh();
	ask_is($d, $GREYLISTED, 'a new key', to(sender => $from));
	ask_is($d, $GREYLISTED, 'another attempt', to(sender => $from));
	is($d->stop, 0, 'SIGTERM');
	is((row_of($from) || { attempts => 0 })->{attempts}, 2,
		'writes out attempts');
	$d->start;
	ask_is($d, $OK, 'what had passed is known after a restart', @key);

	$dbh->disconnect;
	$pg->stop;
	ask_is($d, $GREYLISTED, 'PostgreSQL is away', to(sender => fresh()));
	my $began = time;
	is($d->stop, 0, 'SIGTERM while it is');
	cmp_ok(time - $began, '<', 5 + 1, 'ends in time');

	# ---- started without PostgreSQL, from the copy ----

	$d->start(until => 'reply');
	my $since = time;
	my @from = map { fresh() } 1 .. 20;
	ask_is($d, $GREYLISTED, 'started from the copy: a new key',
		to(sender => $_)) for @from;
	ask_is($d, qr/^550 5\.1\.1 /, 'started from the copy: unknown',
		to(sender => fresh(), recipient => 'no@example.com'));
	passes_after($d, 1, $since, 'started from the copy',
		to(sender => $from[0]));
	$pg->start;
	again();
	soon {
		value('SELECT count(*) FROM policyd.greylist WHERE sender = ANY (?)',
			undef, \@from) == 20
	}
	'all are in the table when it is back', 30;
	soon { row_of($from[0])->{passed_us} } 'and what has passed, has', 20;
	# What a row had before this daemon was there.
	soon { ($d->ask(@key) // '') =~ $OK } 'a key from before passes', 10;
}
{
	$pg->freeze;
	ask_is($d, $GREYLISTED, 'PostgreSQL is frozen', to(sender => fresh()));
	my $began = time;
	is($d->stop, 0, 'SIGTERM while it is');
	cmp_ok(time - $began, '<', 5 + 1, 'ends in time');
	$pg->thaw;
}

# ---- reload ----

{
	my $r = greylister($pg, delay => '1h');
	my @key  = to(sender => fresh());
	my @gone = to(sender => fresh());
	my $set = sub {
		my %greylist = @_;
		$r->write_ini(greylist => { enabled => 'yes', auto_allow_after => 0,
				delay => '1h', %greylist });
		$r->reload;
	};
	ask_is($r, $GREYLISTED, 'delay=1h', @key);
	older(600);
	settle($r);
	my $left = ($r->ask(@key) =~ $GREYLISTED)[0] // -1;
	ok($left > 2900 && $left <= 3000, "delay=1h: $left seconds left");
	$set->(delay => '20m');
	soon {
		my $left = ($r->ask(@key) =~ $GREYLISTED)[0] // -1;
		$left > 500 && $left <= 600;
	}
	'SIGHUP: delay=20m';
	$set->(delay => '5m');
	soon { $r->ask(@key) =~ $PASSED } 'SIGHUP: delay=5m';
	$set->(delay => '1h', header => 'no');
	ask_is($r, $OK, 'what has passed has passed', @key);
	ask_is($r, $GREYLISTED, 'a new key', @gone);
	$set->(enabled => 'no');
	soon { $r->ask(@gone) =~ $OK } 'SIGHUP: enabled=no';
	my $before = rows();
	ask_is($r, $OK, 'nobody is greylisted', to(sender => fresh()));
	is(rows(), $before, 'no row');
	$set->();
	soon { $r->ask(@gone) =~ $GREYLISTED } 'SIGHUP: enabled=yes';

	for my $entries (0, 1, 10, 1000000, 0) {
		$set->(cache_entries => $entries);
		my @keys = map { [ to(sender => fresh()) ] } 1 .. 20;
		my $bad = grep { $r->ask(@$_) !~ $GREYLISTED } @keys;
		is($bad, 0, "cache_entries=$entries: new keys are greylisted");
		ask_is($r, $OK, 'what has passed has passed', @key);
		older(3601, 'passed_at IS NULL');
		settle($r);
		$bad = grep { $r->ask(@$_) !~ $PASSED } @keys;
		is($bad, 0, 'and pass');
		$bad = grep { $r->ask(@$_) !~ $OK } @keys, @keys;
		is($bad, 0, 'and have passed');
	}
	# Without a cache every question goes to the table.
	$dbh->do('DELETE FROM policyd.greylist WHERE sender = ?', undef,
		sender_of(@key));
	settle($r);
	ask_is($r, $GREYLISTED, 'cache_entries=0: deleted is deleted', @key);
	$set->(retry_window => '30m', delay => '10m');
	older(2000, 'sender = ?', sender_of(@key));
	settle($r);
	soon {
		my $left = ($r->ask(@key) =~ $GREYLISTED)[0] // -1;
		$left > 500 && $left <= 600;
	}
	'SIGHUP: retry_window';
	$set->(delay => 'nonsense');
	ask_is($r, $GREYLISTED, 'a mistake changes nothing', @key);
	is($r->stop, 0, 'exit status');
	is(errors_of($pg, qr/terminating|administrator|not permitted to log in|starting up|shutting down|canceling/),
		'', 'PostgreSQL had no complaint');
}

# ---- the purge ----

known($look);
soon { value(q{SELECT count(*) FROM policyd.greylist}) == 2 }
'old rows are purged', 100;
cmp_ok(time - $began, '>', 55, 'from a minute after start');
is(join(' ', column('SELECT recipient FROM policyd.greylist ORDER BY 1')),
	'passed waits', 'the others stay');
soon { value(q{SELECT count(*) FROM policyd.client}) == 2 }
'old clients are purged', 30;
is(join(' ', column('SELECT client FROM policyd.client ORDER BY 1')),
	'allowed fresh', 'the others stay');
is($lock->selectrow_array('SELECT count(*) FROM policyd.greylist'), 20004,
	'none while another host is at it');
is($lock->selectrow_array('SELECT count(*) FROM policyd.client'), 3,
	'nor of the clients');
is($_->stop, 0, 'exit status') for $in_lock, $purger;
is(errors_of($purged), '', 'PostgreSQL had no complaint');
$_->disconnect for $lock, $look;
done_testing();
