#!/usr/bin/perl

# Greylisting as the clients of a real Postfix see it: a message is deferred, its
# retry is delivered, with one header that says so.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;

use GreylistTest;
use PolicydTest qw(slurp soon spew wait_for);
use PostfixTest;

my $missing = PostfixTest::missing();
plan skip_all => $missing if defined $missing;

my $pg = greylist_site();
my $d  = PolicydTest->new(
	conninfo => $pg->conninfo(user => 'policyd'),
	inet     => 1,
	ini      => { greylist => { enabled => 'yes', auto_allow_after => 1 } }
)->start;

# Where messages are delivered to: a file each.
my $pf = PostfixTest->new(main => {
	smtpd_recipient_restrictions =>
			"check_policy_service inet:127.0.0.1:$d->{port},"
		. ' permit_auth_destination, reject',
	smtpd_relay_restrictions => 'permit_auth_destination, reject',
	smtpd_authorized_xclient_hosts => '127.0.0.1',
	relay_domains   => 'static:all',
	relay_transport => 'keep:',
	keep_destination_recipient_limit => 100,
});
my $kept = $pf->dir . '/kept';
mkdir $kept, 0755;
chown((getpwnam 'nobody')[ 2, 3 ], $kept);
my $script = spew("$kept.sh",
	qq{#!/bin/sh\ncat >"$kept/new.\$\$" && mv "$kept/new.\$\$" "$kept/\$\$"\n});
chmod 0755, $script;
{
	open my $out, '>>', $pf->conf . '/master.cf' or die "master.cf: $!";
	print $out "keep unix - n n - - pipe flags=q user=nobody argv=$script\n";
	close $out;
}
$pf->start;

# A session of this client.
sub client {
	my ($name, $address) = @_;
	my $c = $pf->smtp or die "no SMTP session\n";
	my $got = $c->cmd("XCLIENT NAME=$name ADDR=$address") // 'no reply';
	$got =~ /^220 / or die "XCLIENT: $got\n" . $pf->log;
	$c->cmd('EHLO ' . ($name =~ /^\[/ ? 'client.example.net' : $name));
	return $c;
}

# The message that was delivered since.
sub delivered {
	my %before = map { $_ => 1 } @_;
	my @new;
	wait_for { @new = grep { !/new\./ && !$before{$_} } glob "$kept/*" } 20;
	return map { slurp($_) } @new;
}
sub before { return glob "$kept/*" }

sub headers {
	my ($text) = @_;
	my ($head) = split /\n\n/, $text, 2;
	return $head =~ /^(X-Greylist:.*)$/mg;
}

my $WAIT = qr/^450\ 4\.2\.0\ <\S+>:\ Recipient\ address\ rejected:
	\ Greylisted,\ please\ try\ again\ in\ (\d+)\ seconds$/x;
my $ACCEPT = qr/^250 2\.1\.5 /;
my $QUEUED = qr/^250 2\.0\.0 .*queued/;

my @host = ('mail1.example.net', '192.0.2.10');
{
	my $c   = client(@host);
	my @got = $c->mail('sender@example.net', 'bob@example.com');
	like($got[1], $WAIT, 'a stranger is asked to come back');
	is(($got[1] =~ $WAIT)[0], 60, 'in a minute');
	@got = $c->mail('sender@example.net', 'nobody@example.com');
	like($got[1], qr/^550 5\.1\.1 /, 'who does not exist is refused for good');
	$c->quit;
	$c = client(@host);
	@got = $c->mail('sender@example.net', 'bob@example.com');
	like($got[1], $WAIT, 'it is too early');
	$c->quit;
	count_is(1, 'one row');
	is(join(' ', before()), '', 'nothing is delivered');

	older(90);
	settle($d);
	my @before = before();
	$c   = client('mail2.example.net', '198.51.100.20');
	@got = $c->mail('sender@example.net', 'bob@example.com');
	like($got[1],  $ACCEPT, 'it comes back, from another host');
	like($got[-1], $QUEUED, 'and is taken');
	$c->quit;
	my @text = delivered(@before);
	is(scalar @text, 1, 'and delivered');
	my @header = headers($text[0] // '');
	is(scalar @header, 1, 'with one header');
	like($header[0] // '',
		qr/^X-Greylist: delayed (?:9\d|1[0-4]\d) seconds by policyd/,
		'that says how long it waited');

	# Known by now, whoever writes to whom.
	@before = before();
	$c   = client(@host);
	@got = $c->mail('sender@example.net', 'bob@example.com');
	like($got[-1], $QUEUED, 'who is known is let in');
	@text = delivered(@before);
	is(scalar(map { headers($_) } @text), 0, 'without a header');
	@before = before();
	@got = $c->mail('other@example.net', 'alice@example.com',
		'nobody@example.com');
	like($got[1],  $ACCEPT, 'another sender of it, too');
	like($got[2],  qr/^550 5\.1\.1 /, 'not to nobody');
	like($got[-1], $QUEUED, 'it is taken');
	is(scalar(map { headers($_) } delivered(@before)), 0, 'without a header');
	$c->quit;
}
{
	my @host = ('[UNAVAILABLE]', '203.0.113.5');
	my @mail = ('', 'bob@example.com', 'alice@example.com',
		'bob+extra@example.com');
	my $c   = client(@host);
	my @got = $c->mail(@mail);
	like($got[$_], $WAIT, "no name, the null sender, recipient $_") for 1 .. 3;
	$c->quit;
	count_is(3, 'three rows', q{client = '203.0.113.0/24' AND sender = ''});
	older(120);
	settle($d);
	my @before = before();
	$c   = client('[UNAVAILABLE]', '203.0.113.77');
	@got = $c->mail(@mail);
	like($got[$_], $ACCEPT, "recipient $_ is accepted") for 1 .. 3;
	like($got[-1], $QUEUED, 'all in one message');
	$c->quit;
	my @header = map { headers($_) } delivered(@before);
	is(scalar @header, 1, 'with one header');
}
{
	# Some wait, some do not.
	my @host = ('mx.mixed.example', '198.18.0.9');
	my $c    = client(@host);
	my @got  = $c->mail('a@mixed.example', 'bob@example.com');
	like($got[1], $WAIT, 'one recipient');
	older(120);
	settle($d);
	known()->do(q{UPDATE policyd.domain SET greylist = false
		WHERE name = 'any.example'});
	known()->do(q{INSERT INTO policyd.rule (priority, conditions, action)
		VALUES (10, ARRAY['sender = vip@mixed.example'], 'set greylist no')});
	settle($d);
	@got = $c->mail('b@mixed.example', 'bob@example.com', 'x@any.example');
	like($got[1],  $WAIT,   'a new sender waits');
	like($got[2],  $ACCEPT, 'but not for a domain without greylisting');
	like($got[-1], $QUEUED, 'which is delivered');
	@got = $c->mail('vip@mixed.example', 'bob@example.com');
	like($got[1], $ACCEPT, 'nor where a rule says so');
	like($got[-1], $QUEUED, 'which is delivered');
	$c->quit;
}
unlike($pf->log, qr/warning:.*policy|4\.3\.5/i,
	'Postfix has no complaint about policyd')
	or diag join "\n", grep {/warning|4\.3\.5/} split /\n/, $pf->log;
is($d->stop, 0, 'exit status');
$pf->stop;
is(errors_of($pg), '', 'nor has PostgreSQL');
done_testing();
