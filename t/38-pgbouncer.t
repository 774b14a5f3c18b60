#!/usr/bin/perl

# SPDX-License-Identifier: MIT
#
# Behind a PgBouncer that pools transactions, with listen_conninfo straight to
# the server: as [database] prepared says, and where it says the wrong thing.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use File::Temp;
use PolicydTest qw(free_port session site soon spew wait_for);
use Test::More;

my ($bouncer) = grep { -x } qw(/usr/sbin/pgbouncer /usr/bin/pgbouncer);
$bouncer or plan skip_all => 'there is no pgbouncer';

my $pg = site(q{INSERT INTO policyd.domain (name, recipients)
	VALUES ('example.com', 'any')});
$pg->psql(q{
	CREATE FUNCTION policyd_script.hello(request jsonb) RETURNS text
	LANGUAGE sql RETURN CASE WHEN request ->> 'sender' LIKE 'bad@%'
	THEN '550 5.7.1 hello' END;
	INSERT INTO policyd.rule (priority, conditions, action)
	VALUES (1, '{"sender like bad@*"}', 'script hello')});

my $dir  = File::Temp->newdir;
my $port = free_port();
my $home = $pg->{dir};
spew("$dir/users", qq{"postgres" ""\n});
spew("$dir/ini", <<"END");
[databases]
policyd = host=$home dbname=policyd user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = any
auth_file = $dir/users
pool_mode = transaction
default_pool_size = 2
logfile =
pidfile =
END
chmod 0755, $dir;
chmod 0644, "$dir/users", "$dir/ini";

# It will not run as root.
my $pid = fork // die "fork: $!";
if ($pid == 0) {
	if ($> == 0) {
		my ($uid, $gid) = (getpwnam 'nobody')[ 2, 3 ];
		$( = $) = "$gid $gid";
		$< = $> = $uid;
	}
	open STDOUT, '>>', '/dev/null';
	open STDERR, '>&', \*STDOUT;
	exec $bouncer, '-q', "$dir/ini" or POSIX::_exit(127);
}

sub is_up {
	return IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port);
}
wait_for { is_up() } 10 or do {
	kill 'TERM', $pid;
	waitpid $pid, 0;
	plan skip_all => 'pgbouncer does not start here';
};

# policyd -t knows which way leads to the server.
{
	my $through = "host=127.0.0.1 port=$port dbname=policyd user=postgres";
	my $to = sub {
		return PolicydTest->new(
			conninfo => $through,
			ini      => { database => { query_timeout => '2s', @_ } }
		)->run('-t');
	};
	my ($status, $said) = $to->();
	is($status, 1, 'policyd -t: no notification comes through a pooler');
	like($said, qr/\[database\] conninfo: notifications do not arrive/, 'said');
	($status, $said) = $to->(listen_conninfo => $through . ' connect_timeout=9');
	is($status, 1, 'nor for listen_conninfo');
	like($said, qr/\[database\] listen_conninfo: notifications do not/, 'said');
	($status, $said) = $to->(listen_conninfo => $pg->conninfo);
	is($status, 0, 'listen_conninfo past it') or diag $said;
}

my $GREY = qr/^DEFER_IF_PERMIT 4\.2\.0 /;
my $n    = 0;
for my $prepared (qw(no yes)) {
	my $d = PolicydTest->new(
		conninfo => "host=127.0.0.1 port=$port dbname=policyd user=postgres",
		ini      => {
			database => {
				listen_conninfo => $pg->conninfo, prepared => $prepared
			},
			greylist => { enabled => 'yes', delay => '1s' }
		}
	);
	$d->start;
	my $try = sub {
		return $d->ask(session(), client_name => 'unknown',
			client_address => "198.51.$n.7", @_);
	};
	for my $round (1 .. 20) {
		$n++;
		like($try->(), $GREY, "prepared = $prepared: greylisted")
			if $round == 1;
		$try->(recipient => "r$_\@example.com") for 1 .. 5;
	}
	is($pg->dbh->selectrow_array(q{SELECT count(*) FROM policyd.greylist
		WHERE recipient LIKE 'r_@%'}), 100, 'each key is in the table');
	$pg->psql(q{UPDATE policyd.greylist
		SET first_seen = first_seen - interval '2 s'});
	soon { $try->(recipient => 'r1@example.com') !~ $GREY } 'one passes';
	soon { $d->ask(session(), sender => 'bad@example.net') eq '550 5.7.1 hello' }
		'scripts are asked';
	$pg->psql(q{INSERT INTO policyd.domain (name, recipients)
		VALUES ('} . $prepared . q{.example', 'any')});
	soon { $try->(recipient => "x\@$prepared.example") !~ /^550 / }
		'changes are heard of';
	is($d->stop, 0, 'stopped');
	unlike($d->log, qr/goes on in memory|not written yet/,
		'and nothing had to be judged in memory')
		if $prepared eq 'no';
	$pg->psql('TRUNCATE policyd.greylist, policyd.client');
}
kill 'TERM', $pid;
waitpid $pid, 0;

done_testing;
