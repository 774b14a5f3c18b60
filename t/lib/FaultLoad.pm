package FaultLoad;

# SPDX-License-Identifier: MIT
#
# Mail goes on: 50 connections that ask policyd all the time, in a process of
# its own that knows of every question what became of it.
#
#   my $load = FaultLoad->new(socket => PATH, steady => [[KIND, BLOCK, RE]...]);
#   $load->phase('before', sender => 'list@stopped.example');
#   $load->phase('during'); ...
#   $load->phase('after');
#   $load->fresh(0);            # no new keys; those that wait are tried again
#   sleep 0.05 while $load->left;
#   my $seen = $load->report;   # since the first phase that named a sender
#
# 40 of them ask `steady` questions, which memory can answer.  10 bring new
# keys for greylisting, each from a network of its own, and once more after its
# delay.  Nothing is sent twice: a key that is lost on the way stays lost.

use strict;
use warnings;

use Carp qw(croak);
use JSON::PP ();
use Time::HiRes qw(time);

use parent 'Beside';

use constant {
	STEADY     => 40,      # connections
	FRESH      => 10,
	STEADY_S   => 0.025,   # from an answer to the next question
	FRESH_S    => 0.1,
	GIVE_UP_S  => 20,      # no answer: far beyond any bound
};

my $GREY   = qr/^DEFER_IF_PERMIT 4\.2\.0 /;
my $PASSES = qr/^(?:DUNNO|PREPEND X-Greylist)/;

# ---- the test's side ----

sub new {
	my ($class, %opt) = @_;

	return $class->beside(sub {
		FaultLoad::Loop->new(%opt, control => $_[0])->run;
	});
}

sub _tell {
	my ($self, %what) = @_;
	my $control = $self->{control};
	local $SIG{PIPE} = 'IGNORE';

	print {$control} JSON::PP::encode_json(\%what), "\n";
	my $line = readline $control // croak 'the load has ended';
	return JSON::PP::decode_json($line);
}

# A sender begins a new account.
sub phase {
	my ($self, $name, %more) = @_;
	$self->_tell(phase => $name, %more);
	return time;
}

sub fresh { $_[0]->_tell(fresh => $_[1]); return }

# Keys that are yet to be tried again, and questions without an answer.
sub left { return $_[0]->_tell(left => 1)->{left} }

# { phases => { NAME => { steady => {count, p99, worst}, fresh => {...},
# stall } }, failed, why => [TEXT...], keys => { RECIPIENT => [ANSWERED,
# ANSWERED-AGAIN, WAITS-AGAIN] } }; times in seconds.
sub report { return $_[0]->_tell(report => 1) }

# ---- the process ----

package FaultLoad::Loop;

use strict;
use warnings;

use IO::Socket::UNIX;
use List::Util qw(max min);
use Socket qw(SOCK_STREAM);
use Time::HiRes qw(time);

use PolicydTest qw(block);

sub new {
	my ($class, %opt) = @_;
	my $self = bless {
		socket   => $opt{socket},
		control  => $opt{control},
		delay    => $opt{delay},
		steady   => [ map { steady(@$_) } @{ $opt{steady} } ],
		turn     => 0,
		session  => 0,
		network  => $opt{network} || 0,
		conns    => {},
		readers  => '',
		commands => '',
	}, $class;

	$self->account('');
	for my $i (1 .. FaultLoad::STEADY + FaultLoad::FRESH) {
		my $steady = $i <= FaultLoad::STEADY;
		my $conn = {
			fresh => !$steady,
			pause => $steady ? FaultLoad::STEADY_S : FaultLoad::FRESH_S,
		};
		$self->open_conn($conn);
		$conn->{due} = time + $conn->{pause} * rand;
	}
	vec($self->{readers}, fileno $opt{control}, 1) = 1;
	return $self;
}

# A question in three pieces: a port and an instance go between them.
sub steady {
	my ($kind, $attr, $wanted) = @_;
	my $text = block(%$attr, client_port => '{port}', instance => '{instance}');
	return { kind => $kind, wanted => qr/$wanted/,
		text => [ split /\{(?:port|instance)\}/, $text ] };
}

