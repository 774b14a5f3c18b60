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
use PolicydTest qw(block install_schema policyctl_path slurp spew);
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

# ---- greylisting ----

# Both names of a client may be spared: that is no more than one of them.
$db->do(q{INSERT INTO policyd.client (client, allowed_at) VALUES
    ('example.net', now()), ('192.0.2.0/24', now())});
($text) = told(recipient => 'bob@example.com');
like($text, qr/^greylist .* bob\@example\.com +its client is not greylisted$/m,
	'a client that is allowed by name and by network');

# ---- what it ends with ----

# With this on standard input, or in this file: (status, output, complaints).
sub ended {
	my ($input, @more) = @_;
	my $in = spew("$dir/input", $input);
	my $out = qx('@{[policyctl_path()]}' -c $ini @more <$in 2>$dir/err);
	return ($? >> 8, $out, slurp("$dir/err"));
}

my $good = block(recipient => 'bob@example.com');
{
	my ($status, $out, $err) = ended($good, 'explain');
	is($status, 0, 'a request that is judged');
	is($err, '', 'says nothing else');
	($status) = ended("\n\n" . $good =~ s/\n\n\z//r, 'explain');
	is($status, 0, 'empty lines before it, and none behind');

	$db->do('REVOKE INSERT ON policyd.greylist FROM policyd');
	$db->do(q{DELETE FROM policyd.client});
	my $as = spew("$dir/as.ini", sprintf qq{[database]\nconninfo = "%s"\n},
		$pg->conninfo(user => 'policyd'));
	($status, $out, $err) = ended($good, '-c', $as, 'explain');
	is($status, 1, 'greylisting that cannot be asked');
	like($out, qr/^greylist .*cannot be asked/m, 'is told');
	like($err, qr/permission denied/, 'with the reason');
	$db->do('GRANT INSERT ON policyd.greylist TO policyd');
}
for (
	[ 'nonsense',                     qr/no request: / ],
	[ '',                             qr/no request: it is empty/ ],
	[ "\n\n",                         qr/no request: it is empty/ ],
	[ $good . $good,                  qr/no request: there are several/ ],
	[ "$good\n$good",                 qr/no request: there are several/ ],
	[ 'a=' . 'b' x 70_000,            qr/no request: .*too long/ ],
	[ "a=b\n" x 20_000,               qr/no request: .*too (?:long|many)/ ],
) {
	my ($input, $want) = @$_;
	my ($status, $out, $err) = ended($input, 'explain');
	my $name = substr($input =~ s/\n/\\n/gr, 0, 20);
	is($status, 1, "no one request: $name");
	like($err, $want, 'says why');
	is($out, '', 'and no more');
}
for (
	[ 'request',        'no policy request: $' ],
	[ 'protocol_state', 'an attribute is missing: protocol_state$' ],
	[ 'sender',         'an attribute is missing: sender$' ],
) {
	my ($lacks, $why) = @$_;
	my $input = $good =~ s/^\Q$lacks\E=.*\n//mr;
	my ($status, $out, $err) = ended($input, 'explain');
	is($status, 1, "a request without $lacks");
	is($out, "answer  action=DUNNO\n", 'is let pass');
	like($err, qr/$why/m, 'and that is said');
	($status, $out, $err) = ended($input, '--json', 'explain');
	is($status, 1, 'for programs too');
	my $got = decode_json($out);
	is($got->{answer}, 'action=DUNNO', 'the answer');
	is_deeply([ map { $_->{which} } @{ $got->{steps} } ],
		[ $lacks eq 'request' ? '' : $lacks ], 'and why');
}
{
	my ($status, $out, $err) = ended('', 'explain', $dir);
	is($status, 1, 'a folder');
	like($err, qr/\Q$dir\E: Is a directory/, 'is no file');
	is($out, '', 'and nothing else is said');
	($status, $out, $err) = ended('', 'explain', "$dir/none");
	is($status, 1, 'a file that there is not');
	like($err, qr/none: No such file/, 'says so');
}

is(system("'@{[policyctl_path()]}' -c $ini explain a b 2>$dir/err") >> 8, 2,
	'too many arguments');
is($db->selectrow_array('SELECT count(*) FROM policyd.rule'), 4,
	'nothing was changed');

done_testing;
