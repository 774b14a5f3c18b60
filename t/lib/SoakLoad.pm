package SoakLoad;

# SPDX-License-Identifier: MIT
#
# Twenty connections that ask policyd whatever comes to their minds, in a process
# of their own that holds every single answer against Oracle.pm.
#
#   my $load = SoakLoad->new(socket => PATH, seed => N);
#   $load->tell(world => {...});    # may be in force from now on
#   $load->tell(in_force => N);     # and no older one any more
#   $load->tell(phase => 'before'); # a new account
#   my $seen = $load->tell(report => 1);
#
# Ten actors have two connections each and one SMTP session at a time, whose
# requests go over both.  An actor's hosts are its own, so what greylisting
# knows of them is what the actor has seen.

use strict;
use warnings;

use Carp qw(croak);
use Storable qw(freeze thaw);

use parent 'Beside';

use constant {
	ACTORS    => 10,
	PAUSE_S   => 0.004,   # of an actor, between two questions
	GIVE_UP_S => 20,      # no answer: far beyond any bound
	KEEP_S    => 30,      # so long an old world may be asked about
};

# ---- the test's side ----

sub new {
	my ($class, %opt) = @_;

	return $class->beside(sub {
		SoakLoad::Loop->new(%opt, control => $_[0])->run;
	});
}

# One command; what it says to that.
sub tell {
	my ($self, %what) = @_;
	local $SIG{PIPE} = 'IGNORE';
	put($self->{control}, \%what);
	return get($self->{control}) // croak 'the load has ended';
}

sub put {
	my ($to, $what) = @_;
	my $bytes = freeze($what);

	$bytes = pack('N', length $bytes) . $bytes;
	for (my $at = 0; $at < length $bytes;) {
		my $n = syswrite $to, $bytes, length($bytes) - $at, $at;
		croak "the other side has ended: $!" if !defined $n;
		$at += $n;
	}
	return;
}

