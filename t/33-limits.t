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

use PolicydTest qw(block free_port policyd_path site slurp soon spew wait_for);

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

# Without warning, while it runs, and for a while.  (Who is not root cannot take
# back a hard limit.)
sub limit {
	my ($d, $what, $soft) = @_;
	system('prlimit', "--$what=$soft:", '--pid', $d->pid) == 0
		or die "prlimit fails\n";
	return;
}

sub descriptors { return scalar(() = glob '/proc/' . $_[0]->pid . '/fd/*') }

{
	my $d = daemon({ database => { reconnect_max => '300ms' } })->start;
	my ($was) = slurp('/proc/' . $d->pid . '/limits')
		=~ /^Max open files\s+(\d+)/m;
	my @old = map { $d->connect } 1 .. 20;
	is(scalar(grep { $_->ask(recipient => 'bob@example.com') eq 'DUNNO' } @old),
		20, 'clients of a daemon with descriptors');
	my $copy = "$d->{statedir}/tables.copy";
	soon { -e $copy } 'and a copy of its tables';
	my $mark = $d->log_mark;
	limit($d, 'nofile', descriptors($d) + 5);
	my @new = map { $d->connect } 1 .. 30;
	$_->send(block(recipient => 'bob@example.com')) for @new;
	soon { $d->log_since($mark) =~ /no connection can be accepted: Too many open/ }
	'descriptors run out while it runs: it says so';
	my @late = grep { !defined $_->reply(0.02) } @new;
	cmp_ok(scalar @late, '>', 0, 'not all are served');
	my ($busy, $began) = (cpu_s($d->pid), time);
	my $bad = 0;
	while (time - $began < 2.5) {    # it tries again twice
		$_->ask(recipient => 'bob@example.com', timeout => 20) eq 'DUNNO' or $bad++
			for @old;
		$old[0]->closed(0.1);
	}
	is($bad, 0, 'who was there is answered');
	cmp_ok(cpu_s($d->pid) - $busy, '<', 0.2, 'nothing spins');
	my $lines = () = $d->log_since($mark) =~ /no connection can be accepted/g;
	is($lines, 1, 'it says so once a minute');

	my $inode = (stat $copy)[1];
	$pg->psql(q{INSERT INTO policyd.address (address)
		VALUES ('without@example.com')});
	soon { $old[0]->ask(recipient => 'without@example.com') eq 'DUNNO' }
	'changes are followed without a descriptor to spare';
	soon { ((stat $copy)[1] // $inode) != $inode } 'and the copy is written';

	# Those who wait take what PostgreSQL's connections leave.
	$pg->psql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE usename = 'policyd'});
	is(scalar(grep { $_->ask(recipient => 'bob@example.com') eq 'DUNNO' } @old),
		20, 'without a descriptor for PostgreSQL as well');
	limit($d, 'nofile', $was);
	is(scalar(grep { ($_->reply(10) // '') eq 'DUNNO' } @late),
		scalar @late, 'the others are served once there are descriptors again');
	$pg->psql(q{INSERT INTO policyd.address (address)
		VALUES ('again@example.com')});
	soon { $old[0]->ask(recipient => 'again@example.com') eq 'DUNNO' }
	'and PostgreSQL is followed', 20;
	is($d->stop, 0, 'exit status');
}

# ---- memory ----

sub memory {
	my ($d, $what) = @_;
	my ($kb) = slurp('/proc/' . $d->pid . '/status') =~ /^$what:\s+(\d+)/m;
	return 1024 * $kb;
}

SKIP: {
	skip 'a sanitizer, or valgrind, has its own memory', 11
		if $ENV{UNDER} || `ldd @{[ policyd_path() ]} 2>&1` =~ /lib[at]san/;

	# A table grows beyond what there is.
	my $d = daemon({ database => { reconnect_max => '300ms' } })->start;
	my @old = map { $d->connect } 1 .. 20;
	my $ok  = sub {
		my $bad = grep { ($_->ask(recipient => 'bob@example.com', timeout => 20)
				// '') ne 'DUNNO' } @old, map { $d->connect } 1 .. 5;
		return !$bad && $d->alive;
	};
	my $mark = $d->log_mark;
	my $log  = sub { $d->log_since($mark) };
	limit($d, 'as', memory($d, 'VmSize') + (2 << 20));
	$pg->psql(q{INSERT INTO policyd.address (address) SELECT
		'user' || i || '@example.com' FROM generate_series(1, 200000) i});
	my $failed = 0;
	soon { $ok->() or $failed++; $log->() =~ /not enough memory for the tables/ }
	'a table that does not fit: it says so', 30;
	my $tries = () = $log->() =~ /connection up/g;
	wait_for {
		$ok->() or $failed++;
		(() = $log->() =~ /connection up/g) > $tries + 2
	} 30;
	is($failed, 0, 'answers go on, for those who come as well');
	like($old[0]->ask(recipient => 'user7@example.com'),
		qr/^550 5\.1\.1 /, 'from the tables as they were');
	my $lines = () = $log->() =~ /not enough memory for the tables: they stay/g;
	is($lines, 1, 'it says so once a minute');
	limit($d, 'as', 'unlimited');
	soon { $old[0]->ask(recipient => 'user7@example.com') eq 'DUNNO' }
	'with memory, the new rows are in force', 30;
	$pg->psql(q{DELETE FROM policyd.address WHERE address LIKE 'user%'});
	soon { $old[0]->ask(recipient => 'user7@example.com') ne 'DUNNO' } 'or gone';

	# Clients that want it all: half a request of 60 000 bytes, each.
	$mark = $d->log_mark;
	limit($d, 'as', memory($d, 'VmSize'));
	my $half = "request=smtpd_access_policy\n" . ('x=' . 'y' x 9997 . "\n") x 6;
	my @greedy = map { $d->connect } 1 .. 800;
	$_->sock->blocking(0) for @greedy;
	my @left = map { $half } @greedy;
	soon {
		for my $i (0 .. $#greedy) {
			my $n = length $left[$i] && $greedy[$i]->send($left[$i]);
			substr $left[$i], 0, $n, '' if $n;
		}
		$log->() =~ /there is no memory for its request|no connection can be accepted: Cannot allocate/
	}
	'clients that want more memory than there is: it says so', 20;
	ok($d->alive, 'it goes on');
	is(scalar(grep { ($_->ask(recipient => 'bob@example.com') // '') eq 'DUNNO' } @old),
		20, 'who was there is answered');
	$_->close for @greedy;
	soon { my $c = $d->connect;
		($c->ask(recipient => 'bob@example.com', timeout => 2) // '') eq 'DUNNO' }
	'once they have left, so is who comes';
	limit($d, 'as', 'unlimited');
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
