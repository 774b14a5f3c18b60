#!/usr/bin/perl

# SPDX-License-Identifier: MIT
#
# policyctl import: what real postgrey and sqlgrey servers have learnt, and what
# iRedAPD writes, is known here.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use File::Copy qw(copy);
use File::Temp;
use JSON::PP;
use PgCluster;
use PolicydTest qw(install_schema policyctl_path slurp spew wait_for);
use POSIX qw(WNOHANG);
use Test::More;

my $pg  = install_schema(PgCluster->new);
my $dir = File::Temp->newdir;
my $db  = $pg->dbh;
my $me  = getpwuid $>;
my $group = getgrgid((split ' ', $))[0]);
my $now = time;
my @servers;

use constant { HOUR => 3600, DAY => 86400 };

END {
	my $status = $?;
	kill 'KILL', @servers;
	$? = $status;
}

# Exit status, standard output and standard error of an import.
sub import_from {
	my @args = @_;
	my $pid  = fork // die $!;
	if ($pid == 0) {
		open STDOUT, '>', "$dir/out";
		open STDERR, '>', "$dir/err";
		exec policyctl_path(), '-d', $pg->conninfo(user => 'policyd_admin'),
			'-c', "$dir/policyd.ini", 'import', @args;
	}
	waitpid $pid, 0;
	return ($? & 127 ? "signal $?" : $? >> 8, slurp("$dir/out"),
		slurp("$dir/err"));
}

# What became of it: "keys 3+1 clients ... skipped ...", new and changed.
sub outcome {
	my ($status, $out, $err) = import_from('--json', @_);
	return "status $status: $err" if $status;
	my $r = decode_json($out);
	return join ', ', (map { my $w = $r->{$_};
		$w->{read} || $w->{added} || $w->{changed} || $w->{unchanged}
		? "$_ read $w->{read} new $w->{added} changed $w->{changed} as before "
		. $w->{unchanged} : () } qw(keys clients allowed)),
		map { "$_->{count} $_->{what} $_->{why}" } @{ $r->{skipped} };
}

