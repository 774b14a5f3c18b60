#!/usr/bin/perl

# What an SMTP session may do: errors, refusals that are held back, and the
# number of recipients of a message; over however many connections it asks.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Select;
use Test::More;
use Time::HiRes qw(time);

use PolicydTest qw(block in_time session site wait_for);

my $pg = site(<<'SQL');
INSERT INTO policyd.domain (name, recipients, max_recipients) VALUES
  ('example.com', 'listed', NULL), ('any.example', 'any', NULL),
  ('small.example', 'any', 2), ('large.example', 'any', 8);
INSERT INTO policyd.address (address, reply) VALUES
  ('bob@example.com', NULL), ('moved@example.com', '550 5.1.6 Moved');
SQL

my $d = PolicydTest->new(
	conninfo => $pg->conninfo(user => 'policyd'),
	ini      => {
		rcpt =>
			{ errors_total => 3, errors_wait => '0s', max_recipients => 5 }
	}
)->start;

my $OK      = qr/^DUNNO$/;
my $UNKNOWN = qr/^550 5\.1\.1 \S/;
my $RELAY   = qr/^550 5\.7\.1 \S/;
my $BAD     = qr/^550 5\.1\.3 \S/;
my $ERRORS  = qr/^421 4\.7\.0 \S/;
my $TOO     = qr/^452 4\.5\.3 \S/;

my $message = 0;

# A new message of the same session.
sub message { return (@_, instance => sprintf('feed.%x.0', ++$message)) }

