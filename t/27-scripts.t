#!/usr/bin/perl

# Scripts: functions in PostgreSQL that answer; what they are told, what their
# answers may be, and what happens when they fail, hang, or are not there.

use strict;
use warnings;
use utf8;

use Encode qw(encode_utf8);
use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP qw(decode_json);
use Test::More;
use Time::HiRes qw(time);

use PolicydTest qw(block in_time session site slurp soon top wait_for);

# A script that waits takes an advisory lock that the test holds, so that it
# lasts as long as the test wants, or until it is given up.
my $pg = site(encode_utf8(<<'SQL'));
INSERT INTO policyd.domain (name, recipients) VALUES
  ('example.com', 'listed'), ('any.example', 'any');
INSERT INTO policyd.address (address, reply) VALUES
  ('bob@example.com', NULL), ('moved@example.com', '550 5.1.6 Moved');

CREATE TABLE policyd_script.call (request jsonb NOT NULL);
GRANT SELECT, INSERT ON policyd_script.call TO policyd;

CREATE FUNCTION policyd_script.note(request jsonb) RETURNS text
LANGUAGE sql AS $$ INSERT INTO policyd_script.call VALUES (request)
	RETURNING NULL::text $$;
CREATE FUNCTION policyd_script.said(request jsonb) RETURNS text
LANGUAGE sql AS $$ SELECT '450 4.9.1 ' || (request->>'sender') $$;
CREATE FUNCTION policyd_script.silent(request jsonb) RETURNS text
LANGUAGE sql AS $$ SELECT NULL::text $$;
CREATE FUNCTION policyd_script.other(request jsonb) RETURNS text
LANGUAGE sql AS $$ SELECT '450 4.9.2 other' $$;
CREATE FUNCTION policyd_script.fails(request jsonb) RETURNS text
LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'that went wrong'; END $$;
CREATE FUNCTION policyd_script.waits(request jsonb) RETURNS text
LANGUAGE plpgsql AS $$ BEGIN
	PERFORM pg_advisory_xact_lock_shared(7);
	RETURN '450 4.9.3 waited';
END $$;
CREATE FUNCTION policyd_script.sleeps(request jsonb) RETURNS text
LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$;
CREATE FUNCTION policyd_script.pauses(request jsonb) RETURNS text
LANGUAGE plpgsql AS $$ BEGIN
	PERFORM pg_sleep(0.5);
	RETURN '450 4.9.5 paused';
END $$;
CREATE FUNCTION policyd_script.wrong_type(request jsonb) RETURNS integer
LANGUAGE sql AS $$ SELECT 550 $$;
CREATE FUNCTION policyd_script.wrong_argument(request text) RETURNS text
LANGUAGE sql AS $$ SELECT '550 5.9.9 wrong' $$;
CREATE FUNCTION policyd_script.forbidden(request jsonb) RETURNS text
LANGUAGE sql AS $$ DELETE FROM policyd.address RETURNING '550 5.9.9 gone' $$;
CREATE FUNCTION policyd_script.leaves(request jsonb) RETURNS text
LANGUAGE plpgsql AS $$ BEGIN
	PERFORM pg_terminate_backend(pg_backend_pid());
	PERFORM pg_sleep(1);
	RETURN '550 5.9.9 still there';
END $$;

-- Answers: the text for this key.
CREATE TABLE policyd_script.text (key text PRIMARY KEY, text text);
GRANT SELECT ON policyd_script.text TO policyd;
CREATE FUNCTION policyd_script.texts(request jsonb) RETURNS text
LANGUAGE sql AS $$ SELECT text FROM policyd_script.text
	WHERE key = request->>'policy_context' $$;

INSERT INTO policyd.rule (priority, conditions, action)
  SELECT 10, ARRAY['stress = ' || name], 'script ' || name
    FROM unnest(ARRAY['note', 'said', 'silent', 'fails', 'waits', 'sleeps',
      'pauses', 'wrong_type', 'wrong_argument', 'missing', 'forbidden', 'leaves',
      'texts']) AS name;
