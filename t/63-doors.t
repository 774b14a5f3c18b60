#!/usr/bin/perl

# Who can reach the sockets: their modes, and a warning for those that have
# none and are open to other hosts.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Socket::IP;
use Test::More;

use PolicydTest qw(free_port site soon);

my $pg = site(q{INSERT INTO policyd.domain (name, recipients)
	VALUES ('example.com', 'any')});
my $WARNS = qr/level=warning msg="[^"]*whoever reaches it may ask"([^\n]*)/;

sub daemon {
	my ($listen, @more) = @_;
	my $d = PolicydTest->new(
		conninfo => $pg->conninfo(user => 'policyd'), @more);
	$d->write_ini(
		policyd => { listen => "unix:$d->{socket} $listen" });
	return $d->start;
}

# "host=… port=…" of each warning.
sub warnings {
	my $d = shift;
	return [ $d->log =~ /$WARNS/g ];
}

my $port = free_port();
my $d    = daemon("inet:127.0.0.1:$port inet:localhost:" . free_port());
is_deeply(warnings($d), [], 'loopback: nothing to say');
my @sockets = ("$d->{dir}/policyd.sock", "$d->{dir}/control.sock");
is(sprintf('%o', (stat $_)[2] & 07777), '660', "mode of $_") for @sockets;
$d->stop;

my $everywhere = free_port('0.0.0.0');
$d = daemon("inet:0.0.0.0:$everywhere inet:127.0.0.1:$port");
is_deeply(warnings($d), [" host=0.0.0.0 port=$everywhere"],
	'all of IPv4: a warning');
$d->write_ini(policyd => { listen => "unix:$d->{socket}" });
$d->reload;
my $mark = $d->log_mark;
$d->write_ini(policyd =>
		{ listen => "unix:$d->{socket} inet:0.0.0.0:$everywhere" });
$d->reload;
soon { $d->log_since($mark) =~ $WARNS } 'and so after a reload';
$d->stop;

SKIP: {
	my $v6 = IO::Socket::IP->new(LocalHost => '::1', Listen => 1);
	skip 'no IPv6 here', 2 if !$v6;
	close $v6;
	$d = daemon("inet:[::1]:$port");
	is_deeply(warnings($d), [], 'loopback of IPv6');
	$d->stop;
	$d = daemon("inet:[::]:$port");
	is_deeply(warnings($d), [" host=:: port=$port"], 'all of IPv6');
	$d->stop;
}

# Sockets that systemd hands over are no different.
{
	my $hand_over = <<'END';
		use IO::Socket::IP; use IO::Socket::UNIX; use POSIX;
		my ($path, @command) = @ARGV;
		my @sock = (
			IO::Socket::UNIX->new(Type => SOCK_STREAM, Local => $path,
				Listen => 9),
			map { IO::Socket::IP->new(LocalHost => $_, Listen => 9) }
				qw(127.0.0.1 0.0.0.0));
		my @high = map { fcntl $_, F_DUPFD, 20 } @sock;
		POSIX::dup2($high[$_], 3 + $_) for 0 .. 2;
		POSIX::close($_) for @high;
		$ENV{LISTEN_FDS} = 3;
		$ENV{LISTEN_PID} = $$;
		exec @command;
END
	my $t = PolicydTest->new(conninfo => $pg->conninfo(user => 'policyd'));
	$t->{prefix} = [ $^X, '-MFcntl', '-e', $hand_over, $t->{socket} ];
	$t->start;
	is($t->ask(recipient => 'bob@example.com'), 'DUNNO', 'handed over');
	is(scalar @{ warnings($t) }, 1, 'one warning for three sockets');
	like(warnings($t)->[0], qr/^ host=0\.0\.0\.0 port=\d+$/, 'the open one');
	is($t->stop, 0, 'exit status');
	ok(-S $t->{socket}, 'its socket stays');
}

done_testing;
