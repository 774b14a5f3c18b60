#!/usr/bin/perl

# Greylisting: the life of a key, who is asked to come back and who is not, and
# what the administrator says about it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Time::HiRes qw(time);

use GreylistTest;
use PolicydTest qw(block policyctl_path session soon spew wait_for);

my $pg = greylist_site(<<'SQL');
INSERT INTO policyd.address (address, expires_at, enabled, reply) VALUES
  ('expired@example.com', '2020-01-01', true, NULL),
  ('off@example.com', NULL, false, NULL),
  ('reply@example.com', NULL, true, '550 5.1.6 Moved');
INSERT INTO policyd.domain_alias (name, target) VALUES
  ('example.org', 'example.com');
CREATE FUNCTION policyd_script.no(request jsonb) RETURNS text LANGUAGE sql
  RETURN '450 4.9.7 a script';
SQL
my $dbh = known();
my $d   = greylister($pg);

my $UNKNOWN = qr/^550 5\.1\.1 \S/;
my $RELAY   = qr/^550 5\.7\.1 \S/;

my $sender = 0;

# A sender that nobody has seen.
sub fresh {
	my $name = join '', map { chr(ord('a') + $_) } ++$sender =~ /\d/g;
	return "new$name\@sender.example";
}

sub rows { return value('SELECT count(*) FROM policyd.greylist') }

sub row_of { return row('sender = ?', shift) }

# ---- the life of a key ----