INSERT INTO policyd.rule (priority, state, conditions, action) VALUES
  (11, NULL, ARRAY['stress = silent'], '450 4.9.4 next'),
  (12, NULL, ARRAY['stress = set'], 'set script other'),
  (13, NULL, ARRAY['stress = none'], 'set script none'),
  (14, 'ANY', ARRAY['policy_context = everywhere'], 'script said'),
  (15, NULL, ARRAY['stress = twice'], 'script silent'),
  (16, NULL, ARRAY['stress = twice'], 'script silent'),
  (17, NULL, ARRAY['stress = twice'], 'script said');
INSERT INTO policyd.rule (priority, conditions, action, shadow) VALUES
  (18, ARRAY['stress = shadow'], 'script said', true);
SQL
my $dbh = $pg->dbh;

my $UNAVAILABLE = qr/^DEFER_IF_PERMIT 4\.3\.0 \S/;
my $TIMEOUT_S   = 1;

sub daemon {
	my (%ini) = @_;
	return PolicydTest->new(
		conninfo => $pg->conninfo(user => 'policyd'),
		ini => { database => { query_timeout => "${TIMEOUT_S}s",
			reconnect_max => '500ms' }, %ini }
	);
}
my $d = daemon()->start;

# Ask, with the script by this name; the answer and the time it took.
sub script {
	my ($name, %attr) = @_;
	my $begin = time;
	my $got = $d->ask(stress => $name, %attr) // 'none';
	return wantarray ? ($got, time - $begin) : $got;
}

# Hold the scripts that wait; let them go.
sub hold    { $dbh->do('SELECT pg_advisory_lock(7)') }
sub release { $dbh->do('SELECT pg_advisory_unlock(7)') }

# So many scripts wait now.
sub waiting {
	return $dbh->selectrow_array(q{SELECT count(*) FROM pg_locks
		WHERE locktype = 'advisory' AND objid = 7 AND NOT granted});
}

sub backends {
	return $dbh->selectrow_array(q{SELECT count(*) FROM pg_stat_activity
		WHERE usename = 'policyd'});
}

# ---- what is answered ----

is(script('said'), '450 4.9.1 alice@example.net', 'a text is the answer');
is(script('silent'), '450 4.9.4 next', 'NULL: the next rule runs');
is(script('twice'), '450 4.9.1 alice@example.net', 'several after each other');
is(script('said', recipient => 'nobody@example.com'),
	'450 4.9.1 alice@example.net', 'before the recipient is looked at');
{
	my $mark = $d->log_mark;
	is(script('shadow'), 'DUNNO', 'a shadow does not answer');
	like($d->log_since($mark), qr/shadow/, 'and is logged');
}
for my $state (qw(CONNECT EHLO MAIL DATA END-OF-MESSAGE VRFY EXPN ETRN)) {
	is($d->ask(protocol_state => $state, policy_context => 'everywhere',
		recipient_count => 1), '450 4.9.1 alice@example.net', "at $state");
}

# ---- set script ----

is(script('set'), '450 4.9.2 other', 'set script');
is(short(script('set', recipient => 'nobody@example.com')), '550 5.1.1',
	'not for a recipient that is not there');
is(short(script('set', recipient => 'x@other.example')), '550 5.7.1',
	'nor for one that is not local');
is(script('set', recipient => 'moved@example.com'), '550 5.1.6 Moved',
	'nor for one that has a reply');
is($d->ask, 'DUNNO', 'else there is none');

sub short {
	my $got = shift // 'none';
	return $got =~ /^(\d{3} \d\.\d+\.\d+) \S/ ? $1 : $got;
}

# ---- the request ----

