package PolicydTest;

# One policyd for a test: its configuration, its process, questions to it.
#
#   my $d = PolicydTest->new(conninfo => $pg->conninfo, ini => { ... });
#   $d->start;
#   is($d->ask(recipient => 'bob@example.com'), 'DUNNO');
#
# Everything lives in a folder of its own that is removed at the end, and only
# processes that were started here are ended, by their number.

use strict;
use warnings;

use Carp qw(croak);
use Cwd qw(abs_path);
use Exporter qw(import);
use File::Basename qw(dirname);
use File::Temp qw(tempdir);
use IO::Socket::INET;
use IO::Socket::UNIX;
use POSIX qw(:sys_wait_h);
use Scalar::Util qw(weaken);
use Test::More ();
use Time::HiRes qw(sleep time);

our @EXPORT_OK = qw(block free_port in_time install_schema policyctl_path
	policyd_path session site slurp soon spew top wait_for);

my $TOP = abs_path(dirname(__FILE__) . '/../..');
my @RUNNING;
my $COUNT = 0;

# What Postfix 3.7 sends at RCPT, in its order.
my @DEFAULT = (
	request                  => 'smtpd_access_policy',
	protocol_state           => 'RCPT',
	protocol_name            => 'ESMTP',
	client_address           => '192.0.2.10',
	client_name              => 'mail.example.net',
	client_port              => undef,
	reverse_client_name      => 'mail.example.net',
	server_address           => '192.0.2.1',
	server_port              => '25',
	helo_name                => 'mail.example.net',
	sender                   => 'alice@example.net',
	recipient                => 'bob@example.com',
	recipient_count          => '0',
	queue_id                 => '',
	instance                 => undef,
	size                     => '0',
	etrn_domain              => '',
	stress                   => '',
	sasl_method              => '',
	sasl_username            => '',
	sasl_sender              => '',
	ccert_subject            => '',
	ccert_issuer             => '',
	ccert_fingerprint        => '',
	ccert_pubkey_fingerprint => '',
	encryption_protocol      => '',
	encryption_cipher        => '',
	encryption_keysize       => '0',
	policy_context           => '',
);

# An interrupted test cleans up as well.
$SIG{$_} ||= sub { exit 1 }
	for qw(INT TERM HUP);

sub policyd_path   { return $ENV{POLICYD}   || "$TOP/build/policyd" }
sub policyctl_path { return $ENV{POLICYCTL} || "$TOP/build/policyctl" }

# The top of the source tree.
sub top { return $TOP }

# The schema as sql/ has it, into a database that has none.
sub install_schema {
	my $pg = shift;
	$pg->load(sort glob "$TOP/sql/[0-9]*.sql");
	return $pg;
}

# A database server of one's own with the schema and these rows.
sub site {
	my ($sql, %opt) = @_;
	require PgCluster;
	my $pg = install_schema(PgCluster->new(%opt));
	$pg->psql($sql) if length $sql;
	return $pg;
}

# Attributes of one new SMTP session and message, to be handed to several
# questions.
sub session {
	$COUNT++;
	return (
		client_port => 1024 + ($$ * 7 + $COUNT) % 64000,
		instance    => sprintf('%x.%lx.%x.0', $$, time, $COUNT),
		@_
	);
}

# The bytes of a request.  An attribute given as undef is left out.  Without
# client_port or instance each request is a session of its own.
sub block {
	my %given = @_;
	my %fresh = session();
	my $text  = '';
	my %known;

	for (my $i = 0; $i < @DEFAULT; $i += 2) {
		my ($name, $value) = @DEFAULT[ $i, $i + 1 ];
		$known{$name} = 1;
		$value = $fresh{$name} if exists $fresh{$name};
		$value = $given{$name} if exists $given{$name};
		$text .= "$name=$value\n" if defined $value;
	}
	for my $name (sort keys %given) {
		$text .= "$name=$given{$name}\n"
			if !$known{$name} && defined $given{$name};
	}
	return "$text\n";
}

