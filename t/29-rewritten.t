#!/usr/bin/perl

# SPDX-License-Identifier: MIT
#
# Tables that are written anew, dropped, renamed or locked while policyd reads
# them: what is in force is never empty, nor older than what was there.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use POSIX ();
use Test::More;

use PolicydTest qw(block policyctl_path site soon wait_for);

my $pg = site(<<'SQL');
INSERT INTO policyd.domain (name) VALUES ('example.com');
INSERT INTO policyd.address (address) VALUES ('bob@example.com');
CREATE SCHEMA site;
CREATE TABLE site.domain (name text);
CREATE TABLE site.mailbox (address text);
INSERT INTO site.domain VALUES ('example.com');
INSERT INTO site.mailbox VALUES ('bob@example.com');
CREATE MATERIALIZED VIEW site.picture AS SELECT 'bob@example.com' AS address;
GRANT USAGE ON SCHEMA site TO policyd;
ALTER DEFAULT PRIVILEGES IN SCHEMA site GRANT SELECT ON TABLES TO policyd;
GRANT SELECT ON ALL TABLES IN SCHEMA site TO policyd;
SQL

my $OK      = qr/^DUNNO$/;
my $UNKNOWN = qr/^550 5\.1\.1 /;

my %site = (
	domains   => 'SELECT name FROM site.domain',
	addresses => 'SELECT address FROM site.mailbox',
);

sub daemon {
	my (%lookup) = @_;
	return PolicydTest->new(
		conninfo => $pg->conninfo(user => 'policyd'),
		ini      => {
			database => { reconnect_max => '500ms' },
			lookup   => \%lookup
		}
	);
}

# ---- a read that waited for what another transaction did ----

my $writer = $pg->dbh;
my $refill = q{INSERT INTO site.mailbox VALUES ('bob@example.com')};

# The first read waits for these; with what it knew before, it finds nothing.
my @waits = (
	[ 'TRUNCATE and filled', \%site, 'TRUNCATE site.mailbox', $refill ],
	[ 'another table of that name', \%site,
		'ALTER TABLE site.mailbox RENAME TO old_mailbox',
		'CREATE TABLE site.mailbox (address text)', $refill,
		'DROP TABLE site.old_mailbox' ],
	[ 'a materialized view', { %site,
			addresses => 'SELECT address FROM site.picture' },
		'REFRESH MATERIALIZED VIEW site.picture' ],
	[ 'our own table written anew', {},
		'ALTER TABLE policyd.address SET UNLOGGED' ],
	[ 'TRUNCATE of our own', {}, 'TRUNCATE policyd.address',
		q{INSERT INTO policyd.address (address)
			VALUES ('bob@example.com')} ],
);
for my $case (@waits) {
	my ($name, $lookup, @sql) = @$case;
	my $d = daemon(%$lookup);

	$writer->begin_work;
	$writer->do($_) for @sql;
	$d->spawn;
	$pg->wait_for_lock;
	$writer->commit;
	soon { $d->log =~ /tables read/ } "$name: it is read", 20;
	like($d->ask(recipient => 'bob@example.com'), $OK, "$name: and it is there");
	is($d->stop, 0, "$name: exit status");
}
{
	# Two names change places while another table is waited for: the one that
	# is read then was empty before.
	my $d = daemon(%site);

	$pg->psql('CREATE TABLE site.next_mailbox (address text)');
	$writer->begin_work;
	$writer->do('LOCK TABLE site.domain');
	$d->spawn;
	$pg->wait_for_lock;
	$pg->psql($_)
		for q{INSERT INTO site.next_mailbox VALUES ('bob@example.com')},
		'BEGIN; ALTER TABLE site.mailbox RENAME TO last_mailbox;
		ALTER TABLE site.next_mailbox RENAME TO mailbox; COMMIT';
	$writer->rollback;
	soon { $d->log =~ /tables read/ } 'names change places: it is read', 20;
	like($d->ask(recipient => 'bob@example.com'), $OK, 'and it is there');
	is($d->stop, 0, 'exit status');
}
{
	# policyctl reads the same way.
	my $d = daemon(%site);
	my $request = "$d->{dir}/request";

	PolicydTest::spew($request, block(recipient => 'bob@example.com'));
	$writer->begin_work;
	$writer->do($_) for 'TRUNCATE site.mailbox', $refill;
	my $pid = open my $out, '-|';
	die "fork: $!" if !defined $pid;
	if ($pid == 0) {
		my @command =
			(policyctl_path(), '-c', $d->{inifile}, 'explain', $request);
		exec { $command[0] } @command or POSIX::_exit(127);
	}
	$pg->wait_for_lock;
	$writer->commit;
	my $said = do { local $/; readline $out };
	close $out;
	like($said, qr/\bDUNNO\b/, 'policyctl explain finds it as well');
	unlike($said, qr/550/, 'and refuses nothing');
}

done_testing();