{
	my %given = (
		sender            => 'a"b\\c@example.net',
		recipient         => "b\xc3\xa4r+x\@any.example",
		sasl_username     => "u \xe2\x82\xac {size}",
		size              => '12345',
		ccert_subject     => 'Client+20J=x',
		tls_sni           => 'mx.example.com',
		mail_version      => '3.12-20260821',
		helo_name         => "tab\there\x01",
		client_name       => '',
		reverse_client_name => undef,
		compatibility_level => '3.8',
	);
	is(script('note', %given), 'DUNNO', 'a script that takes notes');
	my $json = $dbh->selectrow_array(
		'SELECT request::text FROM policyd_script.call');
	my $request = decode_json(encode_utf8($json));

	my ($names) = slurp(top() . '/policyd/mail/request.h') =~
		/^#define REQUEST_ATTRIBUTES\(X\)(.*?)^\n/ms;
	my @names = ($names =~ /X\((\w+)\)/g, qw(sender_domain sender_localpart
		recipient_domain recipient_localpart recipient_is_local client));
	my @missing = grep { !exists $request->{$_} && $_ ne 'request' } @names;
	is("@missing", '', 'every attribute is a key');
	is($request->{reverse_client_name}, '', 'and empty if it was not sent');
	my %known = map { $_ => 1 } @names;
	is(join(' ', grep { !$known{$_} } sort keys %$request), '',
		'and nothing else');
	is(join(' ', grep { ref $request->{$_} } sort keys %$request), '',
		'values are plain');
	for my $name (grep { !/^(?:helo|reverse_client)_name$/ } sort keys %given) {
		my $want = $given{$name} // '';
		is(encode_utf8($request->{$name}), $want, "value: $name");
	}
	like($request->{helo_name}, qr/^tab.here/, 'controls do not harm');
	is($request->{sender_domain}, 'example.net', 'sender_domain');
	is($request->{recipient_localpart}, 'bär+x', 'recipient_localpart');
	is($request->{recipient_is_local}, 'yes', 'recipient_is_local');
	is($request->{protocol_state}, 'RCPT', 'protocol_state');
	is($request->{client_address}, '192.0.2.10', 'client_address');

	# Bytes that are no text, and long ones, are no way to break it.
	for my $bytes ("\xff\xfe\xc3", "\xed\xa0\x80", "\xc0\x80",
		'"' x 4000, '\\' x 4000, "\x01" x 4000, "'); DROP TABLE x; --",
		"\xf4\x90\x80\x80", "\xc2\x85", '$1 ${x}') {
		my $got = script('note', map { $_ => $bytes }
			qw(sender helo_name sasl_username ccert_issuer));
		my $name = substr $bytes, 0, 20;
		$name =~ s/[^ -~]/?/g;
		is($got, 'DUNNO', "odd bytes: $name") or diag $d->log;
	}
	is($dbh->selectrow_array('SELECT count(*) FROM policyd_script.call'), 11,
		'each was one call');
}

# ---- texts ----

{
	my %text = (
		# The text, and what is answered: undef is unavailable.
		plain    => [ '550 5.7.1 No', '550 5.7.1 No' ],
		reject   => [ 'REJECT', 'REJECT' ],
		ok       => [ 'OK', 'OK' ],
		prepend  => [ 'PREPEND X-A: b', 'PREPEND X-A: b' ],
		verify   => [ 'reject_unverified_recipient',
			'reject_unverified_recipient' ],
		umlaut   => [ '550 5.7.1 Grüße', encode_utf8('550 5.7.1 Grüße') ],
		null     => [ undef, 'DUNNO' ],
		digits   => [ '550', undef ],
		nothing  => [ '', undef ],
		blanks   => [ '   ', undef ],
		bare     => [ '550 5.7.1', undef ],
		unknown  => [ 'nonsense', undef ],
		unknown2 => [ 'FOO: bar', undef ],
		positive => [ '250 2.1.5 ok', undef ],
		redirect => [ 'REDIRECT nobody', undef ],
		close    => [ 'close', undef ],
		set      => [ 'set relay yes', undef ],
		again    => [ 'script said', undef ],
		lines    => [ "550 5.7.1 one\n\naction=OK\n\n", qr/^550 5\.7\.1 one[ ?]/ ],
		controls => [ "550 5.7.1 a\x01b\x{85}c\td", qr/^550 5\.7\.1 a.b/ ],
		long     => [ '550 5.7.1 ' . 'ä' x 2000, qr/^550 5\.7\.1 (?:\xc3\xa4)+/ ],
		huge     => [ '550 5.7.1 ' . 'x' x 3_000_000, qr/^550 5\.7\.1 x|^DEFER/ ],
	);
	$dbh->do('INSERT INTO policyd_script.text VALUES (?, ?)', undef, $_,
		$text{$_}[0]) for sort keys %text;
	for my $key (sort keys %text) {
		my $want = $text{$key}[1] // $UNAVAILABLE;
		my $got  = script('texts', policy_context => $key);
		ref $want ? like($got, $want, "text: $key")
			: is($got, $want, "text: $key");
		ok(utf8::decode(my $copy = $got), "text: $key: UTF-8");
		unlike($got, qr/[\x00-\x1f\x7f]/, "text: $key: no controls");
		cmp_ok(length $got, '<=', 460, "text: $key: fits");
		is($d->{idle}->pending, '', "text: $key: and nothing more");
	}
}

