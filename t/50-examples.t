#!/usr/bin/perl

# The examples in sql/examples, as their comments say to use them, over a real
# Postfix: which recipients are accepted, and what the others are told.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Time::HiRes qw(time);

use PolicydTest qw(session site slurp spew top);
use PostfixTest;

my $missing = PostfixTest::missing();
plan skip_all => $missing if defined $missing;

my $EXAMPLES = top() . '/sql/examples';

# A daemon with an example's tables and settings, and sockets of its own; and a
# Postfix that asks it.  Whatever policyd lets through is relayed.
sub example {
	my ($ini, @sql) = @_;
	my $pg = site('');
	$pg->load(map {"$EXAMPLES/$_"} @sql);
	my $d = PolicydTest->new(conninfo => $pg->conninfo(user => 'policyd'),
		inet => 1);
	my ($own) = $d->ini_text =~ /^(\[policyd\].*?)(?=^\[|\z)/ms;
	spew($d->{inifile}, slurp("$EXAMPLES/$ini") . "\n$own\n[database]\n"
		. "conninfo = $d->{conninfo}\n");
	my ($status, $said) = $d->run('-t');
	is($status, 0, "$ini: policyd -t") or diag $said;
	$d->start;
	my $service = "inet:127.0.0.1:$d->{port}";
	my $pf = PostfixTest->new(
		main => {
			smtpd_relay_restrictions =>
				"check_policy_service $service, permit_auth_destination,"
				. ' reject',
			smtpd_data_restrictions        => "check_policy_service $service",
			relay_domains                  => 'static:all',
			disable_vrfy_command           => 'no',
			smtpd_authorized_xclient_hosts => '127.0.0.1',
		}
	)->start;
	return ($pg, $d, $pf);
}

# A session of a client that has authenticated, as Postfix sees it.
sub authenticated {
	my ($pf, $login) = @_;
	my $c = $pf->smtp;
	my $got = $c->cmd("XCLIENT LOGIN=$login");
	like($got, qr/^220 /, "XCLIENT LOGIN=$login") or diag $c->{ehlo};
	$c->cmd('EHLO client.example.net');
	return $c;
}

sub rcpt { my ($c, $to) = @_; return $c->cmd("RCPT TO:<$to>") // 'none' }

sub accepted {
	my ($got, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return like($got, qr/^250 2\.1\.5 /, $name);
}

# ---- the Stalwart configuration ----

{
	my ($pg, $d, $pf) = example('stalwart.ini', 'greylist-once.sql',
		'stalwart.sql');

	# Five that are not there, five seconds each: read when the time has come.
	my $errors = $pf->smtp;
	$errors->cmd('MAIL FROM:<guess@example.net>');
	my $begin = time;
	$errors->put("RCPT TO:<no$_\@foobar.com>") for 1 .. 6;

	my $c = $pf->smtp;
	$c->cmd('MAIL FROM:<sender@example.net>');
	is(rcpt($c, 'john@foobar.com'), '422 4.2.2 <john@foobar.com>: Recipient'
		. ' address rejected: Greylisted, please try again in a few moments.',
		'a stranger is asked to come back');
	accepted(rcpt($c, 'john@foobar.com'), 'and may, when it does');
	like(rcpt($c, 'bill@foobar.net'), qr/^422 4\.2\.2 .* Greylisted, /,
		'the other domain: once');
	accepted(rcpt($c, 'BILL@FooBar.NET'), 'and in any case the second time');
	like(rcpt($c, 'sales@foobar.com'), qr/^422 4\.2\.2 /, 'an alias: once');
	accepted(rcpt($c, 'sales@foobar.com'), 'and then');
	like(rcpt($c, 'who@elsewhere.example'), qr/^550 5\.7\.1 /,
		'no relay for strangers');
	like($c->cmd('DATA'), qr/^354 /, 'DATA');
	like($c->cmd("Subject: test\r\n\r\ntest\r\n."), qr/^250 2\.0\.0 .*queued/,
		'the message is taken');
	$c->cmd('MAIL FROM:<other@example.net>');
	like(rcpt($c, 'john@foobar.com'), qr/^422 4\.2\.2 /, 'another sender: again');
	like($c->cmd('VRFY john@foobar.com'), qr/^502 5\.5\.1 /,
		'no VRFY for strangers');
	$c->quit;

	$c = authenticated($pf, 'john@foobar.com');
	$c->cmd('MAIL FROM:<john@foobar.com>');
	accepted(rcpt($c, 'jane@foobar.com'), 'who has authenticated need not wait');
	accepted(rcpt($c, 'who@elsewhere.example'), 'and may relay');
	accepted(rcpt($c, "r$_\@elsewhere.example"), "recipient $_") for 3 .. 25;
	like(rcpt($c, 'r26@elsewhere.example'),
		qr/^452 4\.5\.3 <r26\@elsewhere\.example>: \S/, '25 recipients, no more');
	accepted(rcpt($c, 'jane@foobar.com'), 'one of them once more');
	$c->cmd('RSET');
	like($c->cmd('VRFY jane@foobar.com'), qr/^252 /, 'VRFY');
	# Its answer is held back as well.
	$c->put('VRFY nobody@foobar.com');
	like($c->reply // 'none', qr/^550 5\.1\.1 /, 'VRFY of nobody');
	$c->quit;

	# Postfix has no EXPN; other clients of the protocol may.
	my %expn = (session(instance => ''), protocol_state => 'EXPN', sender => '',
		recipient => 'sales@foobar.com');
	like($d->ask(%expn), qr/^502 5\.7\.0 \S/, 'no EXPN for strangers');
	like($d->ask(%expn, sasl_username => 'u'),
		qr/^250 2\.1\.5 .*\bbill\@foobar\.net/, 'EXPN');

	is($pg->psql(q{SELECT count(*), count(DISTINCT sender)
		FROM policyd_script.greylist_once_triplet}), '4|2',
		'what has been seen is in the table');

	for my $n (1 .. 5) {
		like($errors->reply(60) // 'none', qr/^550 5\.1\.1 <no$n\@foobar\.com>: /,
			"error $n");
		my $took = time - $begin;
		cmp_ok($took, '>=', 5 * $n - 0.1, sprintf 'after %.1f s', $took);
	}
	like($errors->reply(10) // 'none', qr/^421 4\.7\.0 /, 'the fifth was the last');
	ok($errors->closed(5), 'Postfix hangs up');
	cmp_ok(time - $begin, '<', 32, 'without a further wait');

	is($d->stop, 0, 'exit status');
	unlike($pf->log, qr/warning:.*policy|4\.3\.5/i,
		'Postfix has no complaint about policyd');
	$pf->stop;
}

# ---- the closed mail system of rcptFilter ----

{
	my ($pg, $d, $pf) = example('rcptfilter.ini', 'rcptfilter.sql');

	for my $who ('a stranger', 'authenticated') {
		my $c = $who eq 'authenticated' ? authenticated($pf, 'user')
			: $pf->smtp;
		$c->cmd('MAIL FROM:<sender@example.net>');
		accepted(rcpt($c, $_), "$who: $_")
			for 'user@mycompany.com', 'USER@MYCOMPANY.COM',
			'someone@subsidiary.com', 'any.body@SubSidiary.Com',
			'x@acme-labs.example', 'x+y@ACME-LABS.EXAMPLE';
		for (qw(user@gmail.example user@sub.mycompany.com
			user@notmycompany.com user@com invalid-email)) {
			like(rcpt($c, $_), qr/^550 5\.\d\.\d <\Q$_\E>: Recipient/,
				"$who: not $_");
			accepted(rcpt($c, 'later@mycompany.com'), "$who: but one after it");
		}
		like($c->cmd('DATA'), qr/^354 /, "$who: DATA");
		like($c->cmd("Subject: test\r\n\r\ntest\r\n."),
			qr/^250 2\.0\.0 .*queued/, "$who: for those that were accepted");
		my @got = $c->mail('sender@example.net', 'a@other.example', 'b',
			'c@third.example');
		like($_, qr/^550 /, "$who: none of a message") for @got[ 1 .. 3 ];
		is(scalar @got, 4, "$who: which is not sent");
		$c->quit;
	}

	# A domain more is a row more, in force at once.
	my $c = $pf->smtp;
	$c->cmd('MAIL FROM:<sender@example.net>');
	like(rcpt($c, 'x@new.example'), qr/^550 /, 'not yet in the list');
	$pg->psql(q{INSERT INTO policyd.domain (name, recipients)
		VALUES ('NEW.example', 'any')});
	PolicydTest::soon { rcpt($c, 'x@new.example') =~ /^250 / } 'in the list', 2;
	$c->quit;

	is($d->stop, 0, 'exit status');
	unlike($pf->log, qr/warning:.*policy|4\.3\.5/i,
		'Postfix has no complaint about policyd');
	$pf->stop;
}

done_testing();
