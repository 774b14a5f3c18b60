#!/usr/bin/perl

# Who may receive mail: relay, domains, addresses, aliases, domain aliases;
# and what is answered in the states around RCPT.

use strict;
use warnings;
use utf8;

use Encode qw(encode_utf8);
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;

use PolicydTest qw(session site soon);

my $pg = site(encode_utf8(<<'SQL'));
INSERT INTO policyd.domain (name, recipients) VALUES
  ('example.com', 'listed'),
  ('catch.example', 'listed'),
  ('any.example', 'any'),
  ('verify.example', 'verify'),
  ('bücher.example', 'listed'),
  ('xn--mller-kva.example', 'listed');
INSERT INTO policyd.domain (name, recipients, subdomains) VALUES
  ('sub.example', 'listed', true),
  ('anysub.example', 'any', true);
INSERT INTO policyd.domain (name, recipients, enabled) VALUES
  ('off.example', 'any', false);
INSERT INTO policyd.domain_alias (name, target) VALUES
  ('alias.example', 'example.com'),
  ('catchalias.example', 'catch.example'),
  ('anyalias.example', 'any.example'),
  ('subalias.example', 'a.b.sub.example'),
  ('anysubalias.example', 'deep.anysub.example'),
  ('offalias.example', 'off.example');
INSERT INTO policyd.address (address) VALUES
  ('bob@example.com'), ('alice@example.com'), ('Mixed.Case@Example.COM'),
  ('x+y@example.com'), ('@catch.example'), ('carol@catch.example'),
  ('user@bücher.example'), ('user@xn--mller-kva.example'),
  ('user@a.b.sub.example'), ('user@sub.example');
INSERT INTO policyd.address (address, enabled) VALUES
  ('disabled@example.com', false), ('disabled@catch.example', false),
  ('bob+blocked@example.com', false), ('disabled@any.example', false),
  ('disabled@verify.example', false);
INSERT INTO policyd.address (address, expires_at) VALUES
  ('expired@example.com', now() - interval '1 day'),
  ('expired@catch.example', now() - interval '1 second'),
  ('later@example.com', now() + interval '1 day');
INSERT INTO policyd.address (address, reply) VALUES
  ('moved@example.com', '550 5.1.6 Moved to moved@example.net'),
  ('closed@any.example', '552 5.2.2 Mailbox closed'),
  ('drop@example.com', 'DISCARD nobody reads this'),
  ('umlaut@example.com', '550 5.7.1 Schöne Grüße, 日本'),
  ('long@example.com', '550 5.7.1 ' || repeat('ä', 190));
INSERT INTO policyd.alias (address, destination) VALUES
  ('team@example.com', 'bob@example.com'),
  ('team@example.com', 'alice@example.com'),
  ('half@example.com', 'alice@example.com'),
  ('list@catch.example', 'carol@catch.example');
INSERT INTO policyd.alias (address, destination, enabled) VALUES
  ('half@example.com', 'bob@example.com', false),
  ('offalias@example.com', 'bob@example.com', false),
  ('offalias@catch.example', 'carol@catch.example', false);
INSERT INTO policyd.alias (address, destination, expires_at) VALUES
  ('oldalias@example.com', 'bob@example.com', now() - interval '1 hour');
SQL

my $d = PolicydTest->new(conninfo => $pg->conninfo(user => 'policyd'))->start;

my $OK      = 'DUNNO';
my $UNKNOWN = '550 5.1.1';
my $RELAY   = '550 5.7.1';
my $BAD     = '550 5.1.3';
my $TOO     = '452 4.5.3';

# The action, without its text if it is a refusal with one.
sub short {
	my $got = shift;
	return 'none' if !defined $got;
	return $1 if $got =~ /^(\d{3} \d\.\d+\.\d+) \S/;
	return $got;
}

sub judge {
	my ($recipient, $want, $name, @more) = @_;
	my $got = $d->ask(recipient => encode_utf8($recipient), @more);
	is(short($got), $want, encode_utf8("$recipient: $name"));
	return;
}

# Restart with other settings on top of the test's.
sub with {
	my %change = @_;
	$d->write_ini(%change);
	$d->restart;
	return;
}

# ---- not ours ----

judge('x@other.example', $RELAY, 'not local');
judge('x@com',           $RELAY, 'a top-level domain');
judge('x@sexample.com',  $RELAY, 'a name that only ends like ours');
judge('x@a.example.com', $RELAY, 'a subdomain');
judge('x@off.example',   $RELAY, 'a domain that is not enabled');
judge('x@offalias.example', $RELAY, 'an alias of one');
judge('user@subalias.example', $OK, 'an alias of a domain below a local one');
judge('nobody@subalias.example', $UNKNOWN, 'whose addresses are its own');
judge('x@anysubalias.example', $OK, 'an alias of one with every local part');
judge('x@other.example', $OK, 'not local, authenticated', sasl_username => 'u');
judge('no@example.com', $UNKNOWN, 'authentication makes no mailbox',
	sasl_username => 'u');