# Try until it is true; returns what was true last, or nothing in time.
sub wait_for(&;$) {
	my ($check, $seconds) = @_;
	my $end = time + ($seconds || 10);

	while (1) {
		my $got = $check->();
		return $got if $got;
		return $got if time > $end;
		sleep 0.005;
	}
}

# A test of its own: it becomes true in time.
sub soon(&$;$) {
	my ($check, $name, $seconds) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return Test::More::ok(&wait_for($check, $seconds), $name);
}

# A test of its own: it took no longer than this.  Other things run on the machine
# as well, and may stop everything for a moment: it gets five times as long, or
# what POLICYD_TEST_PATIENCE says; 1 holds policyd to the letter.
sub in_time {
	my ($took, $limit, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$name = sprintf '%s (%.1f ms)', $name, 1000 * $took;
	return Test::More::cmp_ok($took, '<=',
		$limit * ($ENV{POLICYD_TEST_PATIENCE} || 5), $name);
}

# A port that is free now.
sub free_port {
	my $host = shift || '127.0.0.1';
	my $s    = IO::Socket::INET->new(
		LocalAddr => $host,
		LocalPort => 0,
		Listen    => 1
	) or croak "no free port: $!";
	my $port = $s->sockport;

	close $s;
	return $port;
}

sub slurp {
	my $path = shift;
	open my $f, '<:raw', $path or return;
	local $/;
	my $text = <$f>;
	close $f;
	return defined $text ? $text : '';
}

sub spew {
	my ($path, $text) = @_;
	open my $f, '>:raw', $path or croak "$path: $!";
	print $f $text;
	close $f or croak "$path: $!";
	return $path;
}

# Options: conninfo, ini => { section => { key => value } } (a value of undef
# leaves the key out), inet => 1 for a TCP door as well, dir, binary, prefix =>
# [command that runs it].
sub new {
	my ($class, %opt) = @_;
	my $self = bless {%opt}, $class;

	$self->{binary} ||= policyd_path();
	-x $self->{binary} or croak "$self->{binary} is not built: run make";
	$self->{dir} ||= tempdir('policyd-XXXXXX', TMPDIR => 1, CLEANUP => 1);
	$self->{socket} ||= "$self->{dir}/policyd.sock";
	$self->{port} = free_port() if $self->{inet} && !$self->{port};
	$self->{logfile}  = "$self->{dir}/log";
	$self->{inifile}  = "$self->{dir}/policyd.ini";
	$self->{statedir} = "$self->{dir}/state";
	mkdir $self->{statedir} if !-d $self->{statedir};
	$self->write_ini;
	return $self;
}

# Sections and keys that tests need unless they say otherwise.
sub _defaults {
	my $self   = shift;
	my $listen = "unix:$self->{socket}";

	$listen .= " inet:127.0.0.1:$self->{port}" if $self->{port};
	return (
		policyd => {
			listen       => $listen,
			socket_group => scalar getgrgid((split ' ', $))[0]),
			user         => scalar getpwuid($>),
			control      => "$self->{dir}/control.sock",
			state_dir    => $self->{statedir},
		},
		database => { conninfo => $self->{conninfo} },
		greylist => { enabled     => 'no' },
		rcpt     => { errors_wait => '0s', errors_total => 1000 },
		log      => { level       => 'info', decisions => 'all' },
	);
}

# The text of the configuration with changes on top of the test's own.
sub ini_text {
	my ($self, %change) = @_;
	my %ini  = $self->_defaults;
	my $text = '';

	for my $layer ($self->{ini} || {}, \%change) {
		for my $section (keys %$layer) {
			$ini{$section} =
				{ %{ $ini{$section} || {} }, %{ $layer->{$section} } };
		}
	}
	for my $section (sort keys %ini) {
		$text .= "[$section]\n";
		for my $key (sort keys %{ $ini{$section} }) {
			my $value = $ini{$section}{$key};
			next if !defined $value;
			croak "no quotes in INI values: $value" if $value =~ /"/;
			$text .= "$key = \"$value\"\n";
		}
		$text .= "\n";
	}
	return $text;
}