my $from = fresh();
my @key  = (sender => $from, recipient => 'bob@example.com');
{
	my $began = time;
	my $got   = $d->ask(@key) // 'no answer';
	like($got, $GREYLISTED, 'the first attempt');
	is(($got =~ $GREYLISTED)[0], 60, 'with the whole delay');
	my $r = row_of($from) or BAIL_OUT('the first attempt makes no row');
	is("$r->{client} $r->{recipient}", 'example.net bob@example.com',
		'the key of its row');
	is($r->{attempts}, 1, 'one attempt');
	is($r->{passed_us}, undef, 'it has not passed');
	is($r->{first_us}, $r->{last_us}, 'first_seen is last_seen');
	cmp_ok($r->{first}, '<=', time - $began + 0.1, 'now');

	older(30);
	settle($d);
	$got = $d->ask(@key) // 'no answer';
	like($got, $GREYLISTED, 'too early');
	my $left = ($got =~ $GREYLISTED)[0] // -1;
	ok($left <= 30 && $left > 10, "with the seconds left ($left)");
	my $first = $r->{first_us} - 30e6;
	soon { row_of($from)->{attempts} == 2 } 'two attempts';
	is(row_of($from)->{first_us}, $first, 'first_seen stays');
	is(row_of($from)->{passed_us}, undef, 'it has not passed');

	older(29.9);
	settle($d);
	wait_for { ($got = $d->ask(@key)) !~ $GREYLISTED } 5;
	like($got, $PASSED, 'after the delay');
	older(100);
	settle($d);
	my $n = ($got =~ $PASSED)[0] // -1;
	ok($n >= 60 && $n < 90, "it was delayed $n seconds");
	$r = row_of($from);
	ok(defined $r->{passed_us}, 'passed_at');
	is($r->{first_us}, $first - 129.9e6, 'first_seen');
	my $attempts = $r->{attempts};
	cmp_ok($attempts, '>=', 3, 'attempts');

	ask_is($d, $OK, 'what has passed passes', @key) for 1 .. 3;
	soon { $d->ask(@key); row_of($from)->{last_us} > $r->{last_us} }
	'last_seen is written back', 20;
	is(row_of($from)->{passed_us}, $r->{passed_us}, 'passed_at stays');
	is(row_of($from)->{attempts},  $attempts,       'and so do attempts');
	my $last = row_of($from)->{last_us};
	soon { $d->ask(@key); row_of($from)->{last_us} > $last } 'and again', 20;

	older(34 * 86400);
	settle($d);
	ask_is($d, $OK, 'after 34 days without use', @key);
	soon { row_of($from)->{last} < 86400 } 'last_seen', 20;
	older(34 * 86400);
	settle($d);
	ask_is($d, $OK, 'and after 34 more', @key);
	soon { row_of($from)->{last} < 86400 } 'last_seen', 20;
	older(35 * 86400 + 1);
	settle($d);
	$got = $d->ask(@key);
	like($got, $GREYLISTED, 'after 35 days without use it is new');
	is(($got =~ $GREYLISTED)[0], 60, 'with the whole delay');
	$r = row_of($from);
	is($r->{passed_us}, undef, 'its row, too');
	is($r->{attempts},  1,     'one attempt');
	cmp_ok($r->{first}, '<', 60, 'first_seen');
	older(60);
	settle($d);
	ask_is($d, $PASSED, 'and passes as one', @key);
	older(35 * 86400 + 1);
	settle($d);
}
{
	# Not even to ask about it makes it known.
	ask_is($d, $GREYLISTED, 'once more too old', @key);
	my $from = fresh();
	my @key  = (sender => $from, recipient => 'bob@example.com');
	ask_is($d, $GREYLISTED, 'a new key', @key);
	older(86400 - 600, 'sender = ?', $from);
	settle($d);
	ask_is($d, $PASSED, 'passes within retry_window', @key);

	$from = fresh();
	@key  = (sender => $from, recipient => 'bob@example.com');
	ask_is($d, $GREYLISTED, 'another', @key);
	older(86400 + 1, 'sender = ?', $from);
	settle($d);
	my $got = $d->ask(@key);
	like($got, $GREYLISTED, 'is new after retry_window');
	is(($got =~ $GREYLISTED)[0], 60, 'with the whole delay');
	is(row_of($from)->{attempts}, 1, 'one attempt');
	cmp_ok(row_of($from)->{first}, '<', 60, 'first_seen');
	older(61, 'sender = ?', $from);
	settle($d);
	ask_is($d, $PASSED, 'and passes after the delay', @key);
}
{
	# Each part of the key counts.
	my $from = fresh();
	my @key  = (sender => $from, recipient => 'bob@example.com');
	ask_is($d, $GREYLISTED, 'a key', @key);
	older(61, 'sender = ?', $from);
	settle($d);
	ask_is($d, $GREYLISTED, 'another recipient', sender => $from,
		recipient => 'alice@example.com');
	ask_is($d, $GREYLISTED, 'another sender', sender => fresh(),
		recipient => 'bob@example.com');
	ask_is($d, $GREYLISTED, 'another client', @key,
		client_name => 'mail.other.example', client_address => '203.0.113.1');
	ask_is($d, $PASSED, 'the same', @key);
	count_is(3, 'three rows of this sender', 'sender = ?', $from);
}
{
	my $from = fresh();
	ask_is($d, $GREYLISTED, 'a key', sender => $from,
		recipient => 'bob@example.com');
	older(61, 'sender = ?', $from);
	settle($d);
	ask_is($d, $PASSED, 'letter case does not matter', sender => uc $from,
		recipient => 'BOB@Example.COM');
	count_is(1, 'one row', 'sender = ?', $from);
	ask_is($d, $GREYLISTED, 'the null sender', sender => '',
		recipient => 'bob@example.com');
	ok(row_of(''), 'its row');
	older(61, q{sender = ''});
	settle($d);
	ask_is($d, $PASSED, 'passes as any', sender => '',
		recipient => 'bob@example.com');
}

{
	my $strict = greylister($pg, rcpt => { fold_local_part => 'no' });
	my $from   = fresh();
	ask_is($strict, $GREYLISTED, 'fold_local_part=no', sender => $from,
		recipient => 'Who@any.example');
	older(61, 'sender = ?', $from);
	settle($strict);
	ask_is($strict, $GREYLISTED, 'letter case matters', sender => $from,
		recipient => 'who@any.example');
	ask_is($strict, $PASSED, 'not in the domain', sender => $from,
		recipient => 'Who@ANY.example');
	is($strict->stop, 0, 'exit status');
}

# ---- once a message ----

