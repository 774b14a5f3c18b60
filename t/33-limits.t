#!/usr/bin/perl

# What a machine runs out of: descriptors, disk, patience.  policyd says so
# and goes on.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use File::Temp ();
use Test::More;
use Time::HiRes qw(time);

use PolicydTest qw(block free_port site slurp soon spew wait_for);

my $pg = site(<<'SQL');
INSERT INTO policyd.domain (name, recipients) VALUES ('example.com', 'listed');
INSERT INTO policyd.address (address) VALUES ('bob@example.com');
SQL

sub daemon {
	my ($ini, @more) = @_;
	return PolicydTest->new(
		conninfo => $pg->conninfo(user => 'policyd'),
		ini      => $ini,
		@more
	);
}

# ---- descriptors ----

{
	# A hard limit, which policyd cannot raise.
	my $d = daemon({ database => { reconnect_max => '300ms' } },
		prefix => [qw(prlimit --nofile=40:40 --)])->start;
	my @conn = grep {$_} map { $d->connect } 1 .. 100;
	is(scalar @conn, 100, '100 clients of a daemon with 40 descriptors');
	$_->send(block(recipient => 'bob@example.com')) for @conn;
	my @served = grep { ($_->reply(0.05) // '') eq 'DUNNO' } @conn;
	cmp_ok(scalar @served, '>=', 10, scalar(@served) . ' of them are served');
	cmp_ok(scalar @served, '<', 40, 'not all of them');
	my $busy = cpu_s($d->pid);
	is($served[0]->ask(recipient => 'bob@example.com'), 'DUNNO',
		'they go on')
		for 1 .. 3;
	$served[1]->closed(0.5);
	cmp_ok(cpu_s($d->pid) - $busy, '<', 0.2, 'and nothing spins');
	like($d->log, qr/descriptor|open files/i, 'the log says what is missing');
	my $lines = () = $d->log =~ /descriptor|open files/gi;
	cmp_ok($lines, '<=', 5, 'without end it does not');

	$pg->psql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE usename = 'policyd'});
	is($served[0]->ask(recipient => 'bob@example.com'),
		'DUNNO', 'without a descriptor for PostgreSQL too');
	my %served = map { $_ => 1 } @served;
	my @late   = grep { !$served{$_} } @conn;
	$_->close for @served;
	my $more = grep { ($_->reply(5) // '') eq 'DUNNO' } @late[ 0 .. 9 ];
	is($more, 10, 'who waited is served when others leave');
	$_->close for @late;
	$pg->psql(q{INSERT INTO policyd.address (address)
		VALUES ('new@example.com')});
	soon {
		($d->ask(recipient => 'new@example.com') // '') eq 'DUNNO'
	}
	'PostgreSQL is followed again', 10;
	is($d->stop, 0, 'exit status');
}

# Seconds of processor time that a process has taken.
sub cpu_s {
	my $pid = shift;
	my ($ns) = slurp("/proc/$pid/schedstat") =~ /^(\d+)/;
	return $ns / 1e9;
}

# ---- many clients ----

SKIP: {
	my ($limit) = slurp('/proc/self/limits') =~ /^Max open files\s+(\d+)/m;
	skip "only $limit descriptors here", 5 if $limit < 1100;
	my $d = daemon({})->start;
	my ($before) = slurp('/proc/' . $d->pid . '/status') =~ /VmRSS:\s+(\d+)/;
	my @conn = grep {$_} map { $d->connect } 1 .. 1000;
	is(scalar @conn, 1000, '1000 clients');
	my $bad = grep {
		($_->ask(recipient => 'bob@example.com') // '') ne 'DUNNO'
	} @conn;
	is($bad, 0, 'all are answered');
	my ($after) = slurp('/proc/' . $d->pid . '/status') =~ /VmRSS:\s+(\d+)/;
	cmp_ok(($after - $before) / 1000, '<', 80, 'at less than 80 kB each');
	my $began = time;
	is($d->ask(recipient => 'bob@example.com'), 'DUNNO', 'one more');
	cmp_ok(time - $began, '<', 0.1, 'at once');
	is($d->stop, 0, 'exit status');
}

# ---- listeners on the network ----

# A name of which this machine has one address only, in a hosts file of its own.
SKIP: {
	my $dir   = File::Temp->newdir;
	my $hosts = spew("$dir/hosts", join '', map { "$_ two.test\n" }
		qw(127.0.0.1 192.0.2.55 127.0.0.1));
	my $under = spew("$dir/under", <<"END");
#!/bin/sh
exec unshare -m sh -c 'mount --bind "\$0" /etc/hosts && exec "\$@"' $hosts "\$@"
END
	chmod 0755, $under;
	skip 'no mount namespace', 4 if system("$under true 2>/dev/null") != 0;
	my $port = free_port();
	my $d    = PolicydTest->new(
		conninfo => $pg->conninfo(user => 'policyd'),
		ini => { policyd => { listen => "inet:two.test:$port" } }
	);
	my $binary = $d->{binary};
	chmod 0755, $d->{binary} =
		spew("$dir/policyd", "#!/bin/sh\nexec $under $binary \"\$@\"\n");
	$d->spawn;
	my $conn = wait_for { PolicydTest::Conn->new("inet:127.0.0.1:$port") };
	ok($conn, 'a name with an address that is not here');
	is($conn && $conn->ask(recipient => 'bob@example.com'), 'DUNNO', 'answers');
	# A peer that vanishes is noticed: the kernel's timer 2 is keep-alive.
	my @timers = map { (split)[5] =~ /^(\d+):/ } grep {
		my @f = split;
		$f[1] eq sprintf('0100007F:%04X', $port) && $f[3] eq '01'
	} split /\n/, slurp('/proc/net/tcp');
	is("@timers", '02', 'connections are kept alive');
	is($d->stop, 0, 'exit status');
}

# ---- disk ----

{
	my $d = daemon({ database => { reconnect_max => '300ms' } })->start;
	soon { glob "$d->{statedir}/*" } 'a copy is there';
	my $mark = $d->log_mark;
	unlink glob "$d->{statedir}/*";
	rmdir $d->{statedir};
	spew($d->{statedir}, 'not a folder');
	$pg->psql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE usename = 'policyd'});
	soon { $d->log_since($mark) =~ m{\Q$d->{statedir}\E} }
	'a copy that cannot be written is logged';
	is($d->ask(recipient => 'bob@example.com'), 'DUNNO', 'it goes on');
	$pg->psql(q{INSERT INTO policyd.address (address)
		VALUES ('new2@example.com')});
	soon { $d->ask(recipient => 'new2@example.com') eq 'DUNNO' }
	'and follows changes';
	is(slurp($d->{statedir}), 'not a folder', 'what is in the way stays');
	is($d->stop, 0, 'exit status');
	unlink $d->{statedir};
}

# ---- memory of sessions ----

{
	# 60 000 sessions that end in an error each: their memory has a bound, or
	# is small.
	my $d = daemon({ log => { decisions => 'none' } })->start;
	my $conn = $d->connect;
	my ($before) = slurp('/proc/' . $d->pid . '/status') =~ /VmRSS:\s+(\d+)/;
	my $bad = 0;
	for my $batch (1 .. 300) {
		$conn->send(join '', map {
			block(
				client_address => "198.51.100.$_",
				client_port    => 1024 + $batch * 200 + $_,
				recipient      => 'no@example.com'
			)
		} 1 .. 200);
		$bad += grep { ($conn->reply // '') !~ /^550 5\.1\.1 / } 1 .. 200;
	}
	is($bad, 0, '60 000 sessions are answered');
	my ($after) = slurp('/proc/' . $d->pid . '/status') =~ /VmRSS:\s+(\d+)/;
	cmp_ok(($after - $before) * 1024 / 60000,
		'<', 600, 'at less than 600 bytes each');
	is($d->stop, 0, 'exit status');
}

done_testing();
