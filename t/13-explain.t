#!/usr/bin/perl

# SPDX-License-Identifier: MIT
#
# policyctl explain: the same answer as the daemon's, and how it came about.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use File::Temp;
use JSON::PP;
use PgCluster;
use PolicydTest qw(block install_schema policyctl_path spew);
use Test::More;

my $pg  = PgCluster->new;
my $dir = File::Temp->newdir;
install_schema($pg);
my $db = $pg->dbh;
$db->do(q{INSERT INTO policyd.domain (name) VALUES ('example.com')});
$db->do(q{INSERT INTO policyd.address (address) VALUES ('bob@example.com')});
$db->do(q{INSERT INTO policyd.rule (priority, conditions, action, shadow)
    VALUES (10, '{"sender under bad.example"}', 'REJECT not you', false),
    (20, '{"client_address in 192.0.2.0/24"}', 'set relay yes', false),
    (30, '{}', 'DISCARD', true),
    (40, '{"sender = script@a.example"}', 'script hello', false)});
my $ini = spew("$dir/policyd.ini",
	sprintf qq{[database]\nconninfo = "%s"\n}, $pg->conninfo);

sub told {
	my (%attr) = @_;
	my $file = spew("$dir/request", block(sender => 'a@a.example',
		client_address => '192.0.2.1', %attr));
	my $out = qx('@{[policyctl_path()]}' -c $ini explain $file 2>&1);
	my $json = qx('@{[policyctl_path()]}' -c $ini --json explain $file 2>&1);
	return ($out, decode_json($json));
}

my ($text, $json) = told(recipient => 'al@example.com');
like($text, qr/^rule 1 +no: sender under bad\.example$/m,
	'the condition that failed');
like($text, qr/^rule 2 +holds: set relay yes$/m, 'a rule that sets something');
like($text, qr/^rule 3 +holds \(shadow.*DISCARD$/m, 'a shadow rule');
like($text, qr/^stage recipient +answers$/m, 'the stage that answers');
like($text, qr/^answer +action=550 5\.1\.1 User unknown$/m, 'the answer');
like($text, qr/held back for 5\.000 s/, 'and that it is held back');
is($json->{answer}, 'action=550 5.1.1 User unknown', 'for programs, too');
is_deeply([map { $_->{rule} // () } @{ $json->{steps} }], [1, 2, 3, 4],
	'every rule is told');

(undef, $json) = told(recipient => 'x@other.example');
is($json->{answer}, 'action=DUNNO', 'settings have their effect');
(undef, $json) = told(sender => 'a@x.bad.example');
is($json->{answer}, 'action=REJECT not you', 'a rule that answers');
is_deeply([map { $_->{rule} // () } @{ $json->{steps} }], [1],
	'ends the walk');
($text) = told(sender => 'script@a.example', recipient => 'bob@example.com');
like($text, qr/^script hello +would be called/m, 'a script is named');
like($text, qr/^greylist example\.net \(192\.0\.2\.0\/24\) script\@a\.example bob\@example\.com +waits$/m,
	'not called; greylisting is asked');
like($text, qr/^answer +action=DEFER_IF_PERMIT 4\.2\.0 /m, 'and answers');
is($db->selectrow_array('SELECT count(*) FROM policyd.greylist'), 0,
	'of which no row is left');

is(system("echo nonsense | '@{[policyctl_path()]}' -c $ini explain 2>$dir/err") >> 8,
	1, 'what is no request');
is(system("'@{[policyctl_path()]}' -c $ini explain a b 2>$dir/err") >> 8, 2,
	'too many arguments');
is($db->selectrow_array('SELECT count(*) FROM policyd.rule'), 4,
	'nothing was changed');

done_testing;
