#!/usr/bin/perl

# SPDX-License-Identifier: MIT
#
# policyctl greylist and client: who waits, who is known, and to let them pass.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use File::Temp;
use JSON::PP;
use PgCluster;
use PolicydTest qw(install_schema policyctl_path slurp spew wait_for);
use Test::More;

my $pg  = install_schema(PgCluster->new);
my $dir = File::Temp->newdir;
my $db  = $pg->dbh;
my $ini = spew("$dir/policyd.ini",
	sprintf qq{[database]\nconninfo = "%s"\n}, $pg->conninfo);

# Exit status, standard output and standard error of a command.
sub policyctl {
	my @args = @_;
	my $pid  = fork // die $!;
	if ($pid == 0) {
		open STDOUT, '>', "$dir/out";
		open STDERR, '>', "$dir/err";
		exec policyctl_path(), @args;
	}
	waitpid $pid, 0;
	return ($? & 127 ? "signal $?" : $? >> 8, slurp("$dir/out"),
		slurp("$dir/err"));
}

# A command must give exactly this.
sub gives {
	my ($command, $status, $out, $err) = @_;
	my @got = policyctl('-c', $ini,
		ref $command ? @$command : split ' ', $command);
	my $name = ref $command ? join ' ', map { "'$_'" } @$command : $command;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($got[0], $status, "$name: exit status");
	ref $out ? like($got[1], $out, '... output') : is($got[1], $out, '... output');
	ref $err ? like($got[2], $err, '... complaint')
		: is($got[2], $err, '... complaint');
	return;
}

sub json {
	my ($status, $out, $err) = policyctl('-c', $ini, '--json', @_);
	is("$status$err", 0, "--json @_");
	return decode_json($out);
}

# The keys of a list, a line each.
sub keys_of {
	return join "\n", map { "$_->{client} $_->{sender} $_->{recipient}" }
		@{ json('greylist', 'list', @_) };
}

# As greylist_see would call it: client, network, sender, recipient.
sub see {
	my ($client, $network, $sender, $recipient) = @_;
	return $db->selectrow_hashref('SELECT * FROM policyd.greylist_see(
	    ARRAY[?], ARRAY[?], ARRAY[?], ARRAY[?], ARRAY[1], 60, 86400, 3024000,
	    1)', undef, $client, $network, $sender, $recipient);
}

# ---- what is there ----

$db->do(<<'SQL');
INSERT INTO policyd.greylist (client, sender, recipient, first_seen, last_seen,
    passed_at, attempts) VALUES
('example.net', 'ann@example.net', 'bob@example.com',
    now() - interval '2 min', now() - interval '1 min', NULL, 2),
('example.net', '', 'bob@example.com',
    now() - interval '3 min', now() - interval '3 min', NULL, 1),
('example.net', 'news-#@lists.example.net', 'al@example.com',
    now() - interval '9 days', now() - interval '2 days',
    now() - interval '9 days', 3),
('192.0.2.0/24', 'x@a.example', 'bob@example.com',
    now() - interval '2 days', now() - interval '2 days', NULL, 1),
('2001:db8::/64', 'x@a.example', 'al@example.org',
    now() - interval '99 days', now() - interval '98 days',
    now() - interval '98 days', 2);
SQL

gives('greylist list limit=3', 0, qr/\A
	client\ +sender\ +recipient\ +state\ +first_seen\ +last_seen\ +attempts\n
	example.net\ +ann\@example.net\ +bob\@example.com\ +waiting\ .*\ \ 2\n
	example.net\ +<>\ +bob\@example.com\ +waiting\ .*\ \ 1\n
	(?:.*)\n\z/x,
	"policyctl: there are more than these 3\n"
	. "hint: limit=N says how many, limit=0 is all.\n");
gives('greylist list limit=5', 0, qr/\A(?:.*\n){6}\z/, '');
gives('greylist list limit=0', 0, qr/\A(?:.*\n){6}\z/, '');
is_deeply([sort map { "$_->{state} $_->{client}" } @{ json(qw(greylist list)) }],
	['old 192.0.2.0/24', 'old 2001:db8::/64', 'passed example.net',
	'waiting example.net', 'waiting example.net'], 'states');
