#!/usr/bin/perl

# SIGHUP applies the configuration whole or not at all; SIGTERM leaves nobody
# with half an answer; sockets that are not ours are left alone.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Select;
use IO::Socket::UNIX;
use POSIX ();
use Socket qw(SOCK_DGRAM SOCK_STREAM);
use Test::More;
use Time::HiRes qw(sleep time);

use PolicydTest qw(block free_port policyd_path site slurp soon spew wait_for);

my $pg = site(<<'SQL');
INSERT INTO policyd.domain (name, recipients) VALUES ('example.com', 'listed');
INSERT INTO policyd.address (address) VALUES ('bob@example.com');
SQL

my $OK      = qr/^DUNNO$/;
my $UNKNOWN = qr/^550 5\.1\.1 /;

sub daemon {
	my %ini = @_;
	return PolicydTest->new(
		conninfo => $pg->conninfo(user => 'policyd'),
		ini      => \%ini
	);
}

my $d = daemon()->start;

# ---- SIGHUP, good ----

{
	my $old = $d->connect;
	like($old->ask(recipient => 'no@example.com'), $UNKNOWN, 'before');
	$d->write_ini(reply =>
			{ unknown_user => '550 5.1.1 Nobody', relay_denied => '550 5.7.1 No' },
		rcpt => { max_recipients => 7 });
	$d->signal('HUP');
	soon {
		$d->ask(recipient => 'no@example.com') eq '550 5.1.1 Nobody'
	}
	'a new text is in force';
	is($d->ask(recipient => 'x@other.example'), '550 5.7.1 No', 'another');
	like(
		$d->ask(
			protocol_state  => 'DATA',
			recipient       => '',
			recipient_count => 8
		),
		qr/^452 4\.5\.3 /,
		'a new number'
	);
	is($old->ask(recipient => 'no@example.com'),
		'550 5.1.1 Nobody', 'on connections that were open as well');
	is($d->ask(recipient => 'bob@example.com'), 'DUNNO', 'the tables are there');
}

# ---- SIGHUP, what the tables are read by ----