{
	my $from = fresh();
	my @to   = map {"r$_\@any.example"} 'a' .. 'e';
	my @s    = session(sender => $from);
	ask_is($d, $GREYLISTED, 'each recipient for itself', @s, recipient => $_)
		for @to;
	count_is(5, 'five rows', 'sender = ?', $from);
	older(100, 'sender = ?', $from);
	settle($d);
	@s = session(sender => $from);
	ask_is($d, $PASSED, 'the first recipient gets the header', @s,
		recipient => $to[0]);
	ask_is($d, $OK, 'the second none', @s, recipient => $to[1]);
	ask_is($d, $OK, 'nor the first again', @s, recipient => $to[0]);
	ask_is($d, $OK, 'nor over another connection', @s, recipient => $to[2],
		policy_context => 'other');
	is($d->connect->ask(@s, recipient => $to[3]), 'DUNNO', 'nor there');
	@s = session(sender => $from);
	ask_is($d, $OK, 'another message, a key that has passed', @s,
		recipient => $to[0]);
	ask_is($d, $PASSED, 'and one that has not yet', @s, recipient => $to[4]);
	my $new = "new.$to[0]";
	ask_is($d, $GREYLISTED, 'a new recipient among those that are known', @s,
		recipient => $new);
	soon {
		value('SELECT count(*) FROM policyd.greylist WHERE sender = ?
			AND attempts = 2 AND passed_at IS NOT NULL', undef, $from) == 5
	}
	'two attempts each';
}
{
	# Postfix repeats a request; a service that is listed twice asks twice.
	my $from = fresh();
	my @s    = session(sender => $from, recipient => 'bob@example.com');
	ask_is($d, $GREYLISTED, 'asked', @s);
	ask_is($d, $GREYLISTED, 'asked again', @s) for 1 .. 3;
	ask_is($d, $GREYLISTED, 'in another context', @s, policy_context => 'x');
	my @conn = map { $d->connect } 1 .. 5;
	$_->send(block(@s)) for @conn;
	like($_->reply, $GREYLISTED, 'over several connections at once') for @conn;
	my @other = session(sender => $from, recipient => 'bob@example.com');
	ask_is($d, $GREYLISTED, 'another message', @other);
	soon { row_of($from)->{attempts} >= 2 } 'is another attempt', 20;
	is(row_of($from)->{attempts}, 2, 'the same one counts once');

	my $new = fresh();
	@s = session(sender => $new, recipient => 'bob@example.com');
	@conn = map { $d->connect } 1 .. 10;
	$_->send(block(@s)) for @conn;
	like($_->reply, $GREYLISTED, 'a new key over ten connections at once')
		for @conn;
	ask_is($d, $GREYLISTED, 'in another message', sender => $new,
		recipient => 'bob@example.com');
	soon { row_of($new)->{attempts} >= 2 } 'is another attempt', 20;
	is(row_of($new)->{attempts}, 2, 'the ten were one');

	# The same message to the same, over other sessions at once: ten attempts.
	$new  = fresh();
	@conn = map { $d->connect } 1 .. 10;
	$_->send(block(sender => $new, recipient => 'bob@example.com')) for @conn;
	like($_->reply, $GREYLISTED, 'ten messages at once') for @conn;
	soon { row_of($new)->{attempts} == 10 } 'are ten attempts', 20;
}

# ---- who is not greylisted ----

{
	my $before = rows();
	my @s      = session();
	ask_is($d, $OK, 'an authenticated client', sender => fresh(),
		recipient => 'bob@example.com', sasl_username => 'bob');
	ask_is($d, $OK, 'who relays', sender => fresh(), sasl_username => 'bob',
		recipient => 'x@other.example');
	ask_is($d, $RELAY, 'who may not relay', sender => fresh(),
		recipient => 'x@other.example');
	ask_is($d, $UNKNOWN, "for $_", sender => fresh(),
		recipient => "$_\@example.com") for qw(nobody expired off);
	ask_is($d, qr/^550 5\.1\.3 /, 'a bad address', sender => fresh(),
		recipient => '@example.com');
	ask_is($d, qr/^550 5\.1\.6 Moved$/, 'the reply of a row', sender => fresh(),
		recipient => 'reply@example.com');
	ask_is($d, $OK, "at $_", sender => fresh(), protocol_state => $_,
		recipient => 'bob@example.com', recipient_count => 1)
		for qw(CONNECT EHLO HELO MAIL DATA END-OF-MESSAGE ETRN);
	ask_is($d, qr/^502 /, 'at VRFY', sender => fresh(),
		protocol_state => 'VRFY', recipient => 'bob@example.com');
	is(rows(), $before, 'none of them makes a row');

	my $relay = greylister($pg, rcpt => { relay => 'yes' },
		lookup => { vrfy => 'yes' });
	ask_is($relay, $OK, 'a relayed recipient', sender => fresh(),
		recipient => 'x@other.example');
	ask_is($relay, $OK, 'VRFY that is answered', sender => fresh(),
		protocol_state => 'VRFY', recipient => 'bob@example.com');
	is(rows(), $before, 'makes no row either');
	ask_is($relay, $GREYLISTED, 'a local one is greylisted', sender => fresh(),
		recipient => 'bob@example.com');
	is($relay->stop, 0, 'exit status');

	$dbh->do(q{INSERT INTO policyd.rule (priority, conditions, action) VALUES
		(10, ARRAY['stress = no'], '450 4.9.1 a rule'),
		(10, ARRAY['stress = yes'], 'DUNNO'),
		(10, ARRAY['stress = ok'], 'OK'),
		(10, ARRAY['stress = script'], 'set script no')});
	settle($d);
	$before = rows();
	ask_is($d, $_->[1], "a rule answers: $_->[0]", sender => fresh(),
		recipient => 'bob@example.com', stress => $_->[0])
		for [ no => qr/^450 4\.9\.1 / ], [ yes => $OK ], [ ok => qr/^OK$/ ],
		[ script => qr/^450 4\.9\.7 a script$/ ];
	is(rows(), $before, 'that makes no row');
	$dbh->do('DELETE FROM policyd.rule');
}

# ---- verified recipients ----

{
	my $from = fresh();
	my @key  = (sender => $from, recipient => 'who@verify.example');
	my $probe = qr/^reject_unverified_recipient$/;
	ask_is($d, $GREYLISTED, 'a recipient that Postfix verifies', @key);
	older(61, 'sender = ?', $from);
	settle($d);
	my @s = session();
	ask_is($d, $probe, 'is verified once it passed', @s, @key);
	ask_is($d, $probe, 'each time', @s, @key);
	ask_is($d, $probe, 'each message', @key);
	soon { defined row_of($from)->{passed_us} } 'it has passed';
}

# ---- bounds of a message and a session ----

{
	my $small = greylister($pg,
		rcpt => { max_recipients => 3, errors_total => 2 });
	my $from = fresh();
	my @to   = map {"$_\@any.example"} 'a' .. 'k';
	my @s    = session(sender => $from);
	ask_is($small, $GREYLISTED, "greylisted: $_", @s, recipient => $_)
		for @to;
	count_is(scalar @to, 'recipients that are greylisted do not count', 'sender = ?', $from);
	ask_is($small, $UNKNOWN, 'nor are they errors', @s,
		recipient => 'no@example.com');
	older(61, 'sender = ? AND recipient < ?', $from, 'e');
	settle($small);
	@s = session(sender => $from);
	ask_is($small, $GREYLISTED, "greylisted: $_", @s, recipient => $_)
		for @to[ 4 .. 10 ];
	ask_is($small, $PASSED, 'one that passes', @s, recipient => $to[0]);
	ask_is($small, $OK, 'a second',  @s, recipient => $to[1]);
	ask_is($small, $OK, 'a third', @s, recipient => $to[2]);
	ask_is($small, qr/^452 4\.5\.3 \S/, 'the next is one too many', @s,
		recipient => $to[3]);
	ask_is($small, $OK, 'those that are in are in', @s, recipient => $to[1]);
	my $new = 'new@any.example';
	ask_is($small, qr/^452 4\.5\.3 \S/, 'a new one, too', @s,
		recipient => $new);
	ok(no_row('sender = ? AND recipient = ?', $from, $new),
		'which makes no row');
	is($small->stop, 0, 'exit status');
}

# ---- header, text ----

{
	my $plain = greylister($pg, header => 'no', delay => '20s',
		reply => { greylisted =>
			'450 4.2.1 {client} {sender} {recipient} {domain}: {seconds} s' });
	my $from = fresh();
	my @key  = (sender => $from, recipient => 'bob@example.com');
	my $got  = $plain->ask(@key);
	like($got, qr/^450 4\.2\.1 .*192\.0\.2\.10/, 'a text of our own');
	like($got, qr/ $from bob\@example\.com example\.com: 20 s$/,
		'with all its places');
	older(21, 'sender = ?', $from);
	settle($plain);
	ask_is($plain, $OK, 'header=no', @key);
	soon { defined row_of($from)->{passed_us} } 'it has passed';
	is($plain->stop, 0, 'exit status');
}

# ---- on and off: a rule, the address, the domain, the INI ----

{
	my @say = ([ null => 'NULL' ], [ yes => 'true' ], [ no => 'false' ]);
	for my $domain (@say) {
		$dbh->do("INSERT INTO policyd.domain (name, recipients, greylist)
			VALUES ('$domain->[0].example', 'any', $domain->[1])");
		$dbh->do("INSERT INTO policyd.address (address, greylist)
			VALUES ('$_->[0]\@$domain->[0].example', $_->[1])") for @say;
	}
	$dbh->do(q{INSERT INTO policyd.rule (priority, conditions, action) VALUES
		(10, ARRAY['stress = yes'], 'set greylist yes'),
		(11, ARRAY['stress = yes'], 'set greylist no'),
		(10, ARRAY['stress = no'], 'set greylist no'),
		(11, ARRAY['stress = no'], 'set greylist yes')});
	my %ini = (yes => $d, no => greylister($pg, enabled => 'no'));
	settle(values %ini);
	for my $ini (qw(yes no)) {
		my @wrong;
		for my $rule (qw(null yes no)) {
			for my $address (qw(null yes no)) {
				for my $domain (qw(null yes no)) {
					my ($want) = grep { $_ ne 'null' } $rule, $address,
						$domain, $ini;
					my $from = fresh();
					my $got  = $ini{$ini}->ask(
						sender    => $from,
						recipient => "$address\@$domain.example",
						stress    => $rule eq 'null' ? '' : $rule
					) // 'no answer';
					my $is = $got =~ $GREYLISTED ? 'yes'
						: $got =~ $OK            ? 'no' : $got;
					my $has = $want eq 'yes' && row_of($from)
						|| !no_row('sender = ?', $from) ? 'yes' : 'no';
					push @wrong, "rule $rule, address $address,"
						. " domain $domain: $is, row: $has"
						if $is ne $want || $has ne $want;
				}
			}
		}
		is("@wrong", '', "27 ways to say it, with enabled=$ini");
	}
	ask_is($ini{no}, $GREYLISTED, 'an extension is its address',
		sender => fresh(), recipient => 'yes+x@null.example');
	ask_is($d, $OK, 'an extension is its address, off',
		sender => fresh(), recipient => 'no+x@null.example');
	$dbh->do(q{INSERT INTO policyd.address (address, greylist)
		VALUES ('quick@example.com', false)});
	$dbh->do(q{UPDATE policyd.domain SET recipients = 'listed'
		WHERE name = 'null.example'});
	$dbh->do(q{INSERT INTO policyd.address (address, greylist)
		VALUES ('@null.example', false)});
	settle(values %ini);
	ask_is($d, $OK, 'through a domain_alias', sender => fresh(),
		recipient => 'quick@example.org');
	ask_is($d, $GREYLISTED, 'the others of it', sender => fresh(),
		recipient => 'bob@example.org');
	ask_is($d, $OK, 'a catch-all', sender => fresh(),
		recipient => 'anybody@null.example');
	ask_is($d, $GREYLISTED, 'not for those that have a row', sender => fresh(),
		recipient => 'yes@null.example');
	$dbh->do('DELETE FROM policyd.rule');
	is($ini{no}->stop, 0, 'exit status');
}

# ---- the action "greylist" ----

{
	my $off = greylister($pg, enabled => 'no');
	$dbh->do(q{INSERT INTO policyd.rule (priority, conditions, action) VALUES
		(20, ARRAY['stress = one', 'sender in list:early'], '450 4.9.2 before'),
		(30, ARRAY['stress in one, two'], 'greylist'),
		(40, ARRAY['stress = one'], '450 4.9.3 after')});
	$dbh->do(q{INSERT INTO policyd.list_entry (list, value)
		VALUES ('early', 'early@sender.example')});
	settle($off);
	my $before = rows();
	ask_is($off, qr/^450 4\.9\.2 before$/, 'a rule before it',
		sender => 'early@sender.example', stress => 'one');
	ask_is($off, $OK, 'where its conditions do not hold', sender => fresh());
	is(rows(), $before, 'no row of them');

	my $from = fresh();
	my @key  = (sender => $from, recipient => 'bob@example.com');
	ask_is($off, $GREYLISTED, 'it greylists where it stands', @key,
		stress => 'one');
	ask_is($off, $GREYLISTED, 'and again', @key, stress => 'one');
	older(61, 'sender = ?', $from);
	settle($off);
	ask_is($off, qr/^450 4\.9\.3 after$/, 'who passes gets to the next rule',
		@key, stress => 'one');
	ask_is($off, qr/^450 4\.9\.3 after$/, 'and who has passed', @key,
		stress => 'one');
	soon { defined row_of($from)->{passed_us} } 'it has passed';

	$from = fresh();
	@key  = (sender => $from, recipient => 'bob@example.com', stress => 'two');
	ask_is($off, $GREYLISTED, 'with no rule behind it', @key);
	older(61, 'sender = ?', $from);
	settle($off);
	ask_is($off, $PASSED, 'who passes gets the header', @key);
	ask_is($off, $OK, 'the first time', @key);

	$before = rows();
	ask_is($off, $UNKNOWN, 'a recipient that does not exist', stress => 'two',
		sender => fresh(), recipient => 'nobody@example.com');
	ask_is($off, $UNKNOWN, 'or does no longer', stress => 'two',
		sender => fresh(), recipient => 'expired@example.com');
	ask_is($off, $RELAY, 'or is not ours', stress => 'two',
		sender => fresh(), recipient => 'x@other.example');
	ask_is($off, qr/^550 5\.1\.3 /, 'or is no address', stress => 'two',
		sender => fresh(), recipient => 'bob');
	ask_is($off, $OK, 'or is of a client that has logged in', stress => 'two',
		sender => fresh(), sasl_username => 'bob');
	ask_is($off, qr/^550 5\.1\.6 Moved$/, 'or has a reply', stress => 'two',
		sender => fresh(), recipient => 'reply@example.com');
	$dbh->do(q{UPDATE policyd.rule SET state = 'ANY'
		WHERE action = 'greylist'});
	settle($off);
	ask_is($off, $_ eq 'VRFY' ? qr/^502 / : $OK, "or at $_", stress => 'two',
		sender => fresh(), protocol_state => $_, recipient_count => 1)
		for qw(CONNECT EHLO HELO MAIL DATA END-OF-MESSAGE VRFY ETRN);
	is(rows(), $before, 'makes no row');

	# Where greylisting is on it is one and the same.
	$from = fresh();
	@key  = (sender => $from, recipient => 'bob@example.com', stress => 'two');
	settle($d);
	ask_is($d, $GREYLISTED, 'where all are greylisted, too', @key);
	soon { (row_of($from) || { attempts => 0 })->{attempts} == 1 }
	'one attempt';
	older(61, 'sender = ?', $from);
	settle($d);
	ask_is($d, $PASSED, 'and passes', @key);
	ask_is($d, $OK, 'and has passed', @key);
	is($off->stop, 0, 'exit status');

	# A shadow greylists nobody.
	$dbh->do('UPDATE policyd.rule SET shadow = true');
	settle($d);
	$dbh->do(q{UPDATE policyd.domain SET greylist = false
		WHERE name = 'any.example'});
	settle($d);
	$before = rows();
	ask_is($d, $OK, 'a shadow', stress => 'two', sender => fresh(),
		recipient => 'who@any.example');
	is(rows(), $before, 'makes no row');
	$dbh->do(q{UPDATE policyd.domain SET greylist = NULL});
	$dbh->do('DELETE FROM policyd.rule');
	settle($d);
}

# ---- clients that have shown that they retry ----

{
	# A client that comes with so many keys; which of them pass at once, when
	# one after the other has passed?
	my %name;
	my $at = 0;
	for my $after (0, 1, 3) {
		my $a = greylister($pg, auto_allow_after => $after);
		my $net = '198.51.100.' . ++$at;
		my @client = (client_address => $net,
			client_name => "mx.auto$after.example");
		my $client = "auto$after.example";
		for my $n (1 .. 4) {
			my $from = fresh();
			my @key = (@client, sender => $from,
				recipient => 'bob@example.com');
			if ($after && $n > $after) {
				ask_is($a, $OK,
					"auto_allow_after=$after: key $n passes at once", @key);
				ok(no_row('sender = ?', $from), 'and makes no row');
			} else {
				ask_is($a, $GREYLISTED,
					"auto_allow_after=$after: key $n is greylisted", @key);
				older(61, 'sender = ?', $from);
				settle($a);
				ask_is($a, $PASSED, 'and passes', @key);
			}
			soon {
				(value('SELECT passes FROM policyd.client WHERE client = ?',
					undef, $client) // 0) ==
					($after && $n > $after ? $after : $n)
			}
			'passes of the client', 20;
		}
		ask_is($a, $GREYLISTED, 'other clients do not profit',
			sender => fresh(), client_address => '198.18.0.1',
			client_name => 'mx.lonely.example',
			recipient => 'bob@example.com');
		if ($after) {
			my $was = value('SELECT last_seen FROM policyd.client
				WHERE client = ?', undef, $client);
			ask_is($a, $OK, 'it stays so', @client, sender => fresh(),
				recipient => 'bob@example.com');
			soon {
				$a->ask(@client, sender => fresh(),
					recipient => 'bob@example.com');
				value('SELECT last_seen > ? FROM policyd.client
					WHERE client = ?', undef, $was, $client)
			}
			'last_seen of the client is written back', 20;
			quiet();
			$dbh->do(q{UPDATE policyd.client
				SET last_seen = now() - interval '36 d' WHERE client = ?},
				undef, $client);
			settle($a);
			ask_is($a, $GREYLISTED, 'until it is not used for max_age',
				@client, sender => fresh(), recipient => 'bob@example.com');
		}
		is($a->stop, 0, 'exit status');
	}
}
{
	# One that an administrator has named.
	my @who = (client_name => 'mx.friend.example',
		client_address => '198.18.3.3', recipient => 'bob@example.com');
	ask_is($d, $GREYLISTED, 'a stranger', @who, sender => fresh());
	$dbh->do(q{INSERT INTO policyd.client (client, allowed_at, reason)
		VALUES ('friend.example', now(), 'we know them'),
		('198.18.4.0/24', now(), NULL)});
	settle($d);
	my $before = rows();
	ask_is($d, $OK, 'a friend, though auto_allow_after=0', @who,
		sender => fresh());
	ask_is($d, $OK, 'a network', @who, sender => fresh(),
		client_name => 'unknown', client_address => '198.18.4.9');
	ask_is($d, $OK, 'a network, whatever the name', @who, sender => fresh(),
		client_name => 'mx.somebody.example', client_address => '198.18.4.8');
	is(rows(), $before, 'they make no rows');
	quiet();
	$dbh->do(q{DELETE FROM policyd.client});
	settle($d);
	ask_is($d, $GREYLISTED, 'no friend any more', @who, sender => fresh());
}

# ---- policyctl explain ----

{
	my $from = fresh();
	my $ini = spew("$d->{dir}/explain.ini", sprintf
		qq{[database]\nconninfo = "%s"\n[greylist]\nauto_allow_after = 0\n},
		$pg->conninfo);
	my $told = sub {
		my $file = spew("$d->{dir}/request", block(@_));
		my $ctl  = policyctl_path();
		my $text = qx('$ctl' -c '$ini' explain '$file' 2>&1);
		return $text;
	};
	my $before = rows();
	my @key = (sender => $from, recipient => 'bob@example.com');
	my $text = $told->(@key);
	like($text, qr/greylist/i, 'explain names greylisting');
	like($text, qr/^answer +action=DEFER_IF_PERMIT 4\.2\.0 Greylisted/m,
		'and says that a new key would be greylisted');
	is(rows(), $before, 'it makes no row');
	ask_is($d, $GREYLISTED, 'and counts nothing', @key);
	$told->(@key) for 1 .. 3;
	my $r = row_of($from);
	is($r->{attempts}, 1, 'one attempt');
	older(61, 'sender = ?', $from);
	$text = $told->(@key);
	unlike($text, qr/^answer +action=DEFER/m, 'that one has waited');
	is(row_of($from)->{passed_us}, undef, 'but has not passed by this');
	unlike($told->(@key, recipient => 'no@example.com'),
		qr/^answer.*Greylisted/m, 'who does not exist is not greylisted');
	unlike($told->(@key, sasl_username => 'bob'), qr/^answer.*Greylisted/m,
		'nor who is authenticated');
}

is($d->stop, 0, 'exit status');
unlike($d->log, qr/level=error|AddressSanitizer|runtime error/,
	'no error in the log');
is(errors_of($pg), '', 'nor in that of PostgreSQL');
done_testing();