is_deeply([sort keys %{ json(qw(greylist list))->[0] }], [sort
	qw(client sender recipient state first_seen last_seen passed_at attempts)],
	'columns, for programs');

is(keys_of(qw(state=waiting recipient=Bob@Example.COM)),
	"example.net ann\@example.net bob\@example.com\n"
	. 'example.net  bob@example.com', 'what is waiting for bob');
is(keys_of('state=passed'),
	'example.net news-#@lists.example.net al@example.com', 'what has passed');
is(keys_of('mail.Example.NET', 'state=passed'),
	'example.net news-#@lists.example.net al@example.com',
	'a client by the name of its host');
is(keys_of('192.0.2.77'), '192.0.2.0/24 x@a.example bob@example.com',
	'... by its address');
is(keys_of('192.0.0.0/20'), '192.0.2.0/24 x@a.example bob@example.com',
	'... as a part of a network');
is(keys_of('2001:db8::17'), '2001:db8::/64 x@a.example al@example.org',
	'... by an IPv6 address');
is(keys_of('sender=news-20261122@lists.example.net'),
	'example.net news-#@lists.example.net al@example.com', 'a sender, folded');
is(keys_of('sender=news-#@lists.example.net'),
	'example.net news-#@lists.example.net al@example.com', '... as it is there');
is(keys_of('sender=<>'), 'example.net  bob@example.com', 'the null sender');
is(keys_of('sender=@Example.net'),
	'example.net ann@example.net bob@example.com', 'a domain of senders');
is(keys_of('recipient=@example.org'),
	'2001:db8::/64 x@a.example al@example.org', '... of recipients');
is(keys_of(qw(attempts=3 passed_at=)), '', 'columns');
is(keys_of('attempts=3'),
	'example.net news-#@lists.example.net al@example.com', '... one');
gives('greylist list state=gone', 2, '',
	"policyctl: \"gone\" is no state: there are waiting, passed, old\n");
gives('greylist list limit=ten', 2, '', qr/^policyctl: "ten" is no limit/);
gives('greylist list attempts=x', 1, '', qr/integer: "x"\nhint/);
gives('greylist list nowhere.example', 0, qr/\Aclient .*\n\z/, '');
gives('greylist', 2, '', qr/say greylist list, .* greylist forget$/);