sub write_ini {
	my ($self, %change) = @_;
	spew($self->{inifile}, $self->ini_text(%change));
	return $self;
}

# Start the process only.  More arguments of policyd may be given.
sub spawn {
	my ($self, @args) = @_;
	my $binary = $self->{binary};
	my $pid    = fork;

	croak "fork: $!" if !defined $pid;
	if ($pid == 0) {
		open STDIN,  '<',  '/dev/null';
		open STDOUT, '>>', $self->{logfile};
		open STDERR, '>&', \*STDOUT;
		delete @ENV{qw(NOTIFY_SOCKET LISTEN_FDS LISTEN_PID WATCHDOG_USEC)};
		my @command =
			(@{ $self->{prefix} || [] }, $binary, '-c', $self->{inifile}, @args);
		{ exec { $command[0] } @command }
		print STDERR "$binary: $!\n";
		POSIX::_exit(127);
	}
	$self->{pid}    = $pid;
	$self->{status} = undef;
	push @RUNNING, $self;
	weaken($RUNNING[-1]);
	return $self;
}

# Start and wait until it answers from its tables (or, with until => 'reply',
# until it answers anything; with until => 'socket', until one can connect).
sub start {
	my ($self, %opt) = @_;
	my $until = $opt{until} || 'tables';
	my $ok;

	$self->spawn;
	$ok = wait_for {
		return 'gone' if !$self->alive;
		my $c = $self->connect or return;
		return 1 if $until eq 'socket';
		my $got = $c->ask(protocol_state => 'CONNECT', timeout => 5);
		return defined $got && ($until eq 'reply' || $got eq 'DUNNO');
	} $opt{seconds} || 20;
	if (!$ok || $ok eq 'gone') {
		my $why = $ok ? "it ended with status $self->{status}" : 'no answer';
		croak "policyd did not start: $why\n" . $self->log;
	}
	$self->{idle} = undef;
	return $self;
}

sub pid { return $_[0]{pid} }

# Is the process still there?  Collects its status once it has ended.
sub alive {
	my $self = shift;

	return 0 if !$self->{pid} || defined $self->{status};
	if (waitpid($self->{pid}, WNOHANG) == $self->{pid}) {
		$self->{status} = $?;
		return 0;
	}
	return 1;
}

sub signal {
	my ($self, $name) = @_;
	kill $name, $self->{pid} if $self->alive;
	return $self;
}

# Wait until the process has ended; its wait status, or undef in time.
sub wait_end {
	my ($self, $seconds) = @_;
	wait_for { !$self->alive } $seconds || 10;
	return $self->{status};
}

# SIGTERM and wait; SIGKILL if that takes more than 10 s.  Returns the status.
sub stop {
	my $self = shift;

	return $self->{status} if !$self->alive;
	kill 'CONT', $self->{pid};
	kill 'TERM', $self->{pid};
	if (!defined $self->wait_end(10)) {
		kill 'KILL', $self->{pid};
		$self->wait_end(10);
	}
	return $self->{status};
}

sub restart { my $self = shift; $self->stop; return $self->start(@_) }

# SIGHUP and wait until the log says more than it did.
sub reload {
	my $self = shift;
	my $size = -s $self->{logfile};
	$self->signal('HUP');
	wait_for { -s $self->{logfile} > $size } 5;
	return $self;
}