judge('x@[192.0.2.1]', $RELAY, 'an address literal');
judge('x@[IPv6:2001:db8::1]', $RELAY, 'an IPv6 literal');

# ---- listed ----

judge('bob@example.com',        $OK,      'listed');
judge('nobody@example.com',     $UNKNOWN, 'not listed');
judge('bo@example.com',         $UNKNOWN, 'a part of a name');
judge('bobb@example.com',       $UNKNOWN, 'more than a name');
judge('BOB@EXAMPLE.COM',        $OK,      'in capitals');
judge('mixed.case@example.com', $OK,      'a row in mixed case');
judge('bob@example.com.',       $OK,      'a trailing dot');
judge('disabled@example.com',   $UNKNOWN, 'not enabled');
judge('expired@example.com',    $UNKNOWN, 'expired');
judge('later@example.com',      $OK,      'expires later');
judge('bob@x@example.com', $UNKNOWN, 'the domain is after the last @');
judge('b@ob@any.example',  $OK,      'the domain is after the last @');
judge('bob%x@example.com', $UNKNOWN, 'the percent hack means nothing');
judge('"bob"@example.com', $UNKNOWN, 'quotes are part of the name here');

# ---- extensions ----

judge('bob+ext@example.com',       $OK,      'an extension');
judge('bob+a+b@example.com',       $OK,      'an extension with a delimiter');
judge('bob+@example.com',          $OK,      'an empty extension');
judge('Bob+Ext@Example.com',       $OK,      'an extension in mixed case');
judge('nobody+ext@example.com',    $UNKNOWN, 'an extension of nobody');
judge('+bob@example.com',          $UNKNOWN, 'nothing before the extension');
judge('bob-ext@example.com',       $UNKNOWN, 'another delimiter');
judge('x+y@example.com',           $OK,      'a row with an extension');
judge('x+z@example.com',           $UNKNOWN, 'which is no row without one');
judge('bob+blocked@example.com',   $UNKNOWN, 'a row that is not enabled');
judge('disabled+ext@example.com',  $UNKNOWN, 'an extension of a disabled row');
judge('team+ext@example.com',      $OK,      'an extension of an alias');

# ---- aliases ----

judge('team@example.com',     $OK,      'an alias');
judge('half@example.com',     $OK,      'an alias of which one row is good');
judge('offalias@example.com', $UNKNOWN, 'an alias that is not enabled');
judge('oldalias@example.com', $UNKNOWN, 'an alias that has expired');

# ---- catch-all ----

judge('carol@catch.example',        $OK,      'listed');
judge('anybody@catch.example',      $OK,      'the catch-all');
judge('any+body@catch.example',     $OK,      'the catch-all');
judge('list@catch.example',         $OK,      'an alias');
judge('disabled@catch.example',     $UNKNOWN, 'a disabled row is not revived');
judge('expired@catch.example',      $UNKNOWN, 'an expired row is not revived');
judge('offalias@catch.example',     $UNKNOWN, 'nor is an alias');

# ---- every local part, probed ones ----

judge('whoever@any.example',        $OK,      'every local part');
judge('disabled@any.example',       $UNKNOWN, 'but one that is not enabled');
judge('whoever@verify.example', 'reject_unverified_recipient',
	'left to the next hop');
judge('disabled@verify.example', $UNKNOWN, 'but not what we know better');

# ---- subdomains ----

judge('user@sub.example',           $OK,      'itself');
judge('user@a.b.sub.example',       $OK,      'below it, listed');
judge('user@c.sub.example',         $UNKNOWN, 'below it, not listed');
judge('user@xsub.example',          $RELAY,   'not below it');
judge('user@anysub.example',        $OK,      'itself');
judge('user@x.y.anysub.example',    $OK,      'below it');

# ---- names beyond ASCII ----

judge('user@bücher.example',        $OK,      'a U-label');
judge('user@BÜCHER.example',        $OK,      'a U-label in capitals');
judge('user@xn--bcher-kva.example', $OK,      'its A-label');
judge('user@XN--BCHER-KVA.Example', $OK,      'its A-label in capitals');
judge('user@müller.example',        $OK,      'the U-label of a row in ASCII');
judge('nobody@müller.example',      $UNKNOWN, 'not listed');

# ---- domain aliases ----