# A new sender: what is counted begins anew.
sub account {
	my ($self, $sender) = @_;

	$self->{sender} = $sender;
	$self->{keys}   = {};
	$self->{retry}  = [];
	$self->{serial} = 0;
	$self->{phases} = {};
	$self->{failed} = 0;
	$self->{why}    = [];
	return;
}

sub open_conn {
	my ($self, $conn) = @_;
	my $sock = IO::Socket::UNIX->new(Type => SOCK_STREAM,
		Peer => $self->{socket});

	if (!$sock) {
		$self->failed("connect: $!");
		$conn->{due} = time + 0.1;
		$conn->{sock} = undef;
		$self->{conns}{$conn} = $conn;
		return;
	}
	$sock->blocking(0);
	$conn->{sock} = $sock;
	$conn->{in}   = '';
	$conn->{fd}   = fileno $sock;
	$self->{conns}{$conn} = $conn;
	$self->{by_fd}{ $conn->{fd} } = $conn;
	vec($self->{readers}, $conn->{fd}, 1) = 1;
	return;
}

sub drop_conn {
	my ($self, $conn, $why) = @_;

	$self->failed($why) if length $why;
	vec($self->{readers}, $conn->{fd}, 1) = 0;
	delete $self->{by_fd}{ $conn->{fd} };
	close $conn->{sock};
	$conn->{sent} = undef;
	$self->open_conn($conn);
	$conn->{due} = time + $conn->{pause};
	return;
}

sub failed {
	my ($self, $why) = @_;
	$self->{failed}++;
	push @{ $self->{why} }, $why if @{ $self->{why} } < 5;
	return;
}

# ---- questions ----

sub next_fresh {
	my ($self, $now) = @_;
	my $retry = $self->{retry};

	if (@$retry && $retry->[0]{due} <= $now) {
		my $key = shift @$retry;
		return ($key, 1);
	}
	return if !$self->{fresh};
	my $n   = $self->{network}++;
	my $key = {
		recipient => sprintf('k%d@any.example', ++$self->{serial}),
		address   => $n % 2
		? sprintf('20.%d.%d.7', $n >> 8 & 255, $n & 255)
		: sprintf('2001:db8:%x:%x::7', $n >> 16, $n & 65535),
		sender => $self->{sender},
	};
	return ($key, 0);
}