{
	my $hup = sub { $d->write_ini(@_); $d->signal('HUP') };
	my $to = sub { $d->ask(recipient => shift) // 'none' };

	$hup->(rcpt => { fold_local_part => 'no', recipient_delimiter => '-' });
	soon { $to->('BOB@example.com') =~ $UNKNOWN } 'fold_local_part = no';
	soon { $to->('bob-x@example.com') =~ $OK } 'another delimiter';
	like($to->('bob+x@example.com'), $UNKNOWN,       'not the old one');
	like($to->('bob@example.com'),   $OK, 'others as before');
	$hup->();
	soon { $to->('BOB@example.com') =~ $OK } 'fold_local_part = yes';
	like($to->('bob+x@example.com'), $OK, 'the old delimiter');

	$hup->(lookup => { addresses => q{SELECT 'eve@example.com'} });
	soon { $to->('eve@example.com') =~ $OK } 'another query';
	soon { $to->('bob@example.com') =~ $UNKNOWN } 'which is all there is';
	$hup->();
	soon { $to->('bob@example.com') =~ $OK } 'our tables again';
	soon { $to->('eve@example.com') =~ $UNKNOWN } 'and only those';

	# Another database, with other rows.
	$pg->psql('CREATE DATABASE second');
	my $other = $pg->conninfo(user => 'policyd', dbname => 'second');
	{
		local $pg->{dbname} = 'second';
		PolicydTest::install_schema($pg);
		$pg->psql(q{INSERT INTO policyd.domain (name, recipients)
			VALUES ('second.example', 'any')});
	}
	$hup->(database => { conninfo => $other });
	soon { $to->('who@second.example') =~ $OK } 'another database';
	soon { $to->('bob@example.com') =~ /^550 5\.7\.1 / } 'and only that';
	{
		local $pg->{dbname} = 'second';
		$pg->psql(q{INSERT INTO policyd.domain (name, recipients)
			VALUES ('third.example', 'any')});
	}
	soon { $to->('who@third.example') =~ $OK } 'which is followed', 2;
	$hup->();
	soon { $to->('bob@example.com') =~ $OK } 'back to the first';
	soon { $to->('who@second.example') =~ /^550 5\.7\.1 / } 'and only that';

	# One that cannot be reached: what is known goes on.
	$hup->(database => { conninfo => "host=$d->{dir} dbname=x" });
	like($to->('bob@example.com'), $OK, 'a database that is not there');
	like($to->('no@example.com'), $UNKNOWN, 'what is known goes on');
	$hup->();
	$pg->psql(q{INSERT INTO policyd.address (address)
		VALUES ('back@example.com')});
	soon { $to->('back@example.com') =~ $OK } 'and the right one again';
}

# ---- SIGHUP, bad ----

{
	$d->write_ini(reply => { unknown_user => '550 5.1.1 Nobody' },
		rcpt => { max_recipients => 7 });
	$d->signal('HUP');
	soon {
		$d->ask(recipient => 'no@example.com') eq '550 5.1.1 Nobody'
	}
	'before';
	my $mark = $d->log_mark;
	$d->write_ini(
		reply => { unknown_user   => '550 5.1.1 Other text' },
		rcpt  => { max_recipients => 'many', no_such_key => 'x' },
		log   => { level          => 'loud' }
	);
	$d->signal('HUP');
	soon { $d->log_since($mark) =~ /no_such_key/ } 'an unknown key is logged';
	soon { $d->log_since($mark) =~ /max_recipients/ } 'so is a bad number';
	soon { $d->log_since($mark) =~ /level/ } 'so is a bad word';
	like($d->log_since($mark), qr/\Q$d->{inifile}\E/, 'with the file');
	is($d->ask(recipient => 'no@example.com'),
		'550 5.1.1 Nobody', 'nothing of it is in force');
	like(
		$d->ask(
			protocol_state  => 'DATA',
			recipient       => '',
			recipient_count => 8
		),
		qr/^452 /,
		'the old number holds'
	);

	$mark = $d->log_mark;
	unlink $d->{inifile};
	$d->signal('HUP');
	soon { $d->log_since($mark) =~ /\Q$d->{inifile}\E/ }
	'a file that has gone is logged';
	is($d->ask(recipient => 'no@example.com'),
		'550 5.1.1 Nobody', 'the old one holds');

	# A reply that Postfix would take for a permission.
	$mark = $d->log_mark;
	$d->write_ini(reply => { unknown_user => '550' });
	$d->signal('HUP');
	soon { $d->log_since($mark) =~ /unknown_user/ } 'an unsafe reply is logged';
	is($d->ask(recipient => 'no@example.com'),
		'550 5.1.1 Nobody', 'and not used');
}

# ---- SIGHUP, other places to listen ----

{
	my $port = free_port();
	my $old  = $d->connect;
	my $mark = $d->log_mark;
	like($old->ask(recipient => 'no@example.com'), $UNKNOWN, 'before');
	$d->write_ini(policyd =>
			{ listen => "unix:$d->{dir}/second.sock inet:127.0.0.1:$port" });
	$d->signal('HUP');
	soon { PolicydTest::Conn->new("unix:$d->{dir}/second.sock") }
	'a new unix socket';
	my $conn = wait_for { PolicydTest::Conn->new("inet:127.0.0.1:$port") };
	ok($conn, 'a new TCP socket');
	like($conn->ask(recipient => 'no@example.com'), $UNKNOWN, 'answers')
		if $conn;
	soon { !-e $d->{socket} } 'the old one is removed';
	like($old->ask(recipient => 'no@example.com'),
		$UNKNOWN, 'connections through it go on');

	# One of two places cannot be had: nothing changes.
	my $taken = IO::Socket::INET->new(
		LocalAddr => '127.0.0.1',
		LocalPort => 0,
		Listen    => 1
	);
	$mark = $d->log_mark;
	$d->write_ini(
		policyd => {
			listen => "unix:$d->{dir}/third.sock inet:127.0.0.1:"
				. $taken->sockport
		},
		reply => { unknown_user => '550 5.1.1 Third' }
	);
	$d->signal('HUP');
	soon { $d->log_since($mark) =~ /\Q@{[ $taken->sockport ]}\E/ }
	'an address that is taken is logged';
	unlike($conn->ask(recipient => 'no@example.com'),
		qr/Third/, 'nothing of that configuration is in force');
	ok(!-e "$d->{dir}/third.sock", 'not half of it either');
	ok(PolicydTest::Conn->new("unix:$d->{dir}/second.sock"),
		'the old places are there');
	close $taken;
}
{
	# Without end, while others ask.
	$d->write_ini;
	$d->signal('HUP');
	soon { $d->connect } 'back to the first socket';
	my $conn = $d->connect;
	my $bad  = 0;
	for (1 .. 50) {
		$d->signal('HUP');
		$bad++ if ($conn->ask(recipient => 'bob@example.com') // '') !~ $OK;
		$bad++ if ($conn->ask(recipient => 'no@example.com') // '') !~ $UNKNOWN;
	}
	is($bad, 0, '50 reloads while others ask');
}
is($d->stop, 0, 'exit status');
ok(!-e $d->{socket}, 'the socket is removed');

# ---- SIGTERM under load ----

# Asks without pause until the connection ends; "bad" is anything but whole
# answers and then the end.
sub asker {
	my ($d, $pipelined) = @_;
	pipe my $from, my $to or die "pipe: $!";
	my $pid = fork;

	die "fork: $!" if !defined $pid;
	if ($pid == 0) {
		close $from;
		my ($count, $bad) = (0, '');
		my $conn = $d->connect;
		while ($conn && !$conn->{closed}) {
			last
				if !$conn->send(
				block(recipient => 'bob@example.com') x $pipelined);
			for (1 .. $pipelined) {
				my $got = $conn->reply(10);
				last if !defined $got;
				$count++;
				$bad = $got if $got !~ $OK;
			}
			syswrite $to, '.' if $count == $pipelined;
		}
		$bad = 'half: ' . $conn->pending if length $conn->pending;
		$bad = 'malformed' if defined $conn->{malformed};
		syswrite $to, "$count $bad";
		POSIX::_exit(0);
	}
	close $to;
	return { pid => $pid, from => $from };
}

for my $signal (qw(TERM INT)) {
	$d->start;
	my @asker = map { asker($d, $_ % 2 ? 1 : 20) } 1 .. 6;
	sysread $_->{from}, my $dot, 1 for @asker;    # each has been answered
	my $began = time;
	$d->signal($signal);
	my $status = $d->wait_end(10);
	my $took   = time - $began;
	is($status, 0, "SIG$signal under load: exit status");
	cmp_ok($took, '<', 5, 'within 5 s');
	my @bad;
	for my $asker (@asker) {
		local $/;
		my ($count, $bad) = split / /, readline($asker->{from}), 2;
		push @bad, $bad if length $bad;
		waitpid $asker->{pid}, 0;
	}
	is("@bad", '', 'no answer was wrong or cut');
	ok(!-e $d->{socket}, 'the socket is removed');
}
{
	# Held back refusals, half a request, idle ones.
	$d->write_ini(rcpt => { errors_wait => '30s' });
	$d->start;
	my $held = $d->connect;
	my $half = $d->connect;
	my $idle = $d->connect;
	$held->send(block(recipient => 'no@example.com'));
	$half->send("request=smtpd_access_policy\n");
	is($d->ask(recipient => 'bob@example.com'), 'DUNNO', 'they were read');
	my $began = time;
	$d->signal('TERM');
	like($held->reply(5), $UNKNOWN, 'a refusal that is held back is given');
	is($d->wait_end(10), 0, 'exit status');
	cmp_ok(time - $began, '<', 5, 'within 5 s');
	ok($half->closed(1), 'half a request is dropped');
	ok($idle->closed(1), 'an idle connection is closed');
	is($half->pending . $idle->pending, '', 'without an answer');
	$d->write_ini;
}

{
	# More requests behind a refusal than a buffer holds.
	$d->write_ini(rcpt => { errors_wait => '30s' });
	$d->start;
	my $held = $d->connect;
	my $text = block(recipient => 'bob@example.com');
	my $fits = int((65536 - 2000) / length $text);
	$held->sock->blocking(0);
	$held->send(block(recipient => 'no@example.com') . $text x (2 * $fits));
	$held->sock->blocking(1);
	is($d->ask(recipient => 'bob@example.com'), 'DUNNO', 'they are read')
		for 1 .. 10;    # a piece a turn
	my $began = time;
	$d->signal('TERM');
	like($held->reply(5) // 'none', $UNKNOWN, 'the refusal is given');
	my $count = 0;
	$count++ while ($held->reply(5) // '') =~ $OK;
	cmp_ok($count, '>=', $fits, 'and what is behind it answered');
	is($d->wait_end(10), 0, 'exit status');
	cmp_ok(time - $began, '<', 2, 'without waiting for the reader');
	$d->write_ini;
}

# ---- what systemd is told ----

{
	my $path = "$d->{dir}/notify.sock";
	my $notify = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Local => $path)
		or die "$path: $!";
	my $told = '';
	my $hear = sub {
		my $sel = IO::Select->new($notify);
		while ($sel->can_read(0.05)) {
			recv $notify, my $text, 4096, 0;
			$told .= "$text\n";
		}
		return $told;
	};
	my $mark = $d->log_mark;
	my $lock = $pg->dbh;

	# A first read that waits, without a copy to serve from.
	unlink glob "$d->{statedir}/*";
	$lock->begin_work;
	$lock->do('LOCK policyd.address');
	local $d->{prefix} = ['env', "NOTIFY_SOCKET=$path"];
	$d->spawn;
	soon { $d->log_since($mark) =~ /database connection up/ } 'it reads';
	$d->signal('HUP');
	soon { $d->log_since($mark) =~ /reloaded/ } 'and is told to reload';
	unlike($hear->(), qr/READY=1/, 'that does not make it ready');
	$lock->rollback;
	soon { $hear->() =~ /^READY=1$/m } 'what was read does';
	$told = '';
	$d->signal('HUP');
	soon { $hear->() =~ /^RELOADING=1\nMONOTONIC_USEC=\d+\nREADY=1$/m }
	'a reload is told';

	# Somebody who reads no answers keeps it from ending at once.
	my $slow = $d->connect;
	$slow->sock->blocking(0);
	$slow->send(block() x 20) for 1 .. 500;
	is($d->ask(recipient => 'bob@example.com'), 'DUNNO', 'a slow reader');
	$mark = $d->log_mark;
	$told = '';
	$d->signal('TERM');
	soon { $d->log_since($mark) =~ /stopping/ } 'told to stop';
	$d->signal('HUP');
	is($d->wait_end(10), 0, 'exit status');
	unlike($d->log_since($mark), qr/reloaded/, 'and no more to reload');
	like($hear->(), qr/\ASTOPPING=1\n\z/, 'so it is told');
	close $notify;
	unlink $path;
}

{
	# No log and no input: their numbers are not those of sockets.
	local $d->{prefix} = [qw(sh -c), 'exec "$@" <&- >&- 2>&-', 'sh'];
	$d->start;
	unlike(join(' ', map { readlink "/proc/$d->{pid}/fd/$_" } 0 .. 2),
		qr/socket:|anon_inode:/, 'started without descriptors');
	is($d->stop, 0, 'exit status');
}

# ---- sockets ----

# Run it until it ends by itself: it must refuse to start.
sub refuses {
	my ($d, $what) = @_;
	my $mark = $d->log_mark;
	$d->spawn;
	my $status = $d->wait_end(10);
	ok(defined $status && $status != 0, "$what: it does not start");
	like($d->log_since($mark), qr/\Q$d->{socket}\E/, "$what: and says why");
	$d->stop;
	return;
}

{
	# Left behind by a daemon that was killed.
	$d->start;
	$d->signal('KILL');
	$d->wait_end(5);
	ok(-S $d->{socket}, 'a killed daemon leaves its socket');
	$d->start;
	is($d->ask(recipient => 'bob@example.com'), 'DUNNO', 'it is replaced');
	is($d->stop, 0, 'exit status');
}
{
	my $other = IO::Socket::UNIX->new(
		Type   => SOCK_STREAM,
		Local  => $d->{socket},
		Listen => 1
	) or die "$d->{socket}: $!";
	my $inode = (stat $d->{socket})[1];
	refuses($d, 'a live socket of another process');
	is((stat $d->{socket})[1], $inode, 'it is untouched');
	ok(IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => $d->{socket}),
		'and works');
	close $other;
	unlink $d->{socket};
}
{
	spew($d->{socket}, 'precious');
	refuses($d, 'a file');
	is(slurp($d->{socket}), 'precious', 'it is untouched');
	unlink $d->{socket};
	mkdir $d->{socket};
	refuses($d, 'a folder');
	ok(-d $d->{socket}, 'it is untouched');
	rmdir $d->{socket};
	spew("$d->{dir}/target", 'precious');
	symlink "$d->{dir}/target", $d->{socket};
	refuses($d, 'a symbolic link to a file');
	is(slurp("$d->{dir}/target"), 'precious', 'it is untouched');
	unlink $d->{socket};
}
{
	$d->start;
	my $second = daemon(
		policyd => { listen => "unix:$d->{socket}" });
	$second->{socket} = $d->{socket};
	refuses($second, 'the socket of another policyd');
	is($d->ask(recipient => 'bob@example.com'), 'DUNNO', 'the first goes on');
	ok($d->connect, 'and can be reached');

	# What took the place of its socket meanwhile is not its own.
	unlink $d->{socket};
	spew($d->{socket}, 'precious');
	is($d->stop, 0, 'exit status');
	is(slurp($d->{socket}), 'precious', 'a file in its place is untouched');
	unlink $d->{socket};

	$d->start;
	unlink $d->{socket};
	my $other = IO::Socket::UNIX->new(
		Type   => SOCK_STREAM,
		Local  => $d->{socket},
		Listen => 1
	) or die "$d->{socket}: $!";
	is($d->stop, 0, 'exit status');
	ok(-S $d->{socket}, 'a socket in its place is untouched');
	close $other;
	unlink $d->{socket};
}
{
	$d->write_ini(policyd => { socket_mode => '0600' });
	$d->start;
	my $inode = (stat $d->{socket})[1];
	is((stat _)[2] & 07777, 0600, 'socket_mode');
	$d->write_ini(policyd => { socket_mode => '0666' });
	$d->signal('HUP');
	soon { ((stat $d->{socket})[2] & 07777) == 0666 } 'another, by SIGHUP';
	is((stat $d->{socket})[1], $inode, 'of the same socket');
	my @group = grep { $_ != (stat $d->{socket})[5] } split ' ', $);
	push @group, 1 if $> == 0;
	SKIP: {
		skip 'of one group only', 1 if !@group;
		$d->write_ini(
			policyd => { socket_group => scalar getgrgid $group[0] });
		$d->signal('HUP');
		soon { (stat $d->{socket})[5] == $group[0] } 'another group';
	}
	is($d->stop, 0, 'exit status');
	$d->write_ini;
	$d->start;
	is((stat $d->{socket})[2] & 07777, 0660, 'its default');
	is(((stat "$d->{dir}/control.sock")[2] // 0) & 07777,
		0660, 'the mode of the control socket');
	is($d->stop, 0, 'exit status');
	ok(!-e "$d->{dir}/control.sock", 'the control socket is removed');
}

done_testing();
