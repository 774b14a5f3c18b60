package GreylistBench;

# What the measurements of greylisting have in common: servers, load, a table.
# Whatever is started here is ended by its number, and what is written is in a
# folder that is removed.

use strict;
use warnings;

use Exporter qw(import);
use File::Temp qw(tempdir);
use FindBin;
use POSIX ();
use Time::HiRes qw(sleep time);

use PgCluster;
use PolicydTest qw(block free_port policyd_path spew top wait_for);

our %opt = (rounds => 3, seconds => 0.7, raw => 0);
our $GREYLISTED = qr/^(?i:defer_if_permit) /;

our @EXPORT_OK = qw(%opt $GREYLISTED at_least at_most by_inet cluster expect
	folder listens load load_all load_end load_start machine median print_table
	put_known quantile row site sorted spread start_nullpol start_policyd
	start_program stop_policyd thousands transactions);

my $BUILD = $ENV{B} || "$FindBin::Bin/../../build";
my %tool  = map { $_ => "$BUILD/t/bench/$_" } qw(nullpol polload);
my $dir   = tempdir('bench-XXXXXX', TMPDIR => 1, CLEANUP => 1);

for my $program (policyd_path(), values %tool, "$PgCluster::BIN/pgbench") {
	-x $program or die "$program is not there\n";
}
chmod 0755, $dir;
$| = 1;

sub folder { return $dir }