judge('bob@alias.example',          $OK,      'as in its target');
judge('bob+ext@alias.example',      $OK,      'with an extension');
judge('team@alias.example',         $OK,      'an alias');
judge('nobody@alias.example',       $UNKNOWN, 'nobody there either');
judge('disabled@alias.example',     $UNKNOWN, 'not enabled there either');
judge('whoever@catchalias.example', $OK,      'the catch-all of its target');
judge('disabled@catchalias.example', $UNKNOWN, 'no revival there either');
judge('whoever@anyalias.example',   $OK,      'every local part');

# ---- replies of rows ----

is($d->ask(recipient => 'moved@example.com'),
	'550 5.1.6 Moved to moved@example.net', 'the reply of a row');
is($d->ask(recipient => 'moved@alias.example'),
	'550 5.1.6 Moved to moved@example.net', 'through a domain alias');
is($d->ask(recipient => 'moved+x@example.com'),
	'550 5.1.6 Moved to moved@example.net', 'with an extension');
is($d->ask(recipient => 'closed@any.example'),
	'552 5.2.2 Mailbox closed', 'where every local part is good');
is($d->ask(recipient => 'drop@example.com'),
	'DISCARD nobody reads this', 'a reply that is no refusal');

is($d->ask(recipient => 'umlaut@example.com'),
	encode_utf8('550 5.7.1 Schöne Grüße, 日本'), 'a reply beyond ASCII');
for my $n (0, 1, 50, 51, 100, 101, 200, 400) {
	my $to   = 'long' . ($n ? '+' . 'e' x $n : '') . '@example.com';
	my $got  = $d->ask(recipient => $to) // 'none';
	my $copy = $got;
	my $line = "550 5.7.1 <$to>: Recipient address rejected: "
		. substr($got, 10);
	like($got, qr/^550 5\.7\.1 \S/, "a long reply to a long address ($n)");
	cmp_ok(length $line, '<=', 510, 'fits into a reply of Postfix')
		if $n < 400;
	ok(utf8::decode($copy), 'and is not cut within a character');
}

# ---- no usable address ----

judge($_, $BAD, 'no usable address')
	for '', '@example.com', ' bob@example.com', 'bob@example.com ',
	' @example.com', 'bob', 'bob@', 'bob@.', '@', ' ';
judge('@other.example', $BAD, 'wherever it is');
like(short($d->ask(recipient => 'bob@' . 'x' x 1900)),
	qr/^550 5\.(?:1\.3|7\.1)$/, 'a domain longer than any');
judge('x' x 1900 . '@example.com', $UNKNOWN, 'a local part longer than any');

# ---- VRFY and EXPN, switched off ----

my %vrfy = (protocol_state => 'VRFY', instance => '', sender => '');
my %expn = (%vrfy, protocol_state => 'EXPN');

is(short($d->ask(%vrfy, recipient => 'bob@example.com')),
	'502 5.5.1', 'VRFY is switched off');
is(short($d->ask(%expn, recipient => 'team@example.com')),
	'502 5.7.0', 'EXPN is switched off');

# ---- other states ----

for my $state (qw(CONNECT HELO EHLO MAIL ETRN SOMETHING)) {
	is(
		$d->ask(
			protocol_state => $state,
			recipient      => '',
			instance       => ''
		),
		$OK,
		"$state"
	);
}
is($d->ask(protocol_state => $_, recipient => '', recipient_count => 3),
	$OK, "$_ with three recipients")
	for qw(DATA END-OF-MESSAGE);
is($d->ask(protocol_state => $_, recipient => '', recipient_count => 100),
	$OK, "$_ with as many as there may be")
	for qw(DATA END-OF-MESSAGE);
is(
	short(
		$d->ask(
			protocol_state => $_,
			recipient      => '',
			recipient_count => 101
		)
	),
	$TOO,
	"$_ with more"
) for qw(DATA END-OF-MESSAGE);

# ---- attributes that are missing ----

{
	my $mark = $d->log_mark;
	is($d->ask(recipient => undef), $OK, 'RCPT without recipient') for 1 .. 10;
	is($d->ask(protocol_state => undef), $OK, 'no protocol_state');
	is(
		$d->ask(
			protocol_state  => 'DATA',
			recipient       => '',
			recipient_count => undef
		),
		$OK,
		'DATA without recipient_count'
	);
	my @lines = grep { !/decision/ } split /\n/, $d->log_since($mark);
	ok(@lines >= 1 && @lines <= 3, 'a log line, but not for each')
		or diag $d->log_since($mark);
}

# ---- a row whose time comes ----

$pg->psql(q{INSERT INTO policyd.address (address, expires_at) VALUES
	('soon@example.com', now() + interval '1500 ms')});