sub log { return slurp($_[0]{logfile}) // '' }

# Where the log ends now, and what was written since then.
sub log_mark { return -s $_[0]{logfile} || 0 }
sub log_since { return substr($_[0]->log, $_[1]) }

# A new connection, or undef.
sub connect {
	my ($self, %opt) = @_;
	return PolicydTest::Conn->new(
		$opt{inet} ? "inet:127.0.0.1:$self->{port}" : "unix:$self->{socket}");
}

# Ask over a connection that is kept; the action, or undef if none came.
sub ask {
	my ($self, %attr) = @_;
	my $conn = $self->{idle};

	$self->{idle} = $conn = $self->connect if !$conn || $conn->gone;
	return if !$conn;
	my $got = $conn->ask(%attr);
	$self->{idle} = undef if !defined $got;
	return $got;
}

# Run policyd with arguments to its end: (exit status, output).
sub run {
	my ($self, @args) = @_;
	my $binary = $self->{binary};
	my $pid    = open my $out, '-|';

	croak "fork: $!" if !defined $pid;
	if ($pid == 0) {
		open STDIN,  '<',  '/dev/null';
		open STDERR, '>&', \*STDOUT;
		{ exec { $binary } $binary, '-c', $self->{inifile}, @args }
		POSIX::_exit(127);
	}
	local $/;
	my $text = <$out>;
	close $out;
	return ($? >> 8, $text);
}

sub DESTROY {
	my $self = shift;
	local ($?, $!, $@);
	$self->stop if $self->{pid};
	return;
}

END {
	my $status = $?;
	$_->stop for grep { $_ && $_->{pid} } @RUNNING;
	$? = $status;
}

package PolicydTest::Conn;

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use Socket qw(SOCK_STREAM);
use Time::HiRes qw(time);

# "unix:PATH" or "inet:HOST:PORT".
sub new {
	my ($class, $where) = @_;
	my $s;

	if ($where =~ /^unix:(.+)/) {
		$s = IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => $1);
	} elsif ($where =~ /^inet:(.+):(\d+)$/) {
		$s = IO::Socket::INET->new(PeerAddr => $1, PeerPort => $2);
	}
	return if !$s;
	$s->blocking(1);
	return bless { sock => $s, in => '', closed => 0 }, $class;
}

sub sock { return $_[0]{sock} }

# All of the bytes, or as many as the other side takes; how many went.
sub send {
	my ($self, $bytes) = @_;
	my $sent = 0;

	local $SIG{PIPE} = 'IGNORE';
	while ($sent < length $bytes) {
		my $n = syswrite $self->{sock}, $bytes, length($bytes) - $sent, $sent;
		if (!defined $n) {
			next if $!{EINTR};
			last;
		}
		$sent += $n;
	}
	return $sent;
}

# Read until the buffer satisfies the check, the end, or the time is over.
sub _fill {
	my ($self, $seconds, $check) = @_;
	my $end = time + $seconds;
	my $sel = IO::Select->new($self->{sock});

	while (!$check->() && !$self->{closed}) {
		my $left = $end - time;
		# What is there is seen, however late it is by now.
		last if !$sel->can_read($left > 0 ? $left : 0);
		my $n = sysread $self->{sock}, $self->{in}, 65536, length $self->{in};
		next if !defined $n && $!{EINTR};
		$self->{closed} = 1 if !$n;
	}
	return $check->();
}

# The next action, or undef: the connection was closed, nothing came in time,
# or what came is no reply of the protocol ("malformed" says which bytes).
sub reply {
	my ($self, $seconds) = @_;

	$self->_fill($seconds // 10, sub { index($self->{in}, "\n\n") >= 0 })
		or return;
	$self->{in} =~ s/\A(.*?\n)\n//s;
	my $text = $1;
	return $1 if $text =~ /\Aaction=([^\n]*)\n\z/;
	$self->{malformed} = $text;
	return;
}

# `timeout` among the attributes is how long to wait for the answer.
sub ask {
	my ($self, %attr) = @_;
	my $seconds = delete $attr{timeout};
	my $bytes   = PolicydTest::block(%attr);

	return if $self->send($bytes) != length $bytes;
	return $self->reply($seconds);
}

# Has the other side closed, within the time?
sub closed {
	my ($self, $seconds) = @_;
	$self->_fill($seconds // 10, sub { 0 });
	return $self->{closed};
}

# Closed already, without waiting?
sub gone {
	my $self = shift;
	$self->_fill(0.0001, sub { 0 }) if !$self->{closed};
	return $self->{closed};
}

sub pending { return $_[0]{in} }
sub half_close { shutdown $_[0]{sock}, 1 }
sub close { CORE::close $_[0]{sock}; $_[0]{closed} = 1 }

1;