sub sorted { my @v = sort { $a <=> $b } @_; return @v }
sub median { my @v = sorted(@_); return $v[ $#v / 2 ] }
sub quantile { my ($q, @v) = @_; return (sorted(@v))[ $q * $#v ] }
sub thousands { my $n = shift; 1 while $n =~ s/^(\d+)(\d{3})/$1 $2/; return $n }
sub spread { return sprintf '%.2f to %.2f', (sorted(@_))[ 0, -1 ] }

# ---- the table at the end ----

my @TABLE;

sub row {
	my ($what, $got, $goal, $met) = @_;
	push @TABLE, [ $what, $got, $goal // '', $met // '' ];
	printf "  %-58s %18s\n", $what, $got;
	return;
}

sub at_most { return $_[0] <= $_[1] ? 'yes' : 'NO' }
sub at_least { return $_[0] >= $_[1] ? 'yes' : 'NO' }

sub print_table {
	printf "\n%-60s %18s  %8s  %s\n", 'measure', 'here', 'to reach', 'reached';
	printf "%-60s %18s  %8s  %s\n", @$_ for @TABLE;
	print machine(), "\n";
	return;
}

sub machine {
	open my $f, '<', '/proc/loadavg' or return '';
	return 'load ' . (split ' ', <$f>)[0];
}

# ---- servers ----

my @PIDS;

# Start a program; it ends with us, by its number.
sub start_program {
	my ($log, @command) = @_;
	my $pid = fork;
	die "fork: $!" if !defined $pid;
	if ($pid == 0) {
		open STDIN,  '<',  '/dev/null';
		open STDOUT, '>>', "$dir/$log.log";
		open STDERR, '>&', \*STDOUT;
		{ exec @command }
		POSIX::_exit(127);
	}
	push @PIDS, $pid;
	return $pid;
}

END {
	my $status = $?;
	for my $pid (@PIDS) {
		# A Net::Server may miss the first.
		my $gone = wait_for {
			kill 'TERM', $pid;
			waitpid($pid, POSIX::WNOHANG()) != 0;
		} 5;
		next if $gone;
		kill 'KILL', $pid;
		waitpid $pid, 0;
	}
	$? = $status;
}

sub listens {
	my $server = shift;
	wait_for { PolicydTest::Conn->new($server->{at}) } 10
		or die "$server->{name} does not listen\n";
	return $server;
}

sub start_nullpol {
	my $at = shift;
	my $server = { name => 'nullpol', at => $at,
		pid => start_program('nullpol', $tool{nullpol}, $at) };
	return listens($server);
}

sub start_policyd {
	my ($pg, $dbname, %greylist) = @_;
	my $d = PolicydTest->new(
		conninfo => $pg->conninfo(dbname => $dbname, user => 'policyd'),
		inet     => 1,
		ini      => {
			rcpt => { errors_total => 0, errors_wait => '0s' },
			log  => { decisions => 'none' },
			greylist => { enabled => 'yes', %greylist },
		}
	);
	$d->start;
	return { name => 'policyd', daemon => $d, pid => $d->pid, pg => $pg,
		at => "unix:$d->{socket}" };
}

sub by_inet {
	my $server = shift;
	return { %$server, at => "inet:127.0.0.1:$server->{daemon}{port}" };
}

sub stop_policyd {
	my $server = shift;
	my $d = $server->{daemon};
	$d->stop == 0 or die 'policyd did not end well: ' . $d->log;
	return;
}

# ---- databases ----

my $cluster;

sub cluster {
	my (%settings) = @_;
	$cluster ||= PgCluster->new(settings => {
		fsync => 'on', full_page_writes => 'on',
		synchronous_commit => 'on', max_connections => 200,
		shared_buffers => '512MB', max_wal_size => '4GB', %settings });
	return $cluster;
}

# A database with the schema, a domain and a hundred rules that never hold.
sub site {
	my ($name) = @_;
	my $pg = cluster();
	$pg->psql("CREATE DATABASE $name", dbname => 'postgres');
	$pg->load_into($name, sort glob top() . '/sql/[0-9]*.sql');
	my $dbh = $pg->dbh(dbname => $name);
	$dbh->do(q{INSERT INTO policyd.domain (name, recipients)
		VALUES ('example.org', 'any')});
	$dbh->do(q{INSERT INTO policyd.rule (priority, conditions, action)
		SELECT i, ARRAY['sender under c' || i || '.example'], 'REJECT'
		FROM generate_series(1, 100) AS i});
	return $dbh;
}

# What its processes have used, in seconds, those that have ended as well.
sub cluster_cpu {
	my $pg  = shift or return 0;
	my $cpu = 0;
	for my $pid ($pg->children) {
		open my $f, '<', "/proc/$pid/schedstat" or next;
		$cpu += (split ' ', <$f> // '0')[0] / 1e9;
	}
	open my $f, '<', '/proc/' . $pg->pid . '/stat' or die "stat: $!\n";
	my @field = split ' ', (<$f> =~ /\) (.*)/)[0];
	$cpu += $_ / POSIX::sysconf(POSIX::_SC_CLK_TCK()) for @field[ 11 .. 14 ];
	return $cpu;
}

# Every statement of the daemon's greylisting is a transaction that writes.
sub transactions {
	my $dbh = shift;
	return $dbh->selectrow_array(
		'SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint');
}

# ---- load ----

# Half of the clients have a verified name of their own.
my %CLIENT = (
	named   => { client_name => 'mail.{key}.net', helo_name => 'mail.{key}.net',
		reverse_client_name => 'mail.{key}.net' },
	unnamed => { client_name => 'unknown', helo_name => 'mail.example.net',
		reverse_client_name => 'unknown' },
);
my @TEMPLATES = map { spew("$dir/$_.req", block(
	client_address => '{net}',
	client_port    => '{port}',
	instance       => '2956.6b0215c0.{tick}.0',
	sender         => 'from.{key}@sender.example.net',
	recipient      => 'to.{to}@example.org',
	%{ $CLIENT{$_} })) } qw(named unnamed);

my $FRESH = 1_000_000;

# Run polload.  keys => N: these and no others; without it, each key is new.
sub load_start {
	my ($server, %run) = @_;
	my @args = (
		'-s', $server->{at}, '-p', $server->{pid},
		(map { ('-r', $_) } @TEMPLATES), '-c', $run{connections},
		'-d', $run{seconds} || $opt{seconds}, '-w', $run{warmup} // 0.3,
		'-n', 1024, '-S', 1 + int rand 9_000_000,
	);
	push @args, '-K', $run{keys} if $run{keys};
	push @args, '-F', $FRESH if !$run{keys};
	push @args, '-R', $run{rate} if $run{rate};
	my %load = (%run, server => $server, cpu => cluster_cpu($server->{pg}));
	$load{pid} = open $load{out}, '-|';
	die "fork: $!" if !defined $load{pid};
	if ($load{pid} == 0) {
		{ exec $tool{polload}, @args }
		POSIX::_exit(127);
	}
	return \%load;
}

sub load_end {
	my $load = shift;
	my $out  = $load->{out};
	my %got;
	while (my $line = <$out>) {
		print "    $load->{server}{name}: $line" if $opt{raw};
		if ($line =~ /^answer (\d+) (.*)/) {
			$got{answers}{$2} = $1;
		} else {
			%got = (%got, $line =~ /(\w+)=(\S+)/g);
		}
	}
	close $out;
	$got{rate} or die "no result from polload\n";
	$got{errors} == 0 or warn "$load->{server}{name}: $got{errors} errors\n";
	$FRESH += $got{total} + $load->{connections} + 1000 if !$load->{keys};
	$FRESH++ while $FRESH % 1024;
	$got{db_us} = 1e6 * (cluster_cpu($load->{server}{pg}) - $load->{cpu})
		/ $got{total};
	return \%got;
}

sub load { return load_end(load_start(@_)) }

# Everything was answered so, and nothing else.  (The others exempt some
# networks, which among random addresses are less than one of a hundred.)
sub expect {
	my ($server, $got, $want) = @_;
	my $answers = $got->{answers};
	my @other   = grep { !/$want/ } keys %$answers;
	my $count   = 0;
	$count += $answers->{$_} for @other;
	die "$server->{name}: expected only $want, got: @other\n"
		if $count > ($server->{name} =~ /grey/ ? $got->{requests} / 100 : 0);
	return;
}

# All of some keys, once or more often.
sub load_all {
	my ($server, $keys, $seconds) = @_;
	while (load($server, connections => 100, keys => $keys, warmup => 0,
		seconds => $seconds)->{total} < $keys) {
		$seconds *= 2;
	}
	return;
}

# The keys that polload takes with keys => N, as they stand in policyd.greylist.
sub put_known {
	my ($dbh, $keys) = @_;
	open my $in, '-|', $tool{polload}, '-P', '-K', $keys or die "polload: $!";
	$dbh->do('SET policyd.is_daemon = yes');
	$dbh->do('CREATE TEMP TABLE k (client text, sender text, recipient text)');
	$dbh->do('COPY k FROM STDIN (DELIMITER \' \')');
	while (my $line = <$in>) {
		my ($address, $key, $to) = split ' ', $line;
		my $client = $. % 2 ? "$key.net" : $address =~ s/\d+$/0\/24/r;
		$dbh->pg_putcopydata("$client from.$key\@sender.example.net "
			. "to.$to\@example.org\n");
	}
	$dbh->pg_putcopyend;
	close $in;
	$dbh->do(q{INSERT INTO policyd.greylist (client, sender, recipient,
		first_seen, last_seen, passed_at, attempts)
		SELECT client, sender, recipient, now() - interval '3 days',
		now() - interval '1 day', now() - interval '2 days', 2 FROM k});
	$dbh->do(q{INSERT INTO policyd.client (client, passes)
		SELECT DISTINCT client, 1 FROM k});
	$dbh->do('DROP TABLE k');
	$dbh->do('RESET policyd.is_daemon');
	$dbh->do('VACUUM ANALYZE policyd.greylist, policyd.client');
	return;
}

1;
