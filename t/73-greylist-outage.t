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
use PolicydTest qw(block in_time session soon wait_for);

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
	in_time($took, $AT_ONCE_S, "$name: at once");
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

# What was in its way is over: a new key is in the table when it is answered.
sub recovered {
	my $d = shift;
	wait_for {
		my $from = fresh();
		$d->ask(to(sender => $from));
		return !no_row('sender = ?', $from);
	} 20 or die "PostgreSQL is not asked\n";
	return;
}

# A key that has passed, and its daemon knows.
sub passed_key {
	my ($d, @attr) = @_;
	recovered($d);
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
# Tried now, and again when that counts for nothing any more.
my ($WINDOW_S, $long_ago) = (20, time);
my $forgets = greylister($pg, delay => '1s', retry_window => $WINDOW_S . 's',
	database => \%database);
my @twice = to(sender => fresh(), client_name => 'unknown',
	client_address => '198.18.77.7');
ask_is($forgets, $GREYLISTED, 'a key that will be tried too late', @twice);
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
	in_time($took, 1 + 3 * $AT_ONCE_S, 'after query_timeout at most');
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
			AND passed_at IS NULL', undef, [ @from[ 20 .. 29 ] ]), 10,
		'those that no statement was late for have not');
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
	# What a host says that has written a pass of its own, this one included.
	my ($merged) = map { row_of(sender_of(@$_)) } $passed[1];
	$dbh->do(q{SELECT pg_notify('policyd', 'greylist_merged:' || ?)}, undef,
		join ' ', @{$merged}{qw(client sender recipient)});
	settle($d);
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
	in_time($worst, 1 + $AT_ONCE_S, 'stopped: none waits for long');
	at_once($d, $GREYLISTED, 'stopped: the next one', to(sender => $early));
	ask_is($d, $GREYLISTED, 'stopped: each message counts',
		to(sender => $from[150])) for 1 .. 3;
	passes_after($d, 1, $since, 'stopped: retried', to(sender => $from[0]));
	ask_is($d, $OK, 'stopped: and has passed', to(sender => $from[0]));
	wait_for { time - $since > 1.5 } 5;
	$bad = grep { ($d->ask(to(sender => $_)) // '') !~ $PASSED }
		@from[ 1 .. 99 ];
	is($bad, 0, 'stopped: a hundred pass');
	ask_is($d, $PASSED, 'stopped: seen before', to(sender => $late));

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
	ok(no_row('sender = ?', sender_of(@$gone)), 'what was deleted is not');
}
{
	# Deleted while the daemon was cut off; or purged, by another host.
	my ($gone, $mark) = ([ passed_key($d) ], [ passed_key($d) ]);
	my $hasty = greylister($pg, delay => '500ms', retry_window => '3s',
		database => \%database);
	my @purged = to(sender => fresh());
	my @waits  = to(sender => fresh());
	ask_is($hasty, $GREYLISTED, 'one that will be purged', @purged);
	ask_is($d, $GREYLISTED, 'one that will be deleted', @waits);
	my $began = time;
	ok(row_of(sender_of(@$_)), 'is there') for \@purged, \@waits;
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
	passes_after($hasty, 0.5, $began, 'cut off: one that waited', @purged);
	passes_after($d, 1, $began, 'cut off: another', @waits);
	wait_for { time > $began + 3.5 };
	$dbh->begin_work;
	$dbh->do('SELECT policyd.begin_as_daemon()');
	$dbh->do('DELETE FROM policyd.greylist WHERE sender = ?', undef,
		sender_of(@purged));
	$dbh->commit;
	$dbh->do('DELETE FROM policyd.greylist WHERE sender = ?', undef, $_)
		for sender_of(@$gone), sender_of(@waits);
	$dbh->do('DELETE FROM policyd.client WHERE client = ?', undef, $client);
	$dbh->do('ALTER ROLE policyd LOGIN');
	soon { row_of($new) } 'back: the new one is written', 20;
	soon { row_of(sender_of(@$mark))->{last_us} > $last }
	'back: last_seen is written', 20;
	ok(no_row('sender = ?', sender_of(@$gone)),
		'back: what was deleted is not');
	is(value('SELECT count(*) FROM policyd.client WHERE client = ?', undef,
		$client), 0, 'nor is a client');
	soon { (row_of(sender_of(@purged)) || {})->{passed_us} }
	'back: what had passed before it was purged is there', 20;
	ok(no_row('sender = ?', sender_of(@waits)),
		'back: and what passed here after it was deleted is not');
	is($hasty->stop, 0, 'exit status');
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

# ---- in the way of a statement ----

# Ask these keys at once, each over a connection of its own: answers, and the
# longest wait.
sub ask_all {
	my ($d, @keys) = @_;
	my @conn = map { $d->connect } @keys;
	my $since = time;
	$conn[$_]->send(block(@{ $keys[$_] })) for 0 .. $#keys;
	my @got = map { $_->reply(20) // 'no answer' } @conn;
	return (time - $since, @got);
}

sub all_greylisted {
	my ($d, $name, @keys) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($took, @got) = ask_all($d, @keys);
	is(scalar(grep { $_ =~ $GREYLISTED } @got), scalar @keys,
		"$name: all are greylisted") or diag join "\n", @got;
	in_time($took, 1 + 3 * $AT_ONCE_S, "$name: none waits for long");
	return;
}

sub all_there {
	my ($name, @keys) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @from = map { sender_of(@$_) } @keys;
	my $there = sub {
		value('SELECT count(*) FROM policyd.greylist WHERE sender = ANY (?)',
			undef, \@from);
	};
	soon { $there->() == @keys } "$name: all are in the table", 30
		or diag $there->() . ' of ' . @keys;
	return;
}

sub new_keys { return map { [ to(sender => fresh()) ] } 1 .. shift }

# Its connections to PostgreSQL, and those that it has left behind there.
sub backends {
	return value(q{SELECT count(*) FROM pg_stat_activity
		WHERE usename = 'policyd'});
}

$d->start if !$d->alive;
recovered($d);
for my $case (
	[ 'a row is locked', 'UPDATE policyd.greylist SET attempts = attempts
		WHERE sender = ?' ],
	[ 'the table is locked', 'LOCK policyd.greylist IN ACCESS EXCLUSIVE MODE' ],
	[ 'the clients are locked', 'LOCK policyd.client IN ACCESS EXCLUSIVE MODE' ],
) {
	my ($name, $sql) = @$case;
	my @known = passed_key($d);
	my ($held, @keys) = new_keys(10);
	ask_is($d, $GREYLISTED, "$name: a key that waits", @$held);
	settle($d);
	my $backends = backends();
	my $refused = () = $pg->log_text =~ /lock timeout/g;
	$dbh->begin_work;
	$dbh->do($sql, undef, $sql =~ /\?/ ? sender_of(@$held) : ());
	at_once($d, $OK, "$name: one that is known", @known);
	all_greylisted($d, $name, $held, @keys);
	# Longer than query_timeout.
	wait_for { ask_is($d, $OK, "$name: known still", @known); 1 } 1;
	unused();
	my @more = new_keys(10);
	all_greylisted($d, "$name, for long", @more);
	# Neither waits for it at the server, nor is left behind there.
	soon { (() = $pg->log_text =~ /lock timeout/g) >= $refused + 3 }
	"$name: it gives way", 20;
	cmp_ok(backends(), '<=', $backends + 2, "$name: and leaves nobody behind");
	$dbh->commit;
	all_there($name, $held, @keys, @more);
	# At most by the last statement, and by what was judged meanwhile.
	cmp_ok(value('SELECT max(attempts) FROM policyd.greylist
		WHERE sender = ANY (?)', undef, [ map { sender_of(@$_) } @more ]), '<=',
		2, "$name: each was tried once");
	ask_is($d, $PASSED, "$name: later", @{ $keys[0] });
}
{
	# A row that PostgreSQL will not have: the others do not suffer.
	my ($bad, @keys) = new_keys(20);
	my $sender = sender_of(@$bad);
	$dbh->do("ALTER TABLE policyd.greylist ADD CONSTRAINT poison
		CHECK (sender <> '$sender')");
	all_greylisted($d, 'a row that is refused', @keys[ 0 .. 9 ], $bad,
		@keys[ 10 .. 18 ]);
	all_there('a row that is refused', @keys);
	unused();
	ask_is($d, $PASSED, 'the others', @{ $keys[$_] }) for 0, 18;
	my ($got, $took) = timed($d, @$bad);
	like($got, qr/^(?:DEFER_IF_PERMIT 4\.2\.0|PREPEND X-Greylist|DUNNO$)/,
		'it has an answer itself');
	my @more = new_keys(5);
	all_greylisted($d, 'afterwards', @more);
	all_there('afterwards', @more);
	$dbh->do('ALTER TABLE policyd.greylist DROP CONSTRAINT poison');
}
{
	# Rights are taken away, and given back.
	my $d = greylister($pg, delay => '1s', database => \%database);
	my @known = passed_key($d);
	$dbh->do('REVOKE INSERT, UPDATE ON policyd.greylist FROM policyd');
	my @keys = new_keys(10);
	all_greylisted($d, 'no rights', @keys);
	like($d->log, qr/level=warning.*greylist.*permission denied/,
		'the log says so');
	at_once($d, $OK, 'no rights: known', @known);
	passes_after($d, 1, time - 1, 'no rights: retried', @{ $keys[0] });
	$dbh->do('GRANT INSERT, UPDATE ON policyd.greylist TO policyd');
	all_there('rights again', @keys);
	soon { row_of(sender_of(@{ $keys[0] }))->{passed_us} } 'and has passed', 20;
	my @more = new_keys(5);
	all_greylisted($d, 'rights again', @more);
	all_there('rights again', @more);
	is($d->stop, 0, 'exit status');
}

# ---- in flight ----

{
	$pg->freeze;
	my @keys = new_keys(20);
	my @conn = map { $d->connect } @keys;
	$conn[$_]->send(block(@{ $keys[$_] })) for 0 .. $#keys;
	$_->close for @conn[ 0 .. 4 ];
	$d->signal('HUP');
	my @got = map { $_->reply(20) // 'no answer' } @conn[ 5 .. 19 ];
	is(scalar(grep { $_ =~ $GREYLISTED } @got), 15,
		'a reload and clients that hang up: the others are answered');
	$pg->thaw;
	all_there('thawed', @keys[ 5 .. 19 ]);
}
{
	my @new = new_keys(1);
	recovered($d);
	all_greylisted($d, 'before it is killed', @new);
	kill 'KILL', $d->pid;
	$d->wait_end;
	ok(row_of(sender_of(@{ $new[0] })), 'SIGKILL: what was answered is there');
	unlink $d->{socket};
	$d->start;
	settle($d);
	passes_after($d, 0, time, 'SIGKILL: and passes', @{ $new[0] });
}
{
	settle($d);
	$pg->freeze;
	my @keys = new_keys(10);
	my @conn = map { $d->connect } @keys;
	$conn[$_]->send(block(@{ $keys[$_] })) for 0 .. $#keys;
	# All of it has been read once another is answered.
	$d->connect->ask(protocol_state => 'CONNECT');
	my $began = time;
	$d->signal('TERM');
	my @got = map { $_->reply(20) // 'no answer' } @conn;
	is(scalar(grep { $_ =~ $GREYLISTED } @got), 10,
		'SIGTERM: what is in flight is answered') or diag join "\n", @got;
	is($d->wait_end, 0, 'SIGTERM: exit status');
	cmp_ok(time - $began, '<', 5 + 1, 'SIGTERM: in time');
	$pg->thaw;
	$d->start;
}
{
	# Only its connections are lost: what it was not told of, it does not
	# trust.
	my @key = passed_key($d);
	$dbh->do(q{WITH gone AS (DELETE FROM policyd.greylist WHERE sender = ?)
		SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE usename = 'policyd'}, undef, sender_of(@key));
	soon { $d->ask(@key) =~ $GREYLISTED }
	'deleted in the moment its connections are lost', 10;
	settle($d);
	my @new = new_keys(3);
	all_greylisted($d, 'connected again', @new);
	all_there('connected again', @new);
}

# ---- two hosts without PostgreSQL ----

# Its second life counts, not its first.
my $second;
wait_for { time > $long_ago + $WINDOW_S + 0.5 } 30;
recovered($forgets);
ask_is($forgets, $GREYLISTED, 'tried too late: new', @twice);
$second = time;
# Until it is on disk for sure, and nothing of it waits to be written.
wait_for { time > $second + 3.5 } 5;
ask_is($forgets, $GREYLISTED, 'and another one', to(sender => fresh()));
settle($forgets);

{
	my $e = greylister($pg, delay => '1s', database => \%database);
	my @both = new_keys(5);
	my (@mine, @theirs);
	@mine = new_keys(5);
	@theirs = new_keys(5);
	my $client = value(q{SELECT passes FROM policyd.client
		WHERE client = 'example.net'});
	$dbh->disconnect;
	$pg->stop;
	ask_is($forgets, $PASSED, 'away: tried too late, and then in time', @twice);
	ask_is($d, $GREYLISTED, 'away: seen by one', @$_) for @mine, @both;
	my $between = time;
	ask_is($e, $GREYLISTED, 'away: seen by the other', @$_)
		for @both, @theirs;
	my @unverified = to(sender => fresh(), client_address => '198.18.9.1');
	ask_is($d, $GREYLISTED, 'away: no name', @unverified,
		client_name => 'unknown');
	unused();
	ask_is($d, $PASSED, 'away: first no name, then one', @unverified,
		client_name => 'mx.carried.example');
	ask_is($d, $OK, 'away: which has passed', @unverified,
		client_name => 'mx2.carried.example', client_address => '198.19.9.1');
	ask_is($d, $PASSED, 'away: passes at one', @{ $both[0] });
	ask_is($e, $PASSED, 'away: passes at the other', @{ $both[1] });
	ask_is($_, $PASSED, 'away: passes at both', @{ $both[2] })
		for $d, $e;
	my $ago = time;
	$pg->start;
	again();
	all_there('back', @mine, @theirs, @both);
	my %row;
	soon {
		%row = map { $_ => row_of(sender_of(@{ $both[$_] })) } 0 .. 4;
		$row{0}{passed_us} && $row{1}{passed_us} && $row{2}{passed_us}
			&& $row{3}{attempts} == 2;
	}
	'back: what passed has passed', 20;
	is(join(' ', map { $row{$_}{attempts} } 0 .. 4), '3 3 4 2 2',
		'back: attempts add up');
	is($row{3}{passed_us}, undef, 'back: what waits, waits');
	quiet($d, $e);
	is(value(q{SELECT passes FROM policyd.client WHERE client = 'example.net'}),
		$client + 3, 'back: each key that passed is counted, and once');
	my $first = $row{4}{first};
	cmp_ok($first, '>=', $ago - $between, 'back: the earlier first_seen wins');
	soon {
		(row(q{sender = ? AND client = 'carried.example'},
			sender_of(@unverified)) || {})->{passed_us}
	}
	'back: and so has a name that had none at first', 20;
	for my $both (@both[ 0 .. 2 ]) {
		soon { $_->ask(@$both) =~ $OK } 'back: known to both', 10 for $d, $e;
	}
	ask_is($e, $PASSED, 'back: seen there, passes here', @{ $mine[0] });
	ask_is($d, $PASSED, 'back: and the reverse', @{ $theirs[0] });
	is($_->stop, 0, 'exit status') for $e, $d, $forgets;
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
	is(errors_of($pg, qr/terminating|administrator|not permitted to log in|starting up|shutting down|canceling|poison|permission denied for/),
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