sub get {
	my $from = shift;
	my $read = sub {
		my $bytes = '';
		while (length $bytes < $_[0]) {
			sysread $from, $bytes, $_[0] - length $bytes, length $bytes
				or return;
		}
		return $bytes;
	};
	my $head = $read->(4) // return;
	return thaw($read->(unpack 'N', $head) // return);
}

# ---- the process ----

package SoakLoad::Loop;

use strict;
use warnings;

use IO::Socket::UNIX;
use List::Util qw(max min);
use Socket qw(SOCK_STREAM);
use Time::HiRes qw(time);

use Oracle;
use PolicydTest qw(block);
use SoakSite;

BEGIN { *pick = \&SoakSite::pick; *chance = \&SoakSite::chance }

sub new {
	my ($class, %opt) = @_;
	my $self = bless {
		%opt,
		worlds  => [],
		faults  => [],
		vandals => {},
		by_fd   => {},
		serial  => 0,
		totals  => { map { $_ => 0 } qw(asked failed mismatches open) },
		told    => 0,
	}, $class;

	srand $opt{seed};
	$self->phase('idle');
	for my $id (0 .. SoakLoad::ACTORS - 1) {
		my $actor = { id => $id, port => 1024, nets => 0, waiting => [],
			retry => [], due => 0, grey => { key => {}, client => {} } };
		$actor->{hosts} = [ map { hot_host($id, $_) } 0 .. 9 ];
		push @{ $self->{actors} }, $actor;
		$self->open_conn($actor, $_) for 0, 1;
	}
	return $self;
}

# ---- hosts ----

# What greylisting takes a host for, its name, and where it comes from.
sub hot_host {
	my ($id, $n) = @_;
	# Those that an administrator exempts now and then.
	return { client => "10.$id.200.0/24", name => 'unknown',
		from => sub { "10.$id.200." . (1 + int rand 250) } } if $n == 9;
	return { client => "2001:db8:$id:7::/64", name => 'unknown',
		from => sub { sprintf '2001:db8:%d:7::%x', $id, 1 + rand 60000 } }
		if $n == 8 && $id;
	return { client => 'mail-' . chr(97 + $id) . '.example',
		name => 'mx.mail-' . chr(97 + $id) . '.example',
		from => sub { "10.$id.199." . (1 + int rand 250) } } if $n == 7;
	return { client => "10.$id.$n.0/24", name => 'unknown',
		from => sub { "10.$id.$n." . (1 + int rand 250) } };
}

# One that nobody has seen.
sub new_host {
	my $actor = shift;
	my $id = $actor->{id};
	my $n  = $actor->{nets}++;
	my ($x, $y) = ($n >> 8 & 255, $n & 255);

	if ($n % 4 == 1) {
		my $net = sprintf '2001:db9:%x:%x::', $id + 1, $n + 1;
		return { client => "$net/64", name => 'unknown',
			from => sub { $net . (1 + int rand 9) } };
	}
	if ($n % 4 == 2) {
		my $name = "org$id" . join('', map { chr 97 + $_ } split //, $n)
			. '.example';
		return { client => $name, name => "mail.$name",
			from => sub { join '.', 40 + $id, $x, $y, 1 + int rand 250 } };
	}
	my $client = join '.', 20 + $id, $x, $y, '0/24';
	my $name = $n % 4 == 3 ? 'dsl-20-0-0-7.isp.example' : 'unknown';
	return { client => $client, name => $name,
		from => sub { join '.', 20 + $id, $x, $y, 1 + int rand 250 } };
}

# ---- sessions ----

sub recipient {
	my $self = shift;
	my $local = pick(@SoakSite::LOCAL);

	$local .= '+' . pick(qw(a b c+d)) if chance(0.15);
	$local = ucfirst $local           if chance(0.1);
	return odd_recipient($local) if chance(0.04);
	my $domain = pick(@SoakSite::PLAIN);
	$domain = pick(@SoakSite::ALIAS) if chance(0.15);
	$domain = pick(@SoakSite::ANY)   if chance(0.2);
	$domain = pick('', 'x.', 'x.y.') . pick(@SoakSite::SUB) if chance(0.15);
	$domain = pick(@SoakSite::OTHER) if chance(0.08);
	$domain = uc $domain if chance(0.03);
	$domain .= '.'       if chance(0.03);
	return "$local\@$domain";
}

sub odd_recipient {
	my $local = shift;
	return pick(
		'', '@d0.example', " $local\@d0.example", "$local\@d0.example ",
		$local, "$local\@", "$local\@.", '@', ' ', "$local \@d1.example",
		"a\@b\@any.example", "$local\%x\@d0.example", "\"$local\"\@d0.example",
		"$local\@[192.0.2.1]", "$local\@$SoakSite::BOOKS",
		"$local\@xn--bcher-kva.example", "$local\@XN--BCHER-KVA.example",
		"b\xc3\xa4r\@any.example", "\xff\xfe$local\@d0.example",
		"$local\x01\x7f\@d1.example", 'x' x 300 . '@d0.example',
		"$local\@" . 'y' x 300 . '.example', "$local=x\@any.example",
	);
}

# Attributes of a session's requests; the first address is odd now and then.
sub session {
	my ($self, $actor, $host, %more) = @_;
	my $odd = !%more && chance(0.03);
	my $login = chance(0.15) || $odd ? pick(@SoakSite::LOGIN) : '';
	my $tls = chance(0.4);
	my $address = $host->{from}->();
	my $port = $actor->{port} = 1024 + ($actor->{port} - 1023) % 64000;
	my %attr = (
		client_address => $address,
		client_name    => $host->{name},
		client_port    => $port,
		helo_name      => $odd ? pick("\xff\x80", "tab\there", "a=b")
			: pick(@SoakSite::HELO),
		protocol_name  => chance(0.1) ? 'SMTP' : 'ESMTP',
		sasl_username  => defined $more{sender} ? '' : $login,
		encryption_cipher  => $tls ? 'TLS_AES_256_GCM_SHA384' : '',
		encryption_keysize => $tls ? pick(128, 256) : 0,
		policy_context => chance(0.3) ? pick(@SoakSite::CONTEXT) : '',
	);
	return { host => $host, odd => $odd, attr => \%attr, %more,
		alts => [ Oracle::new_session() ], steps => $self->steps(%more) };
}

# Each step: a sub that comes back with requests to be asked at once.
sub steps {
	my ($self, %more) = @_;
	my @steps;

	push @steps, ['CONNECT'] if chance(0.1);
	push @steps, ['EHLO']    if chance(0.15);
	for my $message (1 .. (chance(0.25) ? 2 : 1)) {
		push @steps, ['new'];
		push @steps, ['MAIL'] if chance(0.15);
		push @steps, [ 'VRFY', $self->recipient ] if chance(0.06);
		push @steps, [ 'EXPN', $self->recipient ] if chance(0.06);
		push @steps, [ pick(qw(HELO ETRN NOSUCH)) ] if chance(0.02);
		my @to = $more{recipient} || map { $self->recipient }
			1 .. (chance(0.3) ? 3 + rand 8 : 1 + rand 2);
		while (@to) {
			my $n = chance(0.25) ? 2 + rand 5 : 1;
			push @steps, [ 'RCPT', splice @to, 0, $n ];
		}
		push @steps, ['DATA'] if chance(0.5);
		push @steps, ['END-OF-MESSAGE'] if chance(0.3);
	}
	return \@steps;
}

# The next requests of a session; none at its end.
sub requests {
	my ($self, $s) = @_;

	while (my $step = shift @{ $s->{steps} }) {
		my ($state, @to) = @$step;
		if ($state eq 'new') {
			$s->{mail} = {
				instance => sprintf('%x.%x.0', $$, ++$self->{serial}),
				sender => $s->{sender} // ($s->{odd}
					? pick("\xc3\x28\@out.example", "x\x01\@out.example",
						"a=b\@out.example", 'z' x 400 . '@out.example')
					: chance(0.1) ? '' : pick(@SoakSite::SENDER)),
				size => pick(0, 0, 100, 30000, 25 << 20),
			};
			next;
		}
		return map { $self->request($s, $state, $_) } @to ? @to : ('');
	}
	return;
}

sub request {
	my ($self, $s, $state, $recipient) = @_;
	my %r = (
		request         => 'smtpd_access_policy',
		protocol_state  => $state,
		instance        => '',
		sender          => '',
		recipient       => $recipient,
		recipient_count => 0,
		size            => 0,
		stress          => '',
		%{ $s->{attr} },
	);
	%r = (%r, %{ $s->{mail} })
		if $state =~ /^(?:MAIL|RCPT|DATA|END-OF-MESSAGE)$/;
	$r{instance} = '' if $state eq 'MAIL';
	$r{helo_name} = '' if $state eq 'CONNECT';
	$r{stress} = 'sleep' if chance(0.0005);
	$r{etrn_domain} = 'd0.example' if $state eq 'ETRN';
	if ($state eq 'DATA' || $state eq 'END-OF-MESSAGE') {
		my $sure = @{ $s->{alts} } == 1 && $s->{alts}[0]{instance};
		$r{recipient_count} = $sure && chance(0.7)
			? keys %{ $s->{alts}[0]{accepted} }
			: pick(1, 2, 5, 7, 50, 1000);
	}
	if (chance(0.004)) {
		my $name = pick(qw(request protocol_state recipient sender
			recipient_count reverse_client_name),
			$state eq 'RCPT' ? 'client_address' : ());
		$r{$name} = $name eq 'request' ? 'something_else' : undef;
	}
	$r{tls_sni} = "x=$state" if chance(0.01);
	return \%r;
}

# A key that will be tried more than once, each time as (pause, variant).
sub new_key {
	my ($self, $actor) = @_;
	my $n = ++$actor->{keys};
	my $from = pick("list-$n\@lists.example", "ann$n\@out.example",
		'cy@sub.out.example', '');
	my $host = $actor->{cold};
	my $delay = SoakSite::DELAY_S;

	# A client that has shown that it retries gets another key, then goes.
	if (!$host || $host->{left}-- <= 0) {
		$host = $actor->{cold} = new_host($actor);
		$host->{left} = 1 + int rand 4;
	}
	my @again = chance(0.3) ? () : (0.1 + rand($delay), $delay + rand);
	@again = (@again[ $#again ? 1 : 0 ]) if @again && chance(0.5);
	push @again, rand 5 if @again && chance(0.5);
	return { host => $host, sender => $from,
		recipient => "k$actor->{id}x$n\@" . pick(@SoakSite::GREY, 'grey.example'),
		again => \@again };
}

sub variant {
	my ($n, $text) = @_;
	return $text if $n == 0 || chance(0.5);
	return uc $text if chance(0.3);
	my $digits = int rand 100000;
	return $text =~ s/\d+/$digits/r if $text =~ /\d/;
	return sprintf 'prvs=%04d%06x=%s', rand 10000, rand 2**24, $text
		if length $text;
	return $text;
}

sub begin {
	my ($self, $actor, $now) = @_;
	my $key;

	if (@{ $actor->{retry} } && $actor->{retry}[0]{due} <= $now) {
		$key = shift @{ $actor->{retry} };
	} elsif (!$self->{quiet} && chance(0.12)) {
		$key = $self->new_key($actor);
	}
	if (!$key) {
		return if $self->{quiet};
		$actor->{session} = $self->session($actor, pick(@{ $actor->{hosts} }));
		return;
	}
	$actor->{session} = $self->session($actor, $key->{host}, key => $key,
		sender    => variant($key->{tries}++ // 0, $key->{sender}),
		recipient => $key->{recipient});
	return;
}

# It comes back, or may be tampered with.
sub end_session {
	my ($self, $actor, $now) = @_;
	my $s   = delete $actor->{session};
	my $key = $s->{key} or return;
	my $pause = shift @{ $key->{again} };

	if (!defined $pause) {
		$key->{done} = $now;
		push @{ $self->{done} }, [ $actor, $key ] if chance(0.3);
		return;
	}
	$key->{due} = $now + $pause;
	my $list = $actor->{retry};
	push @$list, $key;
	@$list = sort { $a->{due} <=> $b->{due} } @$list;
	return;
}

# ---- asking ----

sub open_conn {
	my ($self, $actor, $n) = @_;
	my $sock = IO::Socket::UNIX->new(Type => SOCK_STREAM,
		Peer => $self->{socket});

	if (!$sock) {
		$self->failed("connect: $!");
		return;
	}
	$sock->blocking(0);
	my $conn = { sock => $sock, in => '', fd => fileno $sock,
		actor => $actor, n => $n };
	$actor->{conn}[$n] = $conn;
	$self->{by_fd}{ $conn->{fd} } = $conn;
	return;
}

sub failed {
	my ($self, $why) = @_;
	$self->{totals}{failed}++;
	$self->{phase}{failed}++;
	$self->complain("failed: $why");
	return;
}

sub complain {
	my ($self, $text) = @_;
	return if $self->{told}++ >= 20;
	print STDERR map {"# $_\n"} split /\n/, "seed $self->{main_seed}: $text";
	return;
}

sub ask {
	my ($self, $actor, $now) = @_;

	$self->begin($actor, $now) if !$actor->{session};
	my $s = $actor->{session} or return;
	my @r = $self->requests($s);
	if (!@r) {
		$self->end_session($actor, $now);
		return;
	}
	$self->send_all($actor, @r);
	return;
}

sub send_all {
	my ($self, $actor, @requests) = @_;
	my $n = int rand 2;

	$self->open_conn($actor, $n) if !$actor->{conn}[$n];
	my $conn = $actor->{conn}[$n] or return;
	my @out = map { { r => $_, text => block(%$_) } } @requests;
	my $text = join '', map { $_->{text} } @out;
	my $sent = time;

	$_->{sent} = $sent for @out;
	$_->{batch} = @out for @out;
	$actor->{asked} = \@out;
	$actor->{over}  = $conn;
	# It fits into the buffer of the socket.
	my $wrote = syswrite $conn->{sock}, $text;
	$self->drop_conn($conn, "cannot be sent: $!")
		if ($wrote // 0) != length $text;
	return;
}

sub drop_conn {
	my ($self, $conn, $why) = @_;
	my $actor = $conn->{actor};

	delete $self->{by_fd}{ $conn->{fd} };
	close $conn->{sock};
	$actor->{conn}[ $conn->{n} ] = undef;
	if ($actor->{asked} && $actor->{over} == $conn) {
		$self->failed("$why\n$actor->{asked}[0]{text}");
		$self->forget_session($actor);
	} else {
		$self->failed("idle: $why");
	}
	return;
}

# What it was asked last is anybody's guess.
sub forget_session {
	my ($self, $actor) = @_;
	my $s   = delete $actor->{session};
	my $key = $actor->{grey}{key};

	for my $out (@{ delete $actor->{asked} || [] }) {
		my $r = $out->{r};
		next if !defined $r->{sender} || !defined $r->{recipient};
		my $is = $key->{ Oracle::grey_key($s->{host}{client}, $r) }
			||= { passed => 0 };
		@{$is}{qw(is passed vague)} = (2, $is->{passed} ? 2 : 0, 1);
		$is->{lo} //= $out->{sent};
		$is->{hi} = time;
		# It may be that it has passed.
		my $client = $actor->{grey}{client}{ $s->{host}{client} }
			||= { lo => 0, hi => 0 };
		$client->{hi}++;
		$client->{passed} = time;
	}
	return;
}

# ---- answers ----

sub worlds {
	my ($self, $from, $to) = @_;
	return grep { $_->{from} <= $to && (!$_->{to} || $_->{to} >= $from) }
		@{ $self->{worlds} };
}

sub is_faulty {
	my ($self, $from, $to) = @_;
	return scalar grep { $_->{from} <= $to && (!$_->{to} || $_->{to} >= $from) }
		@{ $self->{faults} };
}

sub answered {
	my ($self, $actor, $answer) = @_;
	my $now = time;
	my $out = $actor->{asked}[0];
	my $s   = $actor->{session};
	my @paths = Oracle::paths(
		worlds   => [ $self->worlds($out->{sent}, $now) ],
		sessions => $s->{alts},
		request  => $out->{r},
		client   => $s->{host}{client},
		grey     => $actor->{grey},
		from     => $out->{sent},
		to       => $now,
		faulty   => $self->is_faulty($out->{sent}, $now),
		well     => $self->{well},
		broken   => $self->{broken},
	);
	my $took = $now - $out->{sent};
	my @fit = grep { Oracle::fits($_, $answer, $took) } @paths;

	$self->{totals}{asked}++;
	$self->{phase}{asked}++;
	if (!@fit) {
		if   (@paths) { $self->mismatch($actor, $out, $answer, $took, @paths) }
		else          { $self->{totals}{open}++ }
		# What else comes on this connection is no answer to anything.
		my $conn = $actor->{over};
		delete $self->{by_fd}{ $conn->{fd} };
		close $conn->{sock};
		$actor->{conn}[ $conn->{n} ] = undef;
		$self->forget_session($actor);
		return;
	}
	shift @{ $actor->{asked} };
	push @{ $s->{past} }, join ' ', map { $_ // '-' }
		@{ $out->{r} }{qw(protocol_state instance recipient recipient_count)},
		"=> $answer";
	$s->{alts} = [ Oracle::join_states($actor->{grey}, @fit) ];
	$self->{answers}{ $answer =~ s/^(\S+(?: [245]\.\d\.\d)?).*/$1/sr }++;
	push @{ $self->{phase}{took} }, $took
		if $out->{batch} == 1 && !grep { $_->{hold} || $_->{asks} } @fit;
	return if @{ $actor->{asked} };
	$actor->{asked} = undef;
	$actor->{due} = $now + 2 * SoakLoad::PAUSE_S * rand;
	# Postfix repeats a request, and a service that is listed twice asks twice.
	if ($out->{r}{protocol_state}
		&& $out->{r}{protocol_state} eq 'RCPT' && chance(0.06))
	{
		$self->send_all($actor, ({ %{ $out->{r} }, chance(0.5)
				? (stress => 'again') : () }) x (1 + int rand 2));
	}
	return;
}

# All that is known of a client and its keys.
sub client_text {
	my ($grey, $name) = @_;
	my $c = $grey->{client}{$name} || {};
	return join "\n", "$name: " . join(', ', map {"$_ $c->{$_}"} sort keys %$c),
		map {"    $_: " . ($grey->{key}{$_}{past} // '')}
		grep { index($_, "$name ") == 0 } sort keys %{ $grey->{key} };
}

sub mismatch {
	my ($self, $actor, $out, $answer, $took, @paths) = @_;
	my $now  = time;
	my $s    = $actor->{session};
	my $grey = $actor->{grey};

	$self->{totals}{mismatches}++;
	$self->{phase}{mismatches}++;
	my @faults = map { sprintf '%s %.2f to %s', $_->{name}, $_->{from},
		$_->{to} ? sprintf '%.2f', $_->{to} : 'now' } @{ $self->{faults} };
	$self->complain(sprintf "mismatch at %.2f, in phase \"%s\" (%s)\n",
		$now, $self->{phase}{name}, "@faults")
		if $self->{told} < 20;
	$self->complain(join "\n",
		PolicydTest::block(%{ $out->{r} }) =~ s/[^ -~\n]/?/gr,
		sprintf('answer after %.3f s: %s', $took, $answer =~ s/[^ -~]/?/gr),
		map({ sprintf 'right would be: %s%s (%s)', $_->{want} =~ s/[^ -~]/?/gr,
			$_->{hold} ? " held back $_->{hold} s" : '', $_->{why} }
			@paths[ 0 .. min($#paths, 7) ]),
		@paths > 8 ? 'or another of ' . @paths : (),
		map({ $_->{grey}{key} ? "$_->{grey}{name}: $_->{grey}{key}{past}" : () }
			$paths[0]),
		client_text($grey, $s->{host}{client}),
		map({ s/[^ -~]/?/gr } @{ $s->{past} || [] }),
		map({ "rule $_->{id} " . ($_->{state} // 'RCPT') . ' '
			. join(', ', @{ $_->{conditions} }) . " => $_->{action}" }
			@{ $self->{worlds}[-1]{rules} }),
		map({ 'session: ' . Oracle::session_text($_) =~ s/\n/ | /gr =~
			s/[^ -~]/?/gr } map { $_->{session} } @paths[ 0 .. min($#paths, 1) ]),
	);
	return;
}

sub readable {
	my ($self, $conn) = @_;
	my $n = sysread $conn->{sock}, $conn->{in}, 65536, length $conn->{in};

	return if !defined $n && ($!{EAGAIN} || $!{EINTR});
	if ($conn->{vandal}) {
		$self->vandal_over($conn) if !$n;
		return;
	}
	if (!$n) {
		$self->drop_conn($conn, 'closed');
		return;
	}
	my $actor = $conn->{actor};
	while ($conn->{in} =~ s/\A([^\n]*)\n\n//) {
		my $line = $1;
		if (!$actor->{asked} || $actor->{over} != $conn
			|| $line !~ s/^action=//)
		{
			$self->drop_conn($conn, "malformed: $line");
			return;
		}
		$self->answered($actor, $line);
		return if !$conn->{sock}->opened;
	}
	return;
}

# ---- those who mean no good ----

sub vandalise {
	my ($self, $now) = @_;
	my $sock = IO::Socket::UNIX->new(Type => SOCK_STREAM,
		Peer => $self->{socket}) or return $self->failed("connect: $!");
	my $what = int rand 8;
	my $real = block(recipient => 'v' . int(rand 1000) . '@grey.example',
		client_address => '198.18.' . int(rand 5) . '.7',
		client_name => 'unknown');
	my $bytes = $what == 0 ? join('', map { chr int rand 256 } 1 .. rand 4000)
		: $what == 1 ? 'x' x 20000
		: $what == 2 ? "a=b\n" x 20000
		: $what == 3 ? substr $real, 0, rand length $real
		: $what == 4 ? $real =~ s/\n/\r\n/gr
		: $what == 5 ? "GET / HTTP/1.0\r\n\r\n"
		: $what == 6 ? $real x (1 + rand 20)
		: '';
	$sock->blocking(0);
	{ no warnings; syswrite $sock, $bytes }
	$self->{vandalism}++;
	# Some go at once, without a look at what they are told.
	return close $sock if chance(0.5);
	my $conn = { sock => $sock, in => '', fd => fileno $sock, vandal => 1,
		strange => $what < 3, until => $now + rand 2 };
	$self->{by_fd}{ $conn->{fd} } = $self->{vandals}{ $conn->{fd} } = $conn;
	return;
}

sub vandal_over {
	my ($self, $conn) = @_;
	delete $self->{by_fd}{ $conn->{fd} };
	delete $self->{vandals}{ $conn->{fd} };
	close $conn->{sock};
	return if !$conn->{strange};
	$self->failed('noise is answered: ' . substr $conn->{in}, 0, 200)
		if $conn->{in} =~ s/action=DUNNO\n\n//gr =~ /\S/;
	return;
}

# ---- commands ----

sub phase {
	my ($self, $name) = @_;
	$self->{phase} = { name => $name, asked => 0, failed => 0, mismatches => 0,
		took => [] };
	return;
}

sub report {
	my $self = shift;
	my $p = $self->{phase};
	my @took = sort { $a <=> $b } @{ $p->{took} };
	return { (map { $_ => $p->{$_} } qw(asked failed mismatches)),
		counted => scalar @took, p99 => $took[ $#took * 0.99 ] // 0,
		median => $took[ $#took / 2 ] // 0, worst => $took[-1] // 0,
		totals => { %{ $self->{totals} } } };
}

# Keys that nobody will ask about, for an administrator to change.
sub victims {
	my ($self, $now) = @_;
	my @victims;

	while (@victims < 3 && @{ $self->{done} || [] }) {
		my ($actor, $key) = @{ $self->{done}[0] };
		last if $key->{done} > $now - 3;
		shift @{ $self->{done} };
		my $name = Oracle::grey_key($key->{host}{client}, $key);
		my $is = $actor->{grey}{key}{$name} or next;
		next if $is->{is} != 1 || $is->{passed} == 2 || $is->{vague};
		push @victims, { name => $name, actor => $actor->{id},
			client => $key->{host}{client}, recipient => $key->{recipient},
			passed => $is->{passed} };
		$self->{tampered}{$name} = [ $actor, $key ];
	}
	return { victims => \@victims };
}

# What became of them: they try again.
sub tampered {
	my ($self, $victims, $now) = @_;

	for my $v (@$victims) {
		my ($actor, $key) = @{ delete $self->{tampered}{ $v->{name} } };
		my $is = $actor->{grey}{key}{ $v->{name} };
		if ($v->{how} eq 'forgotten' || $v->{how} eq 'aged') {
			%$is = (is => 0, passed => 0, past => "$v->{how}, $is->{past}");
		} elsif ($v->{how} eq 'released') {
			$is->{$_} -= SoakSite::DELAY_S for qw(lo hi);
			$is->{changed} = 1;
		} else {
			next;
		}
		$key->{due} = $now;
		push @{ $actor->{retry} }, $key;
		@{ $actor->{retry} } = sort { $a->{due} <=> $b->{due} }
			@{ $actor->{retry} };
		$self->{count}{ $v->{how} }++;
	}
	return;
}

sub left {
	my $self = shift;
	return scalar grep { $_->{asked} || $_->{session} || @{ $_->{retry} } }
		@{ $self->{actors} };
}

# All keys that were ever asked about.
sub keys_seen {
	my $self = shift;
	my %seen;
	for my $actor (@{ $self->{actors} }) {
		my $key = $actor->{grey}{key};
		$seen{$_} = [ @{ $key->{$_} }{qw(is passed lo hi vague past)} ]
			for keys %$key;
	}
	return { keys => \%seen, count => $self->{count} || {},
		answers => $self->{answers}, vandalism => $self->{vandalism} || 0 };
}

sub command {
	my ($self, $what) = @_;
	my $now = time;

	if (my $world = $what->{world}) {
		push @{ $self->{worlds} },
			{ %{ Oracle::world(%$world) }, from => $now };
	}
	if (defined(my $n = $what->{in_force})) {
		$_->{to} //= $what->{at} for grep { $_->{n} < $n } @{ $self->{worlds} };
		@{ $self->{worlds} } = grep {
			!$_->{to} || $_->{to} > $now - SoakLoad::KEEP_S
		} @{ $self->{worlds} };
	}
	if ($what->{fault}) {
		push @{ $self->{faults} }, { name => $what->{fault}, from => $now };
		$self->{broken} = $now;
	}
	if ($what->{well}) {
		$self->{well} = $now if $self->{broken};
		# What was written back is asked about anew.
		delete $_->{seen}
			for map { values %{ $_->{grey}{client} } } @{ $self->{actors} };
		$_->{to} //= $now for @{ $self->{faults} };
		@{ $self->{faults} } =
			grep { $_->{to} > $now - SoakLoad::KEEP_S } @{ $self->{faults} };
	}
	$self->{storm} = $what->{storm} if defined $what->{storm};
	$self->{quiet} = $what->{quiet} if defined $what->{quiet};
	return $self->victims($now) if $what->{victims};
	$self->tampered($what->{tampered}, $now) if $what->{tampered};
	return $self->keys_seen if $what->{keys};
	my $reply = $what->{report} ? $self->report : { left => $self->left };
	$self->phase($what->{phase}) if defined $what->{phase};
	return $reply;
}

# ---- the loop ----

sub run {
	my $self = shift;
	my $control = $self->{control};
	my $fd = fileno $control;

	$self->{began} = time;
	while (1) {
		my $now  = time;
		my $next = $now + 0.05;
		my $in   = '';

		for my $actor (@{ $self->{worlds} } ? @{ $self->{actors} } : ()) {
			if ($actor->{asked}) {
				$self->drop_conn($actor->{over}, 'no answer')
					if $now - $actor->{asked}[0]{sent} > SoakLoad::GIVE_UP_S;
				next;
			}
			$self->ask($actor, $now) if $actor->{due} <= $now;
			$next = $actor->{due}
				if !$actor->{asked} && $actor->{due} < $next
				&& ($actor->{session} || !$self->{quiet});
		}
		if ($self->{storm} && $now >= ($self->{strike} // 0)) {
			$self->vandalise($now);
			$self->{strike} = $now + 2 * rand() / $self->{storm};
		}
		for my $conn (values %{ $self->{vandals} }) {
			$self->vandal_over($conn) if $conn->{until} <= $now;
		}
		vec($in, $_, 1) = 1 for $fd, keys %{ $self->{by_fd} };
		my $n = select $in, undef, undef, max(0, $next - time);
		next if $n <= 0;
		if (vec $in, $fd, 1) {
			my $what = SoakLoad::get($control) // return;
			SoakLoad::put($control, $self->command($what));
		}
		for my $conn (values %{ $self->{by_fd} }) {
			$self->readable($conn)
				if vec($in, $conn->{fd}, 1) && $conn->{sock}->opened;
		}
	}
	return;
}

1;
