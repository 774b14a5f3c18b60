package FaultProxy;

# SPDX-License-Identifier: MIT
#
# The network between policyd and PostgreSQL, in a process of its own:
#
#   my $net = FaultProxy->new(to => "$dir/.s.PGSQL.5432");
#   ... host=127.0.0.1 port=$net->port ...
#   $net->delay(0.3);   # every byte, both ways
#   $net->hole(1);      # nothing arrives any more, and nobody is told
#   $net->hole(0);      # what was on its way arrives

use strict;
use warnings;

use Carp qw(croak);
use IO::Socket::INET;
use IO::Socket::UNIX;
use Socket qw(IPPROTO_TCP SOCK_STREAM TCP_NODELAY);
use Time::HiRes qw(time);

use parent 'Beside';

sub new {
	my ($class, %opt) = @_;
	my $door = IO::Socket::INET->new(
		LocalAddr => '127.0.0.1',
		LocalPort => 0,
		Listen    => 50
	) or croak "no free port: $!";

	return $class->beside(sub { _run($door, $opt{to}, $_[0]) },
		port => $door->sockport);
}

sub port { return $_[0]{port} }
sub delay { return _tell($_[0], "delay $_[1]") }
sub hole { return _tell($_[0], "hole $_[1]") }

# In force when it returns.
sub _tell {
	my ($self, $line) = @_;
	my $control = $self->{control};
	print {$control} "$line\n";
	defined readline $control or croak 'the proxy has ended';
	return;
}

# ---- the process ----

# A connection is two ends; what one end has read waits for the other in a
# queue of [when, bytes], where no bytes are its end.
sub _accept {
	my ($door, $to, $ends) = @_;
	my $client = $door->accept or return;
	my $server = IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => $to)
		or return;

	setsockopt $client, IPPROTO_TCP, TCP_NODELAY, 1;
	my @pair = map { { sock => $_, queue => [] } } $client, $server;
	@$_{qw(other)} = $pair[0] == $_ ? $pair[1] : $pair[0] for @pair;
	for my $end (@pair) {
		$end->{sock}->blocking(0);
		$ends->{ fileno $end->{sock} } = $end;
	}
	return;
}

sub _close {
	my ($ends, $end) = @_;
	for my $one ($end, $end->{other}) {
		delete $ends->{ fileno $one->{sock} };
		close $one->{sock};
	}
	delete $end->{other}{other};
	delete $end->{other};
	return;
}

# What is due goes out; false once the connection is over.
sub _write {
	my ($end, $now) = @_;
	my $queue = $end->{queue};

	while (@$queue && $queue->[0][0] <= $now) {
		my $bytes = $queue->[0][1];
		return 0 if !length $bytes;
		my $n = syswrite $end->{sock}, $bytes;
		if (!defined $n) {
			return $!{EAGAIN} || $!{EINTR} ? 1 : 0;
		}
		if ($n < length $bytes) {
			$queue->[0][1] = substr $bytes, $n;
			return 1;
		}
		shift @$queue;
	}
	return 1;
}

sub _read {
	my ($end, $when) = @_;
	my $n = sysread $end->{sock}, my $bytes, 65536;

	return if !defined $n && ($!{EAGAIN} || $!{EINTR});
	push @{ $end->{other}{queue} }, [ $when, $n ? $bytes : '' ];
	$end->{over} = 1 if !$n;
	return;
}

sub _run {
	my ($door, $to, $control) = @_;
	my %ends;
	my ($delay, $hole) = (0, 0);

	while (1) {
		my $now = time;
		my ($in, $out, $next) = ('', '', 1);

		vec($in, fileno $control, 1) = 1;
		vec($in, fileno $door, 1) = 1 if !$hole;
		my @all = $hole ? () : values %ends;
		for my $end (@all) {
			next if !$end->{other};
			if (!_write($end, $now)) {
				_close(\%ends, $end);
				next;
			}
			vec($in, fileno $end->{sock}, 1) = 1 if !$end->{over};
			my $first = $end->{queue}[0] or next;
			if ($first->[0] <= $now) {
				vec($out, fileno $end->{sock}, 1) = 1;
			} elsif ($first->[0] - $now < $next) {
				$next = $first->[0] - $now;
			}
		}
		next if select($in, $out, undef, $next) <= 0;
		if (vec $in, fileno $control, 1) {
			my $n = sysread $control, my $line, 100;
			return if !$n;
			$delay = $1 if $line =~ /^delay (\S+)/;
			$hole  = $1 if $line =~ /^hole (\d)/;
			print {$control} "done\n";
			next;
		}
		_accept($door, $to, \%ends) if !$hole && vec $in, fileno $door, 1;
		for my $fd (keys %ends) {
			_read($ends{$fd}, time + $delay)
				if vec($in, $fd, 1) && !$ends{$fd}{over};
		}
	}
	return;
}

1;