sub judge {
	my ($want, $name, @attr) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	like($d->ask(@attr) // 'no answer', $want, $name);
	return;
}

# ---- errors_total ----

{
	my @s = message(session());
	judge($UNKNOWN, 'an unknown user',  @s, recipient => 'no@example.com');
	judge($RELAY,   'a foreign domain', @s, recipient => 'x@other.example');
	judge($OK,  'who is known',     @s, recipient => 'bob@example.com');
	judge($BAD, 'no usable address', @s, recipient => '');
	judge($ERRORS, 'then it is over',   @s, recipient => 'no2@example.com');
	judge($ERRORS, 'for known ones too', @s, recipient => 'bob@example.com');
	judge($ERRORS, 'in the next message too', message(@s),
		recipient => 'bob@example.com');
	judge($OK, 'not in another session', session(),
		recipient => 'bob@example.com');
	judge(
		$OK, 'not for another client on the same port', message(@s),
		client_address => '192.0.2.11',
		recipient      => 'bob@example.com'
	);
	judge($OK, 'not in other states', @s, protocol_state => 'DATA',
		recipient => '', recipient_count => 1);
}
{
	my @s = message(session());
	judge($UNKNOWN, 'the same request again', @s,
		recipient => 'no@example.com')
		for 1 .. 6;
	judge($UNKNOWN, 'counts once', @s, recipient => 'no2@example.com');
	judge($OK, 'so there is one left', @s, recipient => 'bob@example.com');
	judge($UNKNOWN, 'the same recipient in another message counts again',
		message(@s), recipient => 'no@example.com');
	judge($ERRORS, 'and ends it', @s, recipient => 'bob@example.com');
}
{
	my @s    = message(session());
	my @conn = map { $d->connect } 1 .. 3;
	like($conn[$_]->ask(@s, recipient => "no$_\@example.com"),
		$UNKNOWN, "error over connection $_")
		for 0 .. 2;
	like($conn[$_]->ask(@s, recipient => 'bob@example.com'),
		$ERRORS, "over, over connection $_")
		for 0 .. 2;
}
{
	# A service that is listed twice asks twice, in different contexts.
	my @s = message(session());
	for my $i (1 .. 3) {
		judge($UNKNOWN, "error $i asked by $_", @s,
			recipient => "no$i\@example.com", policy_context => $_)
			for $i < 3 ? qw(relay recipient) : 'relay';
	}
	judge($ERRORS, 'three errors', @s, recipient => 'bob@example.com');
}
{
	my @s = message(session());
	judge(qr/^550 5\.1\.6 Moved$/, 'the reply of a row', message(@s),
		recipient => 'moved@example.com')
		for 1 .. 5;
	judge($OK, 'is no error', @s, recipient => 'bob@example.com');
}

# ---- max_recipients ----

{
	my @s = message(session());
	judge($OK, "recipient $_", @s, recipient => "r$_\@any.example")
		for 1 .. 5;
	judge($TOO, 'one too many', @s, recipient => 'r6@any.example');
	judge($OK, 'one that is in is in', @s, recipient => 'r3@any.example');
	judge($TOO, 'still too many', @s, recipient => 'r7@any.example');
	judge($UNKNOWN, 'refused for another reason first', @s,
		recipient => 'no@example.com');
	judge($OK, 'the next message begins anew', message(@s),
		recipient => 'r6@any.example');
}
{
	my @s = message(session());
	judge($OK, 'asked again and again', @s, recipient => 'r1@any.example')
		for 1 .. 12;
	judge($OK, "counts once: recipient $_", @s,
		recipient => "r$_\@any.example")
		for 2 .. 5;
	judge($TOO, 'one too many', @s, recipient => 'r6@any.example');
}
{
	my @s = message(session());
	judge($UNKNOWN, 'a refused one', @s, recipient => "no$_\@example.com")
		for 1, 2;
	judge($OK, "does not count: recipient $_", @s,
		recipient => "r$_\@any.example")
		for 1 .. 5;
	judge($TOO, 'one too many', @s, recipient => 'r6@any.example');
}
{
	my @s    = message(session());
	my @conn = map { $d->connect } 1 .. 3;
	like($conn[ $_ % 3 ]->ask(@s, recipient => "r$_\@any.example"),
		$OK, "recipient $_ over another connection")
		for 1 .. 5;
	like($conn[$_]->ask(@s, recipient => "s$_\@any.example"),
		$TOO, "one too many over connection $_")
		for 0 .. 2;
}
{
	my @s = message(session());
	judge($OK, "relayed recipient $_", @s, sasl_username => 'u',
		recipient => "r$_\@other.example")
		for 1 .. 5;
	judge($TOO, 'one too many', @s, sasl_username => 'u',
		recipient => 'r6@other.example');
}
{
	my @s = message(session());
	judge($OK, "recipient $_ of a domain with its own limit", @s,
		recipient => "r$_\@small.example")
		for 1, 2;
	judge($TOO, 'one too many for it', @s, recipient => 'r3@small.example');
	judge($OK, 'not for another', @s, recipient => "r$_\@any.example")
		for 3 .. 5;
	judge($TOO, 'one too many for that', @s, recipient => 'r6@any.example');
	judge($OK, 'not for a domain with a larger limit', @s,
		recipient => "r$_\@large.example")
		for 6 .. 8;
	judge($TOO, 'until that', @s, recipient => 'r9@large.example');
}
{
	my @s = message(session());
	judge($OK, 'recipient_count that is the limit', @s,
		protocol_state => $_, recipient => '', recipient_count => 5)
		for qw(DATA END-OF-MESSAGE);
	judge($TOO, 'recipient_count beyond', @s,
		protocol_state => $_, recipient => '', recipient_count => 6)
		for qw(DATA END-OF-MESSAGE);
}

# ---- many sessions at once ----

{
	my @session = map {
		[ message(session(client_address => "198.51.100." . ($_ % 250))) ]
	} 1 .. 3000;
	my $conn = $d->connect;
	my %got;
	for my $round (1 .. 4) {
		for (my $i = 0; $i < @session; $i += 100) {
			$conn->send(
				join '',
				map {
					block(@{ $session[$_] },
						recipient => "no$round\@example.com")
				} $i .. $i + 99
			);
			$got{$round}{ substr $conn->reply // 'none', 0, 9 }++
				for 1 .. 100;
		}
	}
	is_deeply(
		\%got,
		{
			1 => { '550 5.1.1' => 3000 },
			2 => { '550 5.1.1' => 3000 },
			3 => { '550 5.1.1' => 3000 },
			4 => { '421 4.7.0' => 3000 }
		},
		'3000 sessions are not taken for one another'
	);
}

is($d->stop, 0, 'exit status');

# ---- as many recipients as Postfix takes ----

$d = PolicydTest->new(
	conninfo => $pg->conninfo(user => 'policyd'),
	ini      => { rcpt => { max_recipients => 1000 } }
)->start;
{
	my @s   = message(session());
	my $bad = grep {
		($d->ask(@s, recipient => "r$_\@any.example") // '') !~ $OK
	} 1 .. 1000;
	is($bad, 0, '1000 recipients');
	judge($TOO, 'one too many', @s, recipient => 'r1001@any.example');
	$bad = grep {
		($d->ask(@s, recipient => "r$_\@any.example") // '') !~ $OK
	} reverse 1 .. 1000;
	is($bad, 0, 'all asked again');
	judge($TOO, 'still one too many', @s, recipient => 'r1001@any.example');
	judge($OK, 'the next message', message(@s),
		recipient => 'r1001@any.example');
}
is($d->stop, 0, 'exit status');

# ---- errors_wait ----

$d = PolicydTest->new(
	conninfo => $pg->conninfo(user => 'policyd'),
	ini      => { rcpt => { errors_total => 3, errors_wait => '1s' } }
)->start;

sub timed {
	my ($conn, @attr) = @_;
	my $begin = time;
	my $got   = $conn->ask(@attr);
	return ($got // 'no answer', time - $begin);
}

{
	my $began = time;
	my @held  = map { $d->connect } 1 .. 100;
	$_->send(block(recipient => 'no@example.com')) for @held;
	my $worst = 0;
	my $asked = 0;
	my $conn  = $d->connect;
	my $early = IO::Select->new(map { $_->sock } @held);
	while (!$early->can_read(0)) {
		my ($got, $took) = timed($conn, recipient => 'bob@example.com');
		is($got, 'DUNNO', 'others are answered') if $got ne 'DUNNO';
		$worst = $took if $took > $worst;
		$asked++;
		last if time - $began > 10;
	}
	my $first = time - $began;
	my @got = map { $_->reply(5) // 'none' } @held;
	my $last = time - $began;
	is(scalar(grep { $_ =~ $UNKNOWN } @got),
		100, '100 refusals in 100 sessions are answered');
	cmp_ok($first, '>=', 0.95, 'none before errors_wait');
	in_time($last - 1, 1, 'all when it is over');
	cmp_ok($asked, '>', 100, "$asked others were answered meanwhile");
	in_time($worst, 0.1, 'at once');
}
{
	my $conn = $d->connect;
	my $began = time;
	$conn->send(block(recipient => 'no@example.com')
			. block(recipient => 'bob@example.com'));
	like($conn->reply(5), $UNKNOWN, 'held back');
	cmp_ok(time - $began, '>=', 0.95, 'for errors_wait');
	is($conn->reply(5), 'DUNNO', 'what follows on its connection is in order');
}
{
	my @s     = message(session());
	my @conn  = map { $d->connect } 1 .. 3;
	my $began = time;
	$conn[$_]->send(block(@s, recipient => "no$_\@example.com")) for 0 .. 2;
	like($conn[$_]->reply(5), $UNKNOWN, "error $_") for 0 .. 2;
	cmp_ok(time - $began, '>=', 0.95, 'held back');
	my ($got, $took) = timed($conn[0], @s, recipient => 'bob@example.com');
	like($got, $ERRORS, 'the end');
	cmp_ok($took, '<', 0.95, 'is not held back');
}
{
	my ($got, $took)
		= timed($d->connect, recipient => 'moved@example.com');
	like($got, qr/^550 5\.1\.6 Moved$/, 'the reply of a row');
	cmp_ok($took, '<', 0.95, 'is not held back');
	($got, $took) = timed($d->connect, recipient => 'x@other.example');
	like($got, $RELAY, 'a foreign domain');
	cmp_ok($took, '>=', 0.95, 'is held back');
}
{
	for (1 .. 50) {
		my $conn = $d->connect;
		$conn->send(block(recipient => 'no@example.com'));
		$conn->close;
	}
	my ($got, $took) = timed($d->connect, recipient => 'no@example.com');
	like($got, $UNKNOWN, 'clients that hang up while they wait');
	is($d->ask(recipient => 'bob@example.com'), 'DUNNO', 'do no harm');
}
is($d->stop, 0, 'exit status');

# ---- no limit ----

$d = PolicydTest->new(
	conninfo => $pg->conninfo(user => 'policyd'),
	ini      => { rcpt => { errors_total => 0, errors_wait => '0s' } }
)->start;
{
	my @s   = message(session());
	my $bad = grep {
		($d->ask(@s, recipient => "no$_\@example.com") // '') !~ $UNKNOWN
	} 1 .. 1500;
	is($bad, 0, 'errors_total = 0 has no end');
	judge($OK, 'who is known', @s, recipient => 'bob@example.com');
}
is($d->stop, 0, 'exit status');

# ---- what rules, scripts and rows have to say of it ----

$pg->psql(<<'SQL');
INSERT INTO policyd.address (address, reply) VALUES
  ('info1@small.example', 'PREPEND X-Info: yes'),
  ('info2@small.example', 'DUNNO'), ('info3@small.example', 'DUNNO');
CREATE FUNCTION policyd_script.content(request jsonb) RETURNS text
  LANGUAGE sql AS $$ SELECT 'DUNNO' $$;
INSERT INTO policyd.rule (priority, state, conditions, action) VALUES
  (1, 'DATA', ARRAY['stress = bounce'], 'set max_recipients 1'),
  (1, 'DATA', ARRAY['stress = many'], 'set max_recipients 90'),
  (2, 'MAIL', ARRAY['stress = strict'], 'set errors_total 1'),
  (3, 'RCPT', ARRAY['stress = script'], 'set script content'),
  (4, 'RCPT', ARRAY['stress = helo'], '550 {helo_name}');
SQL
$d = PolicydTest->new(
	conninfo => $pg->conninfo(user => 'policyd'),
	ini      => { rcpt => { errors_wait => '0s', max_recipients => 5 } }
)->start;
for my $case ([bounce => $TOO, 'fewer'], [many => $OK, 'more']) {
	my ($stress, $want, $name) = @$case;
	my @s = message(session(), stress => $stress);
	judge($OK, "recipient $_", @s, recipient => "r$_\@any.example") for 1 .. 2;
	judge($want, "DATA, where a rule for it says $name", @s, recipient => '',
		protocol_state  => 'DATA',
		recipient_count => $stress eq 'many' ? 60 : 2);
}
{
	my @s = message(session());
	judge(qr/^PREPEND/, 'a row that has an answer', @s,
		recipient => 'info1@small.example');
	judge($OK, 'another', @s, recipient => 'info2@small.example');
	judge($TOO, 'and they count', @s, recipient => 'x@small.example');
	judge($OK, 'but they do not ask how many there were', @s,
		recipient => 'info3@small.example');
}
{
	my @s = message(session(), stress => 'script');
	judge($OK, "what a script accepts: $_", @s, recipient => "$_\@small.example")
		for qw(one two two);
	judge($TOO, 'counts', @s, recipient => 'three@small.example');
}
for my $case (['5.7.1', '550 5.7.1 Refused'], ['', '550 Refused'],
	['mx.example', '550 mx.example'])
{
	my ($helo, $want) = @$case;
	is($d->ask(stress => 'helo', helo_name => $helo), $want,
		"HELO $helo takes nothing of a refusal");
}
{
	my @s = message(session(), stress => 'strict');
	judge($OK, 'a rule for MAIL sets errors_total', @s, instance => '',
		protocol_state => 'MAIL', recipient => '');
	judge($UNKNOWN, 'the first error', @s, recipient => 'no@example.com');
	judge($ERRORS, 'is the last', @s, recipient => 'bob@example.com');
}
is($d->stop, 0, 'exit status');
done_testing();
