#!/usr/bin/perl

# The control socket and `policyctl status`: what the daemon tells of itself,
# to whom, and that nobody who asks holds it up.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Socket::UNIX;
use JSON::PP qw(decode_json);
use Test::More;

use PolicydTest qw(policyctl_path site slurp soon spew wait_for);

$SIG{PIPE} = 'IGNORE';	# who is sent away may not have been read

my $pg = site(<<'SQL');
INSERT INTO policyd.domain (name, recipients) VALUES ('example.com', 'listed');
INSERT INTO policyd.address (address) VALUES ('bob@example.com');
INSERT INTO policyd.rule (priority, conditions, action) VALUES
  (1, '{"sender = later@example.net"}', '450 4.7.1 Later'),
  (1, '{"sender = ok@example.net"}', 'OK'),
  (1, '{"sender = head@example.net"}', 'PREPEND X-A: b');
SQL

sub daemon {
	my ($ini, @more) = @_;
	return PolicydTest->new(
		conninfo => $pg->conninfo(user => 'policyd'),
		ini      => { database => { reconnect_max => '300ms' }, %$ini },
		@more
	);
}

sub run {
	my ($d, @args) = @_;
	my $pid = open my $out, '-|';

	die "fork: $!" if !defined $pid;
	if ($pid == 0) {
		open STDERR, '>&', \*STDOUT;
		exec policyctl_path(), '-c', $d->{inifile}, @args or POSIX::_exit(127);
	}
	local $/;
	my $text = <$out>;
	close $out;
	return ($? >> 8, $text);
}

# (exit status, what it said)
sub status {
	my $d = shift;
	my ($exit, $text) = run($d, '--json', 'status');
	my $got = eval { decode_json($text) };
	return ($exit, $got || { state => $text, problems => [$text] });
}

sub state { return (status($_[0]))[1]{state} }

# One problem is that.
sub ails {
	my ($d, $what) = @_;
	my ($exit, $got) = status($d);
	return $exit == 1 && $got->{state} eq 'degraded'
		&& grep { /$what/ } @{ $got->{problems} };
}

sub connect_to {
	return IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => $_[0]);
}

# All that comes back within ten seconds; undef: it was not closed by then.
sub answer_to {
	my ($path, $bytes) = @_;
	my $s = connect_to($path) or return "no connection: $!";

	syswrite $s, $bytes if length $bytes;
	return all_of($s);
}

sub all_of {
	my $s    = shift;
	my $text = '';
	local $SIG{ALRM} = sub { die "alarm\n" };

	return eval {
		alarm 10;
		1 while sysread $s, $text, 65536, length $text;
		alarm 0;
		$text;
	};
}

# ---- what it tells ----