# The rows of greylist: key, state, seconds ago first and last seen.
sub keys_there {
	return join "\n", map { join ' ', map { $_ // '' } @$_ }
		@{ $db->selectall_arrayref(q{SELECT client, sender, recipient,
	    CASE WHEN passed_at IS NULL THEN 'waits' ELSE 'passed' END,
	    ? - round(date_part('epoch', first_seen)),
	    ? - round(date_part('epoch', last_seen)), attempts
	    FROM policyd.greylist ORDER BY client, sender, recipient}, undef, $now,
		$now) };
}

sub clients_there {
	return join "\n", map { join ' ', map { $_ // '-' } @$_ }
		@{ $db->selectall_arrayref(q{SELECT client, passes,
	    allowed_at IS NOT NULL, reason FROM policyd.client ORDER BY client}) };
}

sub forget_all { $db->do('TRUNCATE policyd.greylist, policyd.client') }

# How many seconds a key has still to wait, as the daemon would ask; 0: none.
sub waits {
	my ($client, $network, $sender, $recipient, $auto_allow_after) = @_;
	my $row = $db->selectrow_hashref('SELECT * FROM policyd.greylist_see(
	    ARRAY[?], ARRAY[?], ARRAY[?], ARRAY[?], ARRAY[1], 60, 86400, 3024000,
	    ?)', undef, $client, $network, $sender, $recipient,
		$auto_allow_after);
	return 0 if !defined $row->{sender} || defined $row->{passed_at};
	return int($row->{first_seen} + 60 - $row->{clock});
}

# A server that ends with us, once its socket is there.
sub server {
	my ($socket, @command) = @_;
	my $pid = fork // die $!;
	if ($pid == 0) {
		open STDIN,  '<', '/dev/null';
		open STDOUT, '>>', "$dir/server.log";
		open STDERR, '>&', \*STDOUT;
		exec qw(setpriv --pdeathsig KILL --), @command;
	}
	push @servers, $pid;
	wait_for { PolicydTest::Conn->new("unix:$socket") } 30
		or die "@command does not start: " . slurp("$dir/server.log");
	return $pid;
}

# A TERM that comes just before their select() is not seen until the next one.
sub stop {
	my ($pid, $signal) = @_;
	for my $try (1 .. 10) {
		kill $signal, $pid;
		last if wait_for { waitpid($pid, WNOHANG) == $pid } 2;
		die "process $pid does not end\n" if $try == 10;
	}
	@servers = grep { $_ != $pid } @servers;
	return;
}

spew("$dir/policyd.ini", "[greylist]\n");

# ---- usage ----

is((import_from('postgrey', 'a', 'b'))[0], 2, 'too many arguments');
is((import_from('sqlgrey'))[0], 2, 'too few');
is((import_from('bind', 'x'))[0], 2, 'a program that we do not know');
like((import_from('postgrey', "$dir/none"))[2],
	qr{^policyctl: \Q$dir\E/none: No such file}, 'no folder');
like((import_from('postgrey', "$dir"))[2],
	qr{^policyctl: there is no postgrey\.db in .*\nhint: }, 'none of its');
like((import_from('postgrey', "$dir/policyd.ini"))[2],
	qr{^policyctl: .*policyd\.ini: Invalid arg}, 'no database');
like((import_from('sqlgrey', "host=$dir"))[2],
	qr/^policyctl: connection to .* failed.*\nhint: The arg/, 'no server');
like((import_from('iredapd', $pg->conninfo))[2],
	qr/^policyctl: relation "greylisting_tracking" does not.*\nhint: The arg/,
	'a database that is not theirs');
{
	my $pid = fork // die $!;
	if ($pid == 0) {
		open STDERR, '>', "$dir/err";
		exec policyctl_path(), '--dry-run', qw(domain list);
	}
	waitpid $pid, 0;
	is($? >> 8, 2, '--dry-run where it would not be heeded');
}

# ---- postgrey ----

sub postgrey_tests {
	my $home = "$dir/postgrey";
	my $pid;
	mkdir $home;
	# A request at some time; with policy_test_time, it is that.
	my $ask = sub {
		my ($ago, $address, $name, $sender, $recipient) = @_;
		return PolicydTest::Conn->new("unix:$home/socket")->ask(
			client_address => $address, client_name => $name,
			sender => $sender, recipient => $recipient,
			policy_test_time => $now - $ago);
	};
	my $start = sub {
		unlink "$home/socket";
		return server("$home/socket", '/usr/sbin/postgrey',
			"--unix=$home/socket", "--dbdir=$home", "--user=$me",
			"--group=$group", '--whitelist-clients=/dev/null',
			'--whitelist-recipients=/dev/null', @_);
	};

	$pid = $start->();
	for my $ago (9 * HOUR, 9 * HOUR - 400, HOUR) {
		$ask->($ago, '192.0.2.10', 'mail.example.net', 'Ann@Example.net',
			'Bob@example.com');
	}
	like($ask->($_, '192.0.2.10', 'mail.example.net', 'n-4711-x+y@example.net',
		'bob@example.com'), qr/^(?:DEFER|PREPEND)/, 'postgrey answers')
		for 5 * HOUR, 5 * HOUR - 301;
	$ask->($_, '203.0.113.5', 'unknown', '', 'bob@example.com')
		for 2 * HOUR, 2 * HOUR - 299, 2 * HOUR - 600;
	$ask->(600, '198.51.100.3', 'unknown', 'a/b@w.example', 'c/d@example.com');
	$ask->(600, '2001:db8:0:5::17', 'unknown', 'x@six.example',
		'bob@example.com');
	$ask->($_, '192.0.2.99', 'unknown', 'old@old.example', 'bob@example.com')
		for 99 * DAY, 98 * DAY;
	$ask->(3 * DAY, '192.0.2.99', 'unknown', 'once@old.example',
		'bob@example.com');

	my $expected = join ', ',
		'keys read 7 new 5 changed 0 as before 0',
		'clients read 3 new 2 changed 0 as before 0', '2 keys too old',
		'1 clients too old';
	is(outcome('--dry-run', 'postgrey', $home), $expected,
		'a dry run, while it runs');
	is(keys_there() . clients_there(), '', '... changes nothing');
	my ($status, $out, $err) = import_from('--dry-run', 'postgrey', $home);
	like($out, qr/\A +read +skipped +new +changed +as before
keys +7 +2 +5 +0 +0
clients +3 +1 +2 +0 +0
allowed +0 +0 +0 +0 +0
skipped: 2 keys too old
skipped: 1 clients too old
nothing is changed: this was a dry run\n\z/, '... and says what it would do');
	like($err, qr/^policyctl: postgrey is running: .*\nhint: Import again/,
		'... but not what is still to come');

	stop($pid, 'KILL');
	mkdir "$dir/untouched";
	my @files = glob "$home/*";
	my $before = join ' ', map { join ',', $_, (stat)[1, 7, 9] } @files;
	my $plain = -s "$home/postgrey.db";
	is(outcome('postgrey', $home), $expected, 'after a crash');
	is(join(' ', map { join ',', $_, (stat)[1, 7, 9] } glob "$home/*"), $before,
		'... nothing of its own is touched');
	is(keys_there(), join("\n",
		'192.0.2.0/24 ann@example.net bob@example.com passed 32400 3600 2',
		'192.0.2.0/24 n-#-x@example.net bob@example.com passed 18000 17699 2',
		'198.51.100.0/24 a/b@w.example c/d@example.com waits 600 600 1',
		'2001:db8:0:5::/64 x@six.example bob@example.com waits 600 600 1',
		'203.0.113.0/24  bob@example.com passed 7200 6600 2'),
		'the keys, folded as ours');
	is(clients_there(), "192.0.2.0/24 2 0 -\n203.0.113.0/24 1 0 -",
		'the clients that have shown that they retry');
	is(outcome('postgrey', $home), join(', ',
		'keys read 7 new 0 changed 0 as before 5',
		'clients read 3 new 0 changed 0 as before 2', '2 keys too old',
		'1 clients too old'), 'a second time, nothing changes');

	is(waits('192.0.2.0/24', '192.0.2.0/24', 'ann@example.net',
		'bob@example.com', 0), 0, 'a known key passes');
	is(waits('example.net', '192.0.2.0/24', 'n-#-x@example.net',
		'bob@example.com', 0), 0, '... and from a host with a name');
	cmp_ok(waits('192.0.2.0/24', '192.0.2.0/24', 'new@example.net',
		'bob@example.com', 0), '>', 50, '... an unknown one waits');
	is(waits('example.net', '192.0.2.0/24', 'new@example.net',
		'bob@example.com', 1), 0, 'but not if its client is known');
	is(waits('198.51.100.0/24', '198.51.100.0/24', 'a/b@w.example',
		'c/d@example.com', 1), 0, 'who waited need not wait again');

	# It goes on, and what is here has gone on, too.
	$pid = $start->();
	$ask->(60, '203.0.113.5', 'unknown', '', 'bob@example.com');
	stop($pid, 'TERM');
	$db->do(q{UPDATE policyd.greylist SET first_seen = now() - interval '99 d',
	    last_seen = now() - interval '98 d', passed_at = NULL
	    WHERE client = '2001:db8:0:5::/64'});
	$db->do(q{UPDATE policyd.greylist SET first_seen = now() - interval '1 min',
	    last_seen = now(), passed_at = NULL
	    WHERE sender = 'ann@example.net'});
	like(outcome('postgrey', $home), qr/^keys read 7 new 0 changed 3 as before 2,/,
		'what is new is merged');
	my $there = keys_there();
	like($there, qr/^203.* passed 7200 60 2$/m, 'seen again');
	like($there, qr/^2001.* waits 600 600 1$/m, 'a row too old is replaced');
	like($there, qr/^192\S+ ann.* passed 32400 -?\d+ 2$/m,
		'the earlier first_seen and the later last_seen win');

	# The files alone, as a backup has them.
	forget_all();
	mkdir "$dir/backup";
	copy("$home/$_", "$dir/backup/$_") for qw(postgrey.db postgrey_clients.db);
	like(outcome('postgrey', "$dir/backup"),
		qr/^keys read 7 new 5.*, clients read 3 new 2 /, 'without its log');
	forget_all();
	unlink "$dir/backup/postgrey_clients.db";
	like(outcome('postgrey', "$dir/backup/postgrey.db"),
		qr/^keys read 7 new 5 .*, clients read 0 new 2 changed 0 as before 0, /,
		'one file');
	forget_all();
	like(outcome('postgrey', "$home/postgrey_clients.db"),
		qr/^clients read 3 new 2 .*, 1 clients too old$/, 'the other one');

	# Longer prefixes than theirs say more than they know.
	spew("$dir/policyd.ini", "[greylist]\nipv4_prefix = 32\ndelay = 10m\n"
		. "retry_window = 2h\n");
	forget_all();
	is(outcome('postgrey', "$home"), join(', ',
		'keys read 7 new 1 changed 0 as before 0',
		'clients read 3 new 2 changed 0 as before 0',
		'6 keys of a network wider than ipv4_prefix or ipv6_prefix',
		'1 clients too old'), 'a prefix longer than theirs');
	is(clients_there(), "192.0.2.10 2 0 -\n203.0.113.5 1 0 -",
		'... but clients are addresses there');
	spew("$dir/policyd.ini", "[greylist]\n");

	# With --privacy nobody can tell.
	$home = "$dir/private";
	mkdir $home;
	$pid = $start->('--privacy');
	$ask->($_, '192.0.2.10', 'unknown', 'a@example.net', 'bob@example.com')
		for HOUR, 60;
	stop($pid, 'TERM');
	like(outcome('postgrey', $home),
		qr/ 1 keys hashed by --privacy, 1 clients hashed by --privacy$/,
		'hashed keys');
	like(slurp("$dir/server.log"), qr/reason=new/, 'postgrey was a real one');
	return;
}

SKIP: {
	skip 'postgrey is not installed', 1 unless -x '/usr/sbin/postgrey';
	postgrey_tests();
}

# Records that no postgrey writes.
SKIP: {
	skip 'no BerkeleyDB', 1 unless eval { require BerkeleyDB; 1 };
	my $file = "$dir/odd.db";
	tie my %odd, 'BerkeleyDB::Btree', -Filename => $file,
		-Flags => BerkeleyDB::DB_CREATE() or die "$file: $!";
	my $ok = ($now - 500) . ',' . ($now - 100);
	my $long = 'y' x 600;
	%odd = ('' => $ok, '/' => $ok, '192.0.2.1/a@b.example' => $ok,
		'192.0.2.1/a@b.example/c@d.example' => 'x,y',
		'192.0.2.1/c@b.example/c@d.example' => '17',
		'mail.example/a@b.example/c@d.example' => $ok,
		"192.0.2.1/a\@b.example/$long\@d.example" => $ok,
		"192.0.2.1/\xff\t\\\0\n\@b.example/\xfe\t\\\0\n\@d.example" => $ok,
		'192.0.2.1/future@b.example/c@d.example' =>
			'9223372036854775807,9223372036854775807',
		'192.0.2.1/mailer-daemon/c@d.example' => "$ok,host.example");
	untie %odd;
	forget_all();
	is(outcome('postgrey', $file), join(', ',
		'keys read 10 new 3 changed 0 as before 0',
		'clients read 0 new 1 changed 0 as before 0',
		'6 keys not understood', '1 keys without a usable recipient'),
		'odd records');
	like(keys_there(), qr/\A
		192.0.2.0\/24\ \?\?\\\?\?\@b.example\ \?\?\\\?\?\@d.example
		\ passed\ 500\ 100\ 2\n
		192.0.2.0\/24\ future\@b.example\ c\@d.example\ waits\ -?\d+\ -?\d+\ 1\n
		192.0.2.0\/24\ mailer-daemon\ c\@d.example\ passed\ 500\ 100\ 2\z/x,
		'... are printable then, and of no later than now');
	is(clients_there(), '192.0.2.0/24 2 0 -', '... and prove their client');
}

# ---- sqlgrey ----

sub sqlgrey_tests {
	my $socket = "$dir/sqlgrey.sock";
	my $theirs = $pg->conninfo(dbname => 'sqlgrey');
	my ($host) = $theirs =~ /host=(\S+)/;
	$pg->psql('CREATE DATABASE sqlgrey', dbname => 'postgres');
	spew("$dir/sqlgrey.conf", <<"END");
unix = $socket
user = $me
group = $group
db_dsn = DBI:Pg:dbname=sqlgrey;host=$host
db_user = postgres
reconnect_delay = 0
admin_mail =
END
	my $pid = server($socket, '/usr/sbin/sqlgrey', '-f', "$dir/sqlgrey.conf");
	my $ask = sub {
		my ($address, $name, $sender) = @_;
		return PolicydTest::Conn->new("unix:$socket")->ask(
			client_address => $address, client_name => $name,
			sender => $sender, recipient => 'Bob@example.com');
	};
	my @retry = (['192.0.2.10', 'mail.example.net', 'Ann@example.net'],
		['192.0.2.10', 'mail.example.net', 'al@example.net'],
		['203.0.113.5', 'unknown', ''],
		['2001:db8::17', 'mail.six.example', 'x@six.example'],
		['2001:db8:1::211:22ff:fe33:4455', 'mx.six.example', 'y@six.example']);
	for (@retry, ['198.51.100.3', 'unknown', 'prvs=1234abcdef=w@w.example'],
		['198.51.100.3', 'unknown', '']) {
		$ask->(@$_);
	}
	like($ask->(@$_), qr/^PREPEND X-Greylist: delayed/, "sqlgrey: $_->[0]")
		for @retry;
	stop($pid, 'TERM');
	$pg->psql(q{UPDATE from_awl SET last_seen = now() - interval '50 days'
	    WHERE sender_name = 'y';
	    INSERT INTO connect VALUES ('z', 'z.example', 'nobody', 'b@c', now()),
	    ('z', 'z.example', '192.0.2.1', 'b@c', now() - interval '2 days')},
		dbname => 'sqlgrey');

	forget_all();
	my $rest = '1 keys too old, 1 keys without an IP address, 1 clients too old';
	is(outcome('sqlgrey', $theirs), 'keys read 4 new 2 changed 0 as before 0, '
		. "clients read 4 new 3 changed 0 as before 0, $rest", 'sqlgrey');
	like(keys_there(), qr/\A
		198.51.100.0\/24\ \ bob\@example.com\ waits\ \S+\ \S+\ 1\n
		198.51.100.0\/24\ w\@w.example\ bob\@example.com\ waits\ \S+\ \S+\ 1
		\z/x, '... who waits');
	is(clients_there(), "192.0.2.0/24 1 0 -\n2001:db8::/64 1 0 -\n"
		. '203.0.113.0/24 1 0 -', '... and who need not');
	is(outcome('sqlgrey', $theirs), 'keys read 4 new 0 changed 0 as before 2, '
		. "clients read 4 new 0 changed 0 as before 3, $rest",
		'... a second time');
	return;
}

SKIP: {
	skip 'sqlgrey is not installed', 1 unless -x '/usr/sbin/sqlgrey';
	sqlgrey_tests();
}

# ---- iRedAPD ----

{
	# Its tables (iredapd.pgsql of 6.1), and rows as greylisting.py and
	# greylisting_admin.py write them.
	my $theirs = $pg->conninfo(dbname => 'iredapd');
	my $hour = HOUR;
	my $day = DAY;
	$pg->psql('CREATE DATABASE iredapd', dbname => 'postgres');
	$pg->psql(<<"SQL", dbname => 'iredapd');
CREATE TABLE greylisting_whitelists (id serial PRIMARY KEY,
    account varchar(255) NOT NULL DEFAULT '',
    sender varchar(255) NOT NULL DEFAULT '',
    comment varchar(255) NOT NULL DEFAULT '');
CREATE TABLE greylisting_whitelist_domains (id serial PRIMARY KEY,
    domain varchar(255) NOT NULL DEFAULT '');
CREATE TABLE greylisting_tracking (id serial PRIMARY KEY,
    sender varchar(255) NOT NULL, recipient varchar(255) NOT NULL,
    client_address varchar(40) NOT NULL,
    sender_domain varchar(255) NOT NULL DEFAULT '',
    rcpt_domain varchar(255) NOT NULL DEFAULT '',
    init_time bigint NOT NULL DEFAULT 0,
    block_expired bigint NOT NULL DEFAULT 0,
    record_expired bigint NOT NULL DEFAULT 0,
    blocked_count bigint NOT NULL DEFAULT 0,
    passed smallint NOT NULL DEFAULT 0);
INSERT INTO greylisting_tracking (sender, recipient, client_address,
    init_time, block_expired, record_expired, blocked_count, passed) VALUES
('ann\@example.net', 'bob\@example.com', '192.0.2.10', $now - 9 * $hour,
    $now - 9 * $hour + 900, $now - $hour + 30 * $day, 2, 1),
('ann\@example.net', 'bob\@example.com', '192.0.2.11', $now - 8 * $hour,
    $now - 8 * $hour + 900, $now - 7 * $hour + 30 * $day, 1, 1),
('', 'bob\@example.com', '2001:db8::17', $now - 600, $now + 300,
    $now - 600 + $day, 3, 0),
('gone\@example.net', 'bob\@example.com', '203.0.113.5', $now - 40 * $day,
    $now - 40 * $day + 900, $now - 100, 1, 1);
INSERT INTO greylisting_whitelists (account, sender, comment) VALUES
('\@.', '198.51.100.0/23', 'Two'), ('\@.', '203.0.113.*', ''),
('\@.', '\@friend.example', ''), ('\@.', 'x\@friend.example', ''),
('\@example.com', '192.0.2.55', '');
INSERT INTO greylisting_whitelist_domains (domain) VALUES ('big.example'),
    ('cust-spf.big.example'), ('notld');
SQL
	forget_all();
	$db->do(q{INSERT INTO policyd.client (client, passes, allowed_at, reason)
	    VALUES ('198.51.100.0/24', 0, now(), 'ours')});
	my $rest = '1 keys too old, 1 allowed for some recipients only, '
		. '2 allowed of senders, whatever the client: a rule says that, '
		. '1 allowed with a name that policyd knows no client by';
	is(outcome('iredapd', $theirs), 'keys read 4 new 2 changed 0 as before 0, '
		. 'clients read 0 new 1 changed 0 as before 0, '
		. "allowed read 8 new 3 changed 0 as before 1, $rest", 'iRedAPD');
	is(keys_there(), "192.0.2.0/24 ann\@example.net bob\@example.com passed "
		. "32400 3600 3\n2001:db8::/64  bob\@example.com waits 600 600 3",
		'... the keys of a network are one');
	is(clients_there(), join("\n", '192.0.2.0/24 1 0 -',
		'198.51.100.0/24 0 1 ours', '198.51.101.0/24 0 1 iRedAPD: Two',
		'203.0.113.0/24 0 1 iRedAPD', 'big.example 0 1 iRedAPD: big.example'),
		'... and who is allowed');
	is(outcome('iredapd', $theirs), 'keys read 4 new 0 changed 0 as before 2, '
		. 'clients read 0 new 0 changed 0 as before 1, '
		. "allowed read 8 new 0 changed 0 as before 4, $rest",
		'... a second time');
}

# ---- and the daemon ----

{
	$db->do(q{INSERT INTO policyd.domain (name, recipients)
	    VALUES ('example.com', 'any')});
	my $d = PolicydTest->new(conninfo => $pg->conninfo(user => 'policyd'),
		ini => { greylist => { enabled => 'yes', auto_allow_after => 0 } });
	$d->start;
	my %to = (recipient => 'bob@example.com', client_name => 'unknown',
		client_address => '192.0.2.77');
	is($d->ask(%to, sender => 'Ann@Example.net'), 'DUNNO',
		'the daemon knows a key');
	is($d->ask(%to, sender => 'Ann@Example.net', client_name =>
		'mx.example.net'), 'DUNNO', '... of a host with a name, too');
	like($d->ask(%to, sender => 'new@example.net'),
		qr/^DEFER_IF_PERMIT .*Greylisted/, '... another one waits');
	like($d->ask(%to, sender => '', client_address => '2001:db8::99'),
		qr/^PREPEND X-Greylist: delayed \d+ seconds/,
		'who has waited there passes at once');
	is($d->ask(%to, sender => 'x@y.example', client_name => 'm.big.example',
		client_address => '198.18.0.1'), 'DUNNO', 'who was allowed is');
	is($d->stop, 0, 'it ends');
}

done_testing;