sub ask {
	my ($self, $conn, $now) = @_;
	my $port     = 1024 + ++$self->{session} % 60000;
	my $instance = sprintf '%x.%x.0', $$, $self->{session};
	my $text;

	if ($conn->{fresh}) {
		my ($key, $again) = $self->next_fresh($now);
		if (!$key) {
			$conn->{due} = $now + 0.02;
			return;
		}
		$conn->{key}    = $key;
		$conn->{again}  = $again;
		$conn->{wanted} = $again ? $PASSES : $GREY;
		$conn->{kind}   = $again ? 'a retry' : 'a new key';
		$text = block(
			client_name    => 'unknown',
			client_address => $key->{address},
			client_port    => $port,
			instance       => $instance,
			sender         => $key->{sender},
			recipient      => $key->{recipient}
		);
	} else {
		my $all = $self->{steady};
		my $q   = $all->[ $self->{turn}++ % @$all ];
		my $p   = $q->{text};
		$conn->{wanted} = $q->{wanted};
		$conn->{kind}   = $q->{kind};
		$text = "$p->[0]$port$p->[1]$instance$p->[2]";
	}
	$conn->{sent} = time;
	my $n = syswrite $conn->{sock}, $text;
	$self->drop_conn($conn, "$conn->{kind}: cannot be sent: $!")
		if ($n // 0) != length $text;
	return;
}

sub answered {
	my ($self, $conn, $action) = @_;
	my $now   = time;
	my $stat  = $self->{stat}{ $conn->{fresh} ? 'fresh' : 'steady' };
	my $key   = $conn->{key};
	my $again = $conn->{fresh} && $conn->{again};

	push @$stat, $now - $conn->{sent};
	$conn->{sent} = undef;
	$conn->{due}  = $now + $conn->{pause};
	$conn->{due}  = $now + 0.01 if $conn->{fresh} && !$self->{fresh};
	if ($again && $action =~ $GREY) {
		# Lost keys wait anew; whether there may be any is the test's to say.
		$self->{keys}{ $key->{recipient} }[2] = $now;
	} elsif ($action !~ $conn->{wanted}) {
		$self->failed("$conn->{kind}: $action");
	}
	return if !$conn->{fresh} || $key->{sender} ne $self->{sender};
	if ($again) {
		$self->{keys}{ $key->{recipient} }[1] = $now;
		return;
	}
	$self->{keys}{ $key->{recipient} }[0] = $now;
	$key->{due} = $now + $self->{delay};
	push @{ $self->{retry} }, $key;
	return;
}

sub readable {
	my ($self, $conn) = @_;
	my $n = sysread $conn->{sock}, $conn->{in}, 65536, length $conn->{in};

	if (!defined $n) {
		return if $!{EAGAIN} || $!{EINTR};
		$self->drop_conn($conn, "$conn->{kind}: $!");
	} elsif ($n == 0) {
		$self->drop_conn($conn, "$conn->{kind}: closed");
	} elsif (index($conn->{in}, "\n\n") >= 0) {
		if (defined $conn->{sent}
			&& $conn->{in} =~ /\Aaction=([^\n]*)\n\n\z/)
		{
			my $action = $1;
			$conn->{in} = '';
			$self->answered($conn, $action);
		} else {
			$self->drop_conn($conn, "malformed: $conn->{in}");
		}
	}
	return;
}

# ---- the loop ----

sub left {
	my $self = shift;
	return @{ $self->{retry} }
		+ grep { $_->{fresh} && defined $_->{sent} } values %{ $self->{conns} };
}

sub summary {
	my $times = shift;
	my @sorted = sort { $a <=> $b } @$times;
	return { count => scalar @sorted, p99 => $sorted[ $#sorted * 0.99 ] // 0,
		worst => $sorted[-1] // 0 };
}

sub report {
	my $self = shift;
	my %phases;

	for my $name (keys %{ $self->{phases} }) {
		my $p = $self->{phases}{$name};
		$phases{$name} = { steady => summary($p->{steady}),
			fresh => summary($p->{fresh}), stall => $p->{stall} };
	}
	return { phases => \%phases, failed => $self->{failed},
		why => $self->{why}, keys => $self->{keys} };
}

sub command {
	my ($self, $what) = @_;

	if (defined $what->{sender}) {
		$self->account($what->{sender});
		$self->{fresh} = 1;
	}
	if (defined $what->{phase}) {
		$self->{stat} = $self->{phases}{ $what->{phase} } ||=
			{ steady => [], fresh => [], stall => 0 };
	}
	$self->{fresh} = $what->{fresh} if defined $what->{fresh};
	return $self->report if $what->{report};
	return { left => $self->left };
}

# False once the test has gone.
sub commands {
	my $self = shift;
	my $n = sysread $self->{control}, $self->{commands}, 65536,
		length $self->{commands};

	return 0 if !$n;
	while ($self->{commands} =~ s/\A([^\n]*)\n//) {
		my $reply = $self->command(JSON::PP::decode_json($1));
		print { $self->{control} } JSON::PP::encode_json($reply), "\n";
	}
	return 1;
}

sub run {
	my $self    = shift;
	my $control = fileno $self->{control};

	$self->command({ phase => 'idle' });
	while (1) {
		my $now  = time;
		my $next = $now + 0.1;

		for my $conn (values %{ $self->{conns} }) {
			if (defined $conn->{sent}) {
				$self->drop_conn($conn, "$conn->{kind}: no answer")
					if $now - $conn->{sent} > FaultLoad::GIVE_UP_S;
				next;
			}
			if ($conn->{due} <= $now) {
				$conn->{sock} ? $self->ask($conn, $now)
					: $self->open_conn($conn);
			}
			$next = $conn->{due}
				if !defined $conn->{sent} && $conn->{due} < $next;
		}
		my $ready = $self->{readers};
		my $wait  = max(0, $next - time);
		my $n     = select $ready, undef, undef, $wait;
		# Nothing of ours is late: what is, is the machine.
		my $stall = time - $now - max($wait, 0);
		$self->{stat}{stall} = $stall if $stall > $self->{stat}{stall};
		next if $n <= 0;
		if (vec $ready, $control, 1) {
			$self->commands or return;
		}
		for my $fd (keys %{ $self->{by_fd} }) {
			$self->readable($self->{by_fd}{$fd}) if vec $ready, $fd, 1;
		}
	}
	return;
}

1;