{
	my $d = daemon({});
	my ($exit, $text) = run($d, 'status');
	is($exit, 1, 'no daemon: exit status 1');
	like($text, qr/does not answer at \Q$d->{dir}\E.*\nhint: /,
		'and where it was looked for');

	$d->start;
	soon { state($d) eq 'well' } 'all is well';
	my @asked = map { [ recipient => 'bob@example.com', sender => $_ ] }
		map {"$_\@example.net"} qw(a b later ok head);
	$d->ask(@$_) for @asked, [ recipient => 'no@example.com' ];
	my $before = (status($d))[1];
	$d->ask(@$_) for @asked, [ recipient => 'no@example.com' ],
		[ recipient => 'x@example.org' ];
	my ($well, $got) = status($d);
	is($well, 0, 'exit status 0');
	my %more = map { $_ => $got->{$_} - $before->{$_} }
		grep {/^answers_|^replies_|^requests$/} keys %$got;
	delete @more{ grep { !$more{$_} } keys %more };
	is_deeply(
		\%more,
		{
			requests        => 7, answers_dunno  => 2,
			answers_permit  => 1, answers_defer  => 1,
			answers_reject  => 2, answers_other  => 1,
			replies_unknown_user => 1, replies_relay_denied => 1
		},
		'what was asked and answered'
	);
	is($got->{pid}, $d->pid, 'pid');
	my ($rss) = slurp('/proc/' . $d->pid . '/status') =~ /VmRSS:\s+(\d+)/;
	cmp_ok(abs($got->{memory} - $rss * 1024), '<', 8e6, 'memory');
	cmp_ok($got->{uptime}, '<', 3600, 'uptime');
	cmp_ok(abs($got->{$_} - time), '<', 3600, $_)
		for qw(tables_read database_since);
	is($got->{reloaded}, undef, 'it was never reloaded');
	is_deeply(
		{ map { $_ => $got->{$_} } qw(domains addresses rules
				tables_reads database_up database_wanted connections_max) },
		{
			domains => 1, addresses => 1, rules => 3, tables_reads => 1,
			database_up => 7, database_wanted => 7, connections_max => 4096
		},
		'tables, connections'
	);
	is_deeply(
		[ map { $_ ? 'yes' : 'no' }
			@$got{qw(ready tables_from_copy greylist_listening)} ],
		[qw(yes no yes)],
		'yes and no'
	);

	my $now = $got->{connections};
	my @more = map { $d->connect } 1 .. 3;
	soon { (status($d))[1]{connections} == $now + 3 } 'three connections more';
	cmp_ok((status($d))[1]{connections_accepted},
		'>', $got->{connections_accepted}, 'accepted');
	$pg->psql(q{INSERT INTO policyd.address (address)
		VALUES ('new@example.com')});
	soon { (status($d))[1]{addresses} == 2 } 'one row more';

	($exit, $text) = run($d, 'status');
	is($exit, 0, 'for people');
	like($text, qr/\Awell\n\n/, 'the sum of it comes first');
	like($text, qr/^requests +\d+ +\S/m, 'a value and what it is');
	like($text, qr/^memory +[\d.]+ MB +/m, 'bytes');
	like($text, qr/^tables_read +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d /m, 'a time');
	like($text, qr/^reloaded +never /m, 'never');
	is((run($d, 'status', 'more'))[0], 2, 'wrong usage: exit status 2');

	# The protocol: each value once, with all that is needed to show it.
	my @lines = split /\n/, answer_to("$d->{dir}/control.sock", "status\n");
	is(pop @lines, 'end', 'the last line');
	my (%seen, @odd);
	for (@lines) {
		my ($name, $kind, $unit, $value, $help) = split /\t/, $_, -1;
		push @odd, $_
			if $seen{$name}++
			|| $name !~ /^[a-z_]+$/
			|| $kind !~ /^(?:text|yesno|gauge|counter|time)$/
			|| $unit !~ /^(?:|seconds|bytes)$/
			|| ($kind ne 'text' && $value !~ /^-?\d+$/)
			|| !length($help // '');
	}
	is_deeply(\@odd, [], scalar(@lines) . ' values, each well-formed');
	is_deeply([ sort keys %$got ], [ sort qw(state problems), keys %seen ],
		'and all of them are in the JSON');
	is($d->stop, 0, 'exit status');
	ok(!-e "$d->{dir}/control.sock", 'the socket is gone');
}

# ---- when it is not well ----

{
	my $d = daemon({ greylist => { enabled => 'yes' } })->start;
	soon { state($d) eq 'well' } 'all is well';
	$pg->stop;
	soon { ails($d, 'PostgreSQL is away') } 'PostgreSQL is away: exit status 1';
	$d->ask(recipient => 'bob@example.com');
	my $got = (status($d))[1];
	is($got->{greylist_unsaved}, 1, 'one attempt is not written');
	is($got->{database_up}, 0, 'no connection');
	like((run($d, 'status'))[1], qr/\Adegraded\n  \S/, 'people are told why');
	$pg->start;
	soon { state($d) eq 'well' } 'and well again', 20;
	soon { (status($d))[1]{greylist_unsaved} == 0 } 'what was seen is written';
	is((status($d))[1]{greylist_known}, 1, 'and known');

	soon { -e "$d->{statedir}/tables.copy" } 'there is a copy';
	$pg->stop;
	$d->stop;
	$d->start(until => 'reply');
	soon { ails($d, 'copy of the tables') } 'a start from the copy is told';
	ok((status($d))[1]{tables_from_copy}, 'among the values, too');
	$pg->start;
	soon { state($d) eq 'well' } 'until PostgreSQL is back', 20;
	unlink "$d->{statedir}/tables.copy";
	mkdir "$d->{statedir}/tables.copy" or die $!;
	$pg->psql(q{INSERT INTO policyd.address VALUES ('copy@example.com')});
	soon { ails($d, 'copy of the tables cannot be written') }
	'a copy that cannot be written', 20;
	rmdir "$d->{statedir}/tables.copy";
	$d->stop;
	$d->start;
	soon { state($d) eq 'well' } 'and one that can';

	$d->write_ini(policyd => { nonsense => 1 });
	$d->reload;
	# (policyctl, which reads it too, has said what is wrong with it.)
	soon {
		answer_to("$d->{dir}/control.sock", "status\n") =~
			/^problem\t.*configuration was not taken/m
	}
	'a bad configuration';
	like((run($d, 'status'))[1], qr/nonsense/, 'policyctl names the mistake');
	$d->write_ini(policyd => { control => "$d->{dir}/other.sock" });
	my $old = connect_to("$d->{dir}/control.sock");
	$d->reload;
	soon { state($d) eq 'well' } 'a good one, with another socket';
	ok((status($d))[1]{reloaded}, 'when it was reloaded');
	ok(!-e "$d->{dir}/control.sock", 'the old one is gone');
	$d->write_ini(policyd => { control => '/nowhere/control.sock' });
	$d->reload;
	soon { $d->log =~ m{no control socket.*/nowhere} } 'one that cannot be';
	like(answer_to("$d->{dir}/other.sock", "status\n"), qr/^end$/m,
		'the old one goes on');
	is($d->stop, 0, 'exit status');
	ok(!-e "$d->{dir}/other.sock", 'and is gone at the end');
}

# ---- what stands in its place ----

{
	my $d = daemon({});
	my $path = "$d->{dir}/control.sock";

	spew($path, 'precious');
	$d->start;
	like($d->log, qr/no control socket/, 'a file that is no socket');
	is($d->ask(recipient => 'bob@example.com'), 'DUNNO', 'mail goes on');
	is($d->stop, 0, 'exit status');
	is(slurp($path), 'precious', 'it is untouched');
	unlink $path;

	my $other = IO::Socket::UNIX->new(
		Type => SOCK_STREAM, Local => $path, Listen => 5) or die $!;
	my $mark = $d->log_mark;
	$d->start;
	like($d->log_since($mark), qr/another process listens there/,
		'the socket of another');
	is($d->stop, 0, 'exit status');
	ok(connect_to($path), 'it is untouched');
	close $other;

	$d->start;
	soon { state($d) eq 'well' } 'one left behind is replaced';
	$d->signal('KILL')->wait_end;
	ok(-S $path, 'and left behind by who is killed');
	$d->start;
	soon { state($d) eq 'well' } 'and replaced';
	is($d->stop, 0, 'exit status');
}

# ---- who may ask ----

# What user $name gets: its answer, or undef.
sub as_user {
	my ($name, $path) = @_;
	my ($uid, $gid) = (getpwnam $name)[ 2, 3 ];
	my $pid = open my $out, '-|';

	die "fork: $!" if !defined $pid;
	if ($pid == 0) {
		$) = "$gid $gid";
		$( = $gid;
		$< = $> = $uid;
		print answer_to($path, "status\n") // 'no end';
		close STDOUT;
		POSIX::_exit(0);
	}
	local $/;
	my $text = <$out>;
	close $out;
	return $text;
}

SKIP: {
	skip 'other users take root', 9 if $> != 0;
	my $d = daemon({});
	my $path = "$d->{dir}/run/control.sock";

	chmod 0755, $d->{dir};
	chown((getpwnam 'nobody')[ 2, 3 ], $d->{statedir});
	$d->write_ini(policyd => { user => 'nobody', control => $path });
	$d->start;
	soon { -S $path } 'its folder is made, too';
	is(
		sprintf('%s %o', (getpwuid((stat "$d->{dir}/run")[4]))[0],
			(stat _)[2] & 07777),
		'nobody 700', 'and the daemon\'s own'
	);
	is(
		sprintf('%s %o', (getpwuid((stat $path)[4]))[0],
			(stat _)[2] & 07777),
		'nobody 660', 'and so is the socket'
	);
	like(as_user('root', $path), qr/^end$/m, 'root may ask');
	like(as_user('nobody', $path), qr/^end$/m, 'so may its own user');
	like(as_user('daemon', $path), qr/no connection: Permission denied/,
		'others cannot even connect');
	chmod 0755, "$d->{dir}/run";
	chmod 0666, $path;
	is(as_user('daemon', $path), '', 'where they can, they are told nothing')
		for 1 .. 3;
	my @lines = $d->log =~ /(control connection refused.*)/g;
	is(scalar @lines, 1, 'the log says so once a minute');
	like($lines[0], qr/ uid=1 /, 'and who it was');
	is($d->stop, 0, 'exit status');
}

# ---- nobody holds it up ----

{
	my $d    = daemon({})->start;
	my $path = "$d->{dir}/control.sock";

	like(answer_to($path, "top secret\n"), qr/\Aerror\t.*\nend\n\z/,
		'another request');
	is(answer_to($path, "\0" x 100), '', 'no request');
	is(answer_to($path, 'x' x 1000), '', 'one that is too long');
	like(answer_to($path, "status\nstatus\n"), qr/\Aversion.*\nend\n\z/s,
		'two at once get one answer');

	my @silent = map { connect_to($path) } 1 .. 8;
	is(grep({$_} @silent), 8, 'eight that say nothing');
	is(answer_to($path, "status\n"), '', 'a ninth is sent away');
	is($d->ask(recipient => 'bob@example.com'), 'DUNNO', 'mail goes on');
	close pop @silent;
	soon { answer_to($path, "status\n") =~ /^end$/m } 'one gone, one served';
	is(all_of($_), '', 'five seconds later it is closed') for $silent[0];
	soon { state($d) eq 'well' } 'and there is room again';

	# 300 that ask and do not read, some of them half.
	for (1 .. 300) {
		my $s = connect_to($path) or next;
		syswrite $s, $_ % 3 ? "status\n" : 'sta';
	}
	is($d->ask(recipient => 'bob@example.com'), 'DUNNO', 'mail goes on');
	soon { state($d) eq 'well' } 'nothing is left of them';
	is($d->stop, 0, 'exit status');
}

# Out of descriptors it waits: it does not spin.
{
	my $d = daemon({}, prefix => [qw(prlimit --nofile=40:40 --)])->start;
	soon { state($d) eq 'well' } 'all is well';
	my @conn = grep {$_} map { $d->connect } 1 .. 60;
	soon { $d->log =~ /no connection can be accepted/ } 'none is left';
	my $c = connect_to("$d->{dir}/control.sock");
	soon { $d->log =~ /no control connection can be accepted/ }
	'without descriptors it says so';
	my $busy = cpu_s($d->pid);
	$conn[0]->closed(0.5);
	cmp_ok(cpu_s($d->pid) - $busy, '<', 0.2, 'and does not spin');
	$_->close for @conn;
	syswrite $c, "status\n";
	like(all_of($c) // '', qr/^end$/m, 'and goes on');
	is($d->stop, 0, 'exit status');
}

# Seconds of processor time that a process has taken.
sub cpu_s {
	my $pid = shift;
	my ($ns) = slurp("/proc/$pid/schedstat") =~ /^(\d+)/;
	return $ns / 1e9;
}

done_testing();