soon { $d->ask(recipient => 'soon@example.com') eq $OK }
'a row that expires soon is good', 1;
soon { short($d->ask(recipient => 'soon@example.com')) eq $UNKNOWN }
'until it has expired', 5;

# ---- settings ----

with(
	rcpt => {
		relay               => 'no',
		recipient_delimiter => '-_',
		fold_local_part     => 'no'
	},
	lookup => { vrfy => 'authenticated', expn => 'authenticated' },
	reply  => {
		unknown_user => '550 5.1.1 No {recipient} in {domain}, {sender}',
		relay_denied => '553 5.7.1 Not for us, {client}',
		bad_address  => '501 5.1.3 What is that?',
	}
);
judge('x@other.example', '553 5.7.1', 'relay = no', sasl_username => 'u');
judge('bob-ext@example.com', $OK,      'one delimiter');
judge('bob_ext@example.com', $OK,      'another delimiter');
judge('bob+ext@example.com', $UNKNOWN, 'not a delimiter now');
judge('bob@example.com',     $OK,      'case of local parts');
judge('Bob@example.com',     $UNKNOWN, 'case of local parts');
judge('bob@EXAMPLE.com',     $OK,      'but never of domains');
judge('',                    '501 5.1.3', 'a text of our own');
is($d->ask(recipient => 'no@example.com', sender => 's@example.net'),
	'550 5.1.1 No no@example.com in example.com, s@example.net',
	'placeholders in a reply');
like($d->ask(recipient => 'x@other.example'),
	qr/^553 5\.7\.1 Not for us, \S*(?:192\.0\.2\.10|mail\.example\.net)/,
	'placeholder {client}');
{
	my $got = $d->ask(
		recipient => "n\x01\x7f\xff\t\r\@example.com",
		sender    => "\xc3\x28\xe2\x82\@example.net"
	);
	like($got, qr/^550 5\.1\.1 No /, 'bytes that are no text');
	unlike($got, qr/[\x00-\x1f\x7f]/, 'do not reach the wire: controls');
	ok(utf8::decode($got), 'do not reach the wire: no UTF-8');
	$got = $d->ask(recipient => 'n' x 1900 . '@example.com', sender => '');
	cmp_ok(length $got, '<', 500, 'a long recipient makes no endless reply');
	$got = $d->ask(
		recipient => 'n' x 60 . '@example.com',
		sender    => "\xc3\xa4" x 900
	);
	my $line = '550 5.1.1 <' . 'n' x 60
		. '@example.com>: Recipient address rejected: '
		. substr $got, 10;
	cmp_ok(length $line, '<=', 510, 'the whole reply of Postfix fits');
	ok(utf8::decode($got), 'and is not cut within a character');
}
is(short($d->ask(%vrfy, recipient => 'bob@example.com')),
	'502 5.5.1', 'VRFY for nobody else');
is($d->ask(%vrfy, recipient => 'bob@example.com', sasl_username => 'u'),
	$OK, 'VRFY for who has authenticated');
is(
	short(
		$d->ask(%expn, recipient => 'team@example.com', sasl_username => 'u')
	),
	'250 2.1.5',
	'EXPN for who has authenticated'
);

with(
	rcpt => { relay => 'yes', errors_total => 2 },
	lookup => { vrfy => 'yes', expn => 'yes' }
);
judge('x@other.example', $OK,      'relay = yes');
judge('no@example.com',  $UNKNOWN, 'which makes no mailbox');
{
	my %s = session(instance => '');
	is($d->ask(%vrfy, %s, recipient => 'bob@example.com'), $OK, 'VRFY');
	is(short($d->ask(%vrfy, %s, recipient => 'no@example.com')),
		$UNKNOWN, 'VRFY of nobody')
		for 1 .. 5;
	is(short($d->ask(%vrfy, %s, recipient => '')), $BAD, 'VRFY of nothing');
	is($d->ask(%s, instance => '1.2.3.4', recipient => 'bob@example.com'),
		$OK, 'which is no error of the session');

	my $got = $d->ask(%expn, %s, recipient => 'team@example.com');
	like($got, qr/^250 2\.1\.5 /,       'EXPN');
	like($got, qr/\bbob\@example\.com/, 'one destination');
	like($got, qr/\balice\@example\.com/, 'the other');
	$got = $d->ask(%expn, %s, recipient => 'half@example.com');
	unlike($got, qr/\bbob\@/, 'not one that is not enabled');
	is(short($d->ask(%expn, %s, recipient => 'no@example.com')),
		$UNKNOWN, 'EXPN of nobody');
}

is($d->stop, 0, 'exit status');
done_testing();