{
	# What comes from a stranger does nothing to a terminal.
	$db->do("INSERT INTO policyd.greylist (client, sender, recipient)
	    VALUES ('e.example', 'x', E'\e[2J\x{9b}\@e.example')");
	gives('greylist list e.example', 0, qr/ \?\[2J\?\@e\.example /, '');
	$db->do("DELETE FROM policyd.greylist WHERE client = 'e.example'");
}

# ---- release ----

gives('greylist release example.net ann@example.net', 2, '',
	qr/^policyctl: recipient is missing\nusage: .* CLIENT SENDER RECIPIENT$/);
is(see('example.net', '198.51.100.0/24', 'ben@example.net',
	'bob@example.com')->{passed_at}, undef, 'a new key waits');
gives('greylist release mail.example.net Ben@Example.net Bob@example.com', 0,
	"example.net ben\@example.net bob\@example.com released: "
	. "its next attempt passes\n", '');
ok(defined see('example.net', '198.51.100.0/24', 'ben@example.net',
	'bob@example.com')->{passed_at}, 'once it is released, it passes');
gives('greylist release example.net ben@example.net bob@example.com', 1, '',
	"policyctl: no key example.net ben\@example.net bob\@example.com waits\n"
	. "hint: policyctl greylist list state=waiting recipient=ADDRESS shows "
	. "who waits.\n");
gives(['greylist', 'release', 'example.net', '<>', 'bob@example.com'], 0,
	qr/^example\.net <> bob\@example\.com released/, '');
is_deeply(json(qw(greylist release 192.0.2.9 x@a.example bob@example.com)),
	{ released => 1 }, 'for programs');
is($db->selectrow_array(q{SELECT last_seen = passed_at FROM policyd.greylist
    WHERE client = '192.0.2.0/24'}), 1, 'even one that was too old');

# ---- allow ----

gives('greylist allow', 2, '',
	qr/^policyctl: client is missing\nusage: .* allow CLIENT \[REASON\]$/);
gives(['greylist', 'allow', 'mx1.big.example', 'many hosts'], 0,
	"client big.example allowed\n", '');
gives('greylist allow 203.0.113.7', 0, "client 203.0.113.0/24 allowed\n", '');
gives('greylist allow 2001:db8:1:2:3::4', 0,
	"client 2001:db8:1:2::/64 allowed\n", '');
gives('greylist allow 198.18.0.0/15 wide', 0,
	"client 198.18.0.0/15 allowed, as 512 networks of /24\n", '');
is($db->selectrow_array(q{SELECT count(*) FROM policyd.client
    WHERE reason = 'wide' AND client::cidr << '198.18.0.0/15'
    AND masklen(client::cidr) = 24}), 512, '... all of them');
is_deeply(json(qw(greylist allow BIG.example)),
	{ allowed => 1, clients => ['big.example'] }, 'for programs');
is($db->selectrow_array(q{SELECT reason FROM policyd.client
    WHERE client = 'big.example'}), undef, 'the last reason counts');
for (['10.0.0.0/8', 'more than 4096 networks'], ['192.0.2.1/24', ''],
	['co.uk', 'no host'], ['unknown', 'no host'], ['', 'no host'],
	['dsl-192-0-2-7.pool.example', 'by its network'], ['1.2.3', '']) {
	gives(['greylist', 'allow', $_->[0]], 1, '',
		qr/^policyctl: "\Q$_->[0]\E": .*\Q$_->[1]\E.*\nhint: Write a domain/);
}
is(see('big.example', '198.51.100.0/24', 'c@big.example',
	'bob@example.com')->{sender}, undef, 'who is allowed is not greylisted');

# ---- clients ----

$db->do(<<'SQL');
INSERT INTO policyd.client (client, passes, last_seen) VALUES
('proven.example', 3, now()), ('seen.example', 0, now()),
('old.example', 9, now() - interval '99 days');
SQL
gives('client list state=allowed big.example', 0, qr/\A
	client\ +state\ +passes\ +last_seen\ +allowed_at\ +reason\n
	big.example\ +allowed\ +0\ .*\ -\n\z/x, '');
is(join(' ', map { "$_->{client}=$_->{state}" } grep { $_->{passes} ||
	$_->{state} eq 'seen' } @{ json(qw(client list)) }),
	'old.example=old proven.example=proven seen.example=seen',
	'states of clients');
is(@{ json('client', 'list', 'reason=wide', 'limit=0') }, 512, 'by their reason');
gives('client list limit=1', 0, qr/\A(?:.*\n){2}\z/, qr/more than these 1\n/);
gives('client add x', 2, '', qr/say client list$/);

# ---- forget ----

gives('greylist forget', 2, '', qr/^policyctl: client is missing\nusage: /);
gives('greylist forget mx.big.example', 0,
	"mx.big.example forgotten: 1 client, 0 keys\n", '');
is(see('big.example', '198.51.100.0/24', 'c@big.example',
	'bob@example.com')->{passed_at}, undef, 'it is greylisted again');
gives('greylist forget example.net ann@example.net nobody@example.com', 1, '',
	"policyctl: nothing is known of example.net ann\@example.net "
	. "nobody\@example.com\n");
gives('greylist forget example.net ann@example.net bob@example.com', 0,
	"example.net ann\@example.net bob\@example.com forgotten: 1 key\n", '');
gives(['greylist', 'forget', 'example.net', '<>'], 0,
	"example.net <> forgotten: 1 key\n", '');
$db->do(q{INSERT INTO policyd.client (client) VALUES ('example.net')});
gives('greylist forget example.net', 0,
	"example.net forgotten: 1 client, 2 keys\n", '');
gives('greylist forget example.net', 1, '',
	"policyctl: nothing is known of example.net\n");
is_deeply(json(qw(greylist forget 198.18.0.0/15)),
	{ forgotten => 512, clients => 512, keys => 0 }, 'for programs');

# ---- notices, roles and settings ----

{
	my $listener = $pg->dbh;
	$listener->do('LISTEN policyd');
	policyctl('-c', $ini, qw(greylist allow told.example));
	policyctl('-c', $ini, qw(greylist forget 192.0.2.1));
	my @told;
	wait_for {
		while (my $note = $listener->pg_notifies) { push @told, $note->[2] }
		@told >= 2;
	};
	is("@told", 'client:told.example '
		. 'greylist:192.0.2.0/24 x@a.example bob@example.com',
		'daemons are told');
}
{
	my @as = ('-d', $pg->conninfo(user => 'policyd_admin'), '-c', "$dir/none");
	my ($status, $out, $err) = policyctl(@as, qw(greylist allow 192.0.2.1));
	is("$status$err$out", "0client 192.0.2.0/24 allowed\n",
		'with -d, no configuration is needed');
	spew("$dir/other.ini", "[greylist]\nipv4_prefix = 32\npools = no\n");
	@as = ('-d', $pg->conninfo(user => 'policyd_admin'), '-c',
		"$dir/other.ini");
	(undef, $out) = policyctl(@as, qw(greylist allow 192.0.2.1));
	is($out, "client 192.0.2.1 allowed\n", '... but one that is there counts');
	($status, undef, $err) = policyctl(@as, qw(greylist allow a.example));
	like("$status$err", qr/^1policyctl: "a\.example": with pools = no, /,
		'without pools, no name is allowed');
	($status, $out) = policyctl('-d', $pg->conninfo(user => 'policyd'),
		'-c', "$dir/none", qw(greylist forget 192.0.2.1));
	is("$status$out", "0192.0.2.1 forgotten: 2 clients, 0 keys\n",
		'the daemon may do the same');
}

# ---- the list to start from ----

{
	my $file = PolicydTest::top() . '/sql/allowed-clients.sql';
	my $rows = sub { $db->selectrow_array("SELECT count(*), min(reason)
	    FROM policyd.client WHERE $_[0]") };
	my $ours = q(starts_with(reason, 'allowed-clients: ')
	    AND allowed_at IS NOT NULL);
	$db->do('TRUNCATE policyd.client');
	$db->do(q{INSERT INTO policyd.client (client, passes, allowed_at, reason)
	    VALUES ('paypal.com', 3, now(), 'mine'), ('github.com', 7, NULL, NULL),
	    ('other.example', 1, now(), 'allowed-clients are a list')});
	$pg->load($file);
	my ($count) = $rows->($ours);
	cmp_ok($count, '>', 10, 'a list of clients');
	is(($rows->(q{client = 'paypal.com'}))[1], 'mine',
		'it leaves an administrator his reason');
	is(($rows->("client = 'github.com' AND passes = 7 AND $ours"))[0], 1,
		'... and a client its passes');
	$db->do(q{INSERT INTO policyd.client (client, allowed_at, reason)
	    VALUES ('gone.example', now(), 'allowed-clients: code')});
	$db->do(q{DELETE FROM policyd.client WHERE client = 'me.com'});
	$pg->load($file);
	is(($rows->($ours))[0], $count, 'loaded again, it replaces its own');
	is(($rows->(q{client IN ('gone.example', 'other.example')}))[1],
		'allowed-clients are a list', '... and nobody else\'s');
	my $listed = join ' ', map { $_->{client} } @{ json(qw(client list)) };
	is(join(' ', map { @{ json('greylist', 'allow', $_)->{clients} } }
		split ' ', $listed), $listed, 'policyd calls each of them so');
}

done_testing;
