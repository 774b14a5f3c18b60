#!/usr/bin/perl

# [lookup]: domains and addresses from a schema that is not ours, here one
# like PostfixAdmin's.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;

use PolicydTest qw(site soon);

my $pg = site(<<'SQL');
CREATE TABLE public.domain (
  domain text PRIMARY KEY, transport text, backupmx boolean DEFAULT false,
  active boolean DEFAULT true);
CREATE TABLE public.mailbox (
  username text PRIMARY KEY, password text, quota bigint DEFAULT 0,
  active boolean DEFAULT true);
CREATE TABLE public.alias (
  address text PRIMARY KEY, goto text, active boolean DEFAULT true);
INSERT INTO public.domain (domain, backupmx, active) VALUES
  ('example.com', false, true), ('Example.ORG', false, true),
  ('backup.example', true, true), ('off.example', false, false);
INSERT INTO public.mailbox (username, quota, active) VALUES
  ('bob@example.com', 0, true), ('Alice@Example.org', 0, true),
  ('off@example.com', 0, false), ('full@example.com', -1, true);
INSERT INTO public.alias (address, goto, active) VALUES
  ('info@example.com', 'bob@example.com', true),
  ('@example.org', 'alice@example.org', true),
  ('old@example.com', 'bob@example.com', false);
GRANT USAGE ON SCHEMA public TO policyd;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO policyd;
SQL

my %lookup = (
	domains => q{SELECT domain, active AS enabled,}
		. q{ CASE WHEN backupmx THEN 'any' ELSE 'listed' END AS recipients}
		. q{ FROM public.domain},
	addresses => q{SELECT username, active AS enabled,}
		. q{ CASE WHEN quota < 0 THEN '552 5.2.2 Mailbox full' END AS reply}
		. q{ FROM public.mailbox}
		. q{ UNION ALL SELECT address, active, NULL FROM public.alias}
		. q{ UNION ALL SELECT NULL, NULL, NULL},
);

my $d = PolicydTest->new(
	conninfo => $pg->conninfo(user => 'policyd'),
	ini      => { lookup => \%lookup }
)->start;

my $OK      = qr/^DUNNO$/;
my $UNKNOWN = qr/^550 5\.1\.1 /;
my $RELAY   = qr/^550 5\.7\.1 /;

sub judge {
	my ($recipient, $want, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	like($d->ask(recipient => $recipient) // 'no answer',
		$want, "$recipient: $name");
	return;
}

judge('bob@example.com',       $OK,      'a mailbox');
judge('bob+x@example.com',     $OK,      'with an extension');
judge('alice@example.org',     $OK,      'whatever its case');
judge('info@example.com',      $OK,      'an alias');
judge('anybody@example.org',   $OK,      'a catch-all');
judge('anybody@example.com',   $UNKNOWN, 'not listed');
judge('off@example.com',       $UNKNOWN, 'not active');
judge('old@example.com',       $UNKNOWN, 'an alias that is not active');
judge('full@example.com',      qr/^552 5\.2\.2 Mailbox full$/, 'a reply');
judge('who@backup.example',    $OK,      'recipients by name');
judge('who@off.example',       $RELAY,   'a domain that is not active');
judge('who@other.example',     $RELAY,   'a foreign domain');

# ---- changes, notified by the site itself ----

$pg->psql(q{INSERT INTO public.mailbox (username) VALUES ('new@example.com');
	NOTIFY policyd, 'address'});
soon { $d->ask(recipient => 'new@example.com') =~ $OK } 'a new mailbox', 2;
$pg->psql(q{DELETE FROM public.mailbox WHERE username = 'new@example.com';
	NOTIFY policyd, 'address:new@example.com'});
soon { $d->ask(recipient => 'new@example.com') =~ $UNKNOWN }
'a mailbox that has gone', 2;
$pg->psql(q{UPDATE public.domain SET active = true WHERE domain = 'off.example';
	NOTIFY policyd, 'domain'});
soon { $d->ask(recipient => 'who@off.example') =~ $UNKNOWN }
'a domain that is active now', 2;
$pg->psql(qq{NOTIFY policyd, '$_'})
	for '', ':', 'nonsense', 'nonsense:x', 'address:', 'domain:', 'alias:x@y',
	'address:not an address', 'x' x 4000;
$pg->psql(q{INSERT INTO public.mailbox (username) VALUES ('late@example.com');
	NOTIFY policyd, 'address'});
soon { $d->ask(recipient => 'late@example.com') =~ $OK }
'odd notifications do no harm', 2;

# ---- rows that no address can be made of ----

$pg->psql(q{INSERT INTO public.mailbox (username) VALUES
	(''), ('nobody'), ('a b@'), (repeat('x', 5000) || '@example.com'),
	('after@example.com');
	INSERT INTO public.domain (domain) VALUES (''), ('not a domain'),
	(repeat('x', 400)), ('after.example');
	NOTIFY policyd, 'address'; NOTIFY policyd, 'domain'});
soon { $d->ask(recipient => 'after@example.com') =~ $OK }
'rows that are no addresses do no harm to others', 2;
soon { $d->ask(recipient => 'who@after.example') =~ $UNKNOWN }
'rows that are no domains do no harm to others', 2;
judge('bob@example.com', $OK, 'as before');

# ---- a query that fails ----

{
	my $mark = $d->log_mark;
	$pg->psql(q{ALTER TABLE public.mailbox RENAME TO box;
		NOTIFY policyd, 'address'});
	soon { $d->log_since($mark) =~ /mailbox/ } 'a query that fails is logged',
		5;
	judge('bob@example.com', $OK,      'the last good state stays');
	judge('no@example.com',  $UNKNOWN, 'the last good state stays');
	my ($status, $said) = $d->run('-t');
	is($status, 1, 'policyd -t fails');
	like($said, qr/lookup.*addresses|addresses.*lookup/s, 'and says where');
	like($said, qr/mailbox/, 'and why');
	$pg->psql(q{ALTER TABLE public.box RENAME TO mailbox;
		INSERT INTO public.mailbox (username) VALUES ('back@example.com');
		NOTIFY policyd, 'address'});
	soon { $d->ask(recipient => 'back@example.com') =~ $OK }
	'it is read when it can be', 5;
}
{
	my ($status, $said) = $d->run('-t');
	is($status, 0, 'policyd -t is content') or diag $said;
	like(
		$said,
		qr/^\S+: \[lookup\] $_: warning: rows that make no sense are left out: [2-9], the first is ""$/m,
		"and tells which $_ are left out"
	) for qw(domains addresses);
	like($said, qr/^\S+: good\n\z/m, 'but is');

	$d->write_ini(lookup => {
		addresses => q{SELECT username, 1 / length(username) FROM mailbox} });
	($status, $said) = $d->run('-t');
	is($status, 1, 'a query that fails at one of its rows');
	like($said, qr/addresses: ERROR:  division by zero/, 'is named');
	$d->write_ini;
}
is($d->stop, 0, 'exit status');
done_testing();