# ---- what fails ----

# What the log says of each: a line a minute, so each has a daemon of its own.
my %said = (
	fails          => qr/script=fails .*that went wrong/,
	wrong_type     => qr/not safe.*action=550/,
	wrong_argument => qr/script=wrong_argument .*does not exist/,
	missing        => qr/script=missing .*does not exist/,
	forbidden      => qr/script=forbidden .*permission denied/,
	leaves         => qr/script=leaves .*(?:terminat|lost)/,
);
for my $name (sort keys %said) {
	my $own   = daemon()->start;
	my $begin = time;
	my $got   = $own->ask(stress => $name) // 'none';
	my $took  = time - $begin;
	like($got, $UNAVAILABLE, "$name: unavailable");
	cmp_ok($took, '<', $TIMEOUT_S + 0.5, "$name: in time");
	like($own->log, $said{$name}, "$name: is in the log");
	soon { ($own->ask(stress => 'said') // '') =~ /^450 4\.9\.1 / }
	"$name: others go on";
	is($own->stop, 0, 'exit status');
}
is($dbh->selectrow_array('SELECT count(*) FROM policyd.address'), 2,
	'a script may not do what the daemon may not');

# ---- time ----

{
	my ($got, $took) = script('sleeps');
	like($got, $UNAVAILABLE, 'it takes too long: unavailable');
	cmp_ok($took, '>=', $TIMEOUT_S - 0.05, 'not before query_timeout');
	cmp_ok($took, '<', $TIMEOUT_S + 0.5, sprintf 'and soon after (%.2f s)', $took);
	soon { script('said') =~ /^450 4\.9\.1 / } 'others go on';
	soon { $dbh->selectrow_array(q{SELECT count(*) = 0 FROM pg_stat_activity
		WHERE usename = 'policyd' AND query LIKE '%sleeps%'
			AND state = 'active'}) } 'the server does not work on for nobody', 5;
}

# Others are not held up meanwhile: those without a script answer at once, a
# script on the other connection as well, and more wait their turn.
{
	hold();
	my $slow = $d->connect;
	$slow->send(block(stress => 'waits'));
	soon { waiting() == 1 } 'a script waits';
	my $worst = 0;
	for (1 .. 50) {
		my $begin = time;
		is($d->ask, 'DUNNO', 'another is answered') if $_ == 1;
		$d->ask if $_ > 1;
		my $took = time - $begin;
		$worst = $took if $took > $worst;
	}
	in_time($worst, 0.05, 'at once');
	my ($got, $took) = script('said');
	is($got, '450 4.9.1 alice@example.net', 'another script goes on');
	cmp_ok($took, '<', 0.2, 'at once too');
	release();
	is($slow->reply(5), '450 4.9.3 waited', 'the one that waited is answered');
}
{
	hold();
	my @slow = map { $d->connect } 1 .. 6;
	$_->send(block(stress => 'waits')) for @slow;
	soon { waiting() == 2 } 'as many at once as there are connections';
	is($d->ask, 'DUNNO', 'others are answered');
	release();
	my @got = map { $_->reply(5) // 'none' } @slow;
	is("@got", join(' ', ('450 4.9.3 waited') x 6), 'all have their turn');
	is(waiting(), 0, 'nothing is left');
}
{
	# Nobody waits longer than a query may take, in line or not.
	hold();
	my @slow  = map { $d->connect } 1 .. 6;
	my $begin = time;
	$_->send(block(stress => 'waits')) for @slow;
	my @got  = map { $_->reply(10) // 'none' } @slow;
	my $took = time - $begin;
	is((scalar grep { $_ =~ $UNAVAILABLE } @got), 6, 'all hang: unavailable');
	cmp_ok($took, '<', 4 * $TIMEOUT_S, sprintf 'in time (%.2f s)', $took);
	release();
	soon { script('said') =~ /^450 4\.9\.1 / } 'and then it goes on';
}

# More than can be served: who is late is told so, and no connection is lost.
{
	my $pids = q{SELECT pid FROM pg_stat_activity WHERE usename = 'policyd'};
	my $before = $dbh->selectcol_arrayref($pids);
	my $down   = () = $d->log =~ /session down/g;
	for my $round (1 .. 2) {
		my @conn = map { $d->connect } 1 .. 20;
		$_->send(block(stress => 'pauses')) for @conn;
		my %got;
		$got{ $_->reply(10) // 'none' }++ for @conn;
		my $served = delete $got{'450 4.9.5 paused'} // 0;
		cmp_ok($served, '>=', 1, "overload $round: $served are served");
		like(join(' ', keys %got), $UNAVAILABLE,
			"overload $round: others are late, and nothing else");
		is((scalar keys %got), 1, "overload $round: in one way");
	}
	soon { script('said') =~ /^450 4\.9\.1 / } 'scripts go on';
	my %after = map { $_ => 1 } @{ $dbh->selectcol_arrayref($pids) };
	is(join(' ', grep { !$after{$_} } @$before), '', 'no connection was lost');
	is((() = $d->log =~ /session down/g) + 0, $down, 'nor is it said');
}

# Answers of one connection keep their order, and stay with their questions.
{
	my $conn = $d->connect;
	my @want;
	my $bytes = '';
	for my $i (1 .. 30) {
		my $with = $i % 3;
		$bytes .= block(sender => "s$i\@x", recipient => 'bob@example.com',
			stress => $with == 0 ? 'said' : $with == 1 ? 'set' : '');
		push @want, $with == 0 ? "450 4.9.1 s$i\@x"
			: $with == 1 ? '450 4.9.2 other' : 'DUNNO';
	}
	$conn->send($bytes);
	my @got = map { $conn->reply(10) // 'none' } @want;
	is_deeply(\@got, \@want, 'answers keep their order');

	my @conn = map { $d->connect } 1 .. 40;
	$conn[$_]->send(block(sender => "c$_\@x", stress => 'said')) for 0 .. $#conn;
	@got = map { $conn[$_]->reply(10) // 'none' } 0 .. $#conn;
	is_deeply(\@got, [ map {"450 4.9.1 c$_\@x"} 0 .. $#conn ],
		'each connection has its own answer');
}

# ---- clients that hang up meanwhile ----

{
	hold();
	for my $round (1 .. 12) {
		my $conn = $d->connect;
		$conn->send(block(stress => 'waits'));
		wait_for { waiting() >= 1 } 5 if $round == 1;
		$conn->half_close if $round % 3 == 0;
		$conn->close;
	}
	is($d->ask, 'DUNNO', 'clients hang up: others are answered');
	release();
	soon { script('said') =~ /^450 4\.9\.1 / } 'scripts go on';
	soon { waiting() == 0 } 'nobody waits';
	cmp_ok(backends(), '<=', 8, 'and no connection too many is open');
}

# ---- PostgreSQL is away ----

{
	$pg->freeze;
	my ($got, $took) = script('said');
	like($got, $UNAVAILABLE, 'PostgreSQL hangs: unavailable');
	cmp_ok($took, '<', $TIMEOUT_S + 1, 'in time');
	is($d->ask, 'DUNNO', 'others are answered');
	$pg->thaw;
	soon { script('said') =~ /^450 4\.9\.1 / } 'it is back', 10;

	$dbh->disconnect;
	$pg->stop('immediate');
	($got, $took) = script('said');
	like($got, $UNAVAILABLE, 'PostgreSQL is down: unavailable');
	cmp_ok($took, '<', $TIMEOUT_S + 1, 'in time');
	is($d->ask, 'DUNNO', 'others are answered');
	is(script('none'), 'DUNNO', 'those without a script');
	$pg->start;
	$dbh = $pg->dbh;
	soon { script('said') =~ /^450 4\.9\.1 / } 'it is back', 10;

	# In the middle of one.
	hold();
	my $slow = $d->connect;
	$slow->send(block(stress => 'waits'));
	soon { waiting() == 1 } 'a script waits';
	$dbh->do(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE usename = 'policyd'});
	like($slow->reply(5) // 'none', $UNAVAILABLE, 'its connection is cut');
	release();
	soon { script('said') =~ /^450 4\.9\.1 / } 'it is back', 10;
}

# ---- the end of the daemon, and a reload, while a script waits ----

{
	hold();
	my $slow = $d->connect;
	$slow->send(block(stress => 'waits'));
	soon { waiting() == 1 } 'a script waits';
	$d->reload;
	is($d->ask, 'DUNNO', 'a reload meanwhile');
	release();
	like($slow->reply(5) // 'none', qr/^450 4\.9\.3|$UNAVAILABLE/,
		'it is answered');

	hold();
	$slow = $d->connect;
	$slow->send(block(stress => 'waits'));
	soon { waiting() == 1 } 'a script waits';
	my $begin = time;
	$d->signal('TERM');
	is($d->wait_end(10), 0, 'the daemon ends meanwhile');
	cmp_ok(time - $begin, '<', 5, 'in time');
	like($slow->reply(1) // 'none', $UNAVAILABLE, 'what was in flight is answered');
	release();
}

# ---- [rcpt] script ----

{
	my $d = daemon(rcpt => { script => 'said' })->start;
	is($d->ask, '450 4.9.1 alice@example.net', '[rcpt] script');
	is(short($d->ask(recipient => 'nobody@example.com')), '550 5.1.1',
		'not for a recipient that is not there');
	is($d->ask(stress => 'none'), 'DUNNO', 'set script none');
	is($d->ask(stress => 'set'), '450 4.9.2 other', 'set script');
	is($d->ask(protocol_state => $_, recipient_count => 1), 'DUNNO',
		"not at $_") for qw(DATA END-OF-MESSAGE MAIL ETRN);
	is($d->ask(stress => 'note'), '450 4.9.1 alice@example.net',
		'after a rule with one');
	my %s = session();
	$d->ask(%s, recipient => "r$_\@any.example") for 1 .. 3;
	is($d->ask(%s, recipient => 'bob@example.com'),
		'450 4.9.1 alice@example.net', 'again and again');

	# What it refuses is no error of the session.
	$d->write_ini(rcpt => { script => 'other', errors_total => 1 });
	$d->reload;
	%s = session();
	is(short($d->ask(%s)), '450 4.9.2', 'refused by a script') for 1 .. 3;
	is(short($d->ask(%s, recipient => 'nobody@example.com')), '550 5.1.1',
		'an error');
	is(short($d->ask(%s)), '421 4.7.0', 'one too many');
	is($d->stop, 0, 'exit status');
}

# unavailable = close: no answer, so that Postfix decides.
{
	my $d = daemon(reply => { unavailable => 'close' })->start;
	my $conn = $d->connect;
	is($conn->ask(stress => 'fails'), undef, 'unavailable = close: no answer');
	ok($conn->closed(2), 'but the end of the connection');
	is($d->ask(stress => 'said'), '450 4.9.1 alice@example.net',
		'another question');
	is($d->stop, 0, 'exit status');
}

# A script that is not there is named by policyd -t.
{
	my ($status, $said) = daemon(rcpt => { script => 'nowhere' })->run('-t');
	is($status, 1, 'policyd -t: [rcpt] script is not there');
	like($said, qr/nowhere/, 'and is named');
}

done_testing();
