package PostfixTest;

# A private Postfix on a loopback port, and an SMTP client to talk to it.
#
#   my $why = PostfixTest::missing();   # why it cannot run here, or nothing
#   my $pf  = PostfixTest->new(main => { ... });
#   my $c   = $pf->smtp;
#   is($c->cmd('RCPT TO:<bob@example.com>'), '250 2.1.5 Ok');
#
# It has configuration, queue and data folders of its own, listens on
# 127.0.0.1 only, and delivers nothing: all mail is discarded and counted in
# its log.

use strict;
use warnings;

use Carp qw(croak);
use File::Path qw(make_path remove_tree);
use File::Temp qw(tempdir);
use Time::HiRes qw(time);

use PolicydTest qw(free_port slurp spew wait_for);

my $DAEMONS = '/usr/lib/postfix/sbin';

sub missing {
	return 'a private Postfix needs root'   if $> != 0;
	return 'Postfix is not installed'       if !-x '/usr/sbin/postfix';
	return 'there is no user postfix'       if !defined getpwnam 'postfix';
	return 'there is no group postdrop'     if !defined getgrnam 'postdrop';
	return "there is no $DAEMONS/smtpd"     if !-x "$DAEMONS/smtpd";
	return;
}

# Options: dir, port, main => { parameter => value } on top of main.cf.
sub new {
	my ($class, %opt) = @_;
	my $self = bless { owner => $$, %opt }, $class;

	$self->{kept} = defined $self->{dir};
	$self->{dir} ||= tempdir('postfix-XXXXXX', TMPDIR => 1);
	$self->{port} ||= free_port();
	$self->{maillog} = "$self->{dir}/mail.log";
	chmod 0755, $self->{dir};
	make_path(map { "$self->{dir}/$_" } qw(conf queue data));
	chown((getpwnam 'postfix')[ 2, 3 ], "$self->{dir}/data");
	$self->_write_main;
	$self->_write_master;
	return $self;
}

sub port { return $_[0]{port} }
sub dir { return $_[0]{dir} }
sub conf { return "$_[0]{dir}/conf" }

# Where a socket must stand for smtpd to reach it.
sub queue { return "$_[0]{dir}/queue" }

sub _write_main {
	my $self = shift;
	my %main = (
		compatibility_level          => '3.6',
		myhostname                   => 'mx.example.com',
		mydomain                     => 'example.com',
		mydestination                => '',
		mynetworks                   => '192.0.2.255/32',
		queue_directory              => "$self->{dir}/queue",
		data_directory               => "$self->{dir}/data",
		command_directory            => '/usr/sbin',
		daemon_directory             => $DAEMONS,
		mail_owner                   => 'postfix',
		setgid_group                 => 'postdrop',
		inet_interfaces              => '127.0.0.1',
		inet_protocols               => 'ipv4',
		maillog_file                 => $self->{maillog},
		maillog_file_prefixes        => $self->{dir},
		alias_maps                   => '',
		alias_database               => '',
		local_recipient_maps         => '',
		local_transport              => 'discard:',
		default_transport            => 'discard:',
		relay_transport              => 'discard:',
		virtual_transport            => 'discard:',
		smtpd_peername_lookup        => 'no',
		disable_dns_lookups          => 'yes',
		smtpd_error_sleep_time       => '0',
		smtpd_client_connection_count_limit => '0',
		smtpd_sasl_auth_enable       => 'no',
		biff                         => 'no',
		notify_classes               => '',
		%{ $self->{main} || {} },
	);

	spew($self->conf . '/main.cf',
		join '', map { "$_ = $main{$_}\n" } sort keys %main);
	return;
}

sub _write_master {
	my $self  = shift;
	my @inner = (
		[qw(pickup   unix n - n 60    1 pickup)],
		[qw(cleanup  unix n - n -     0 cleanup)],
		[qw(qmgr     unix n - n 300   1 qmgr)],
		[qw(rewrite  unix - - n -     - trivial-rewrite)],
		[qw(bounce   unix - - n -     0 bounce)],
		[qw(defer    unix - - n -     0 bounce)],
		[qw(trace    unix - - n -     0 bounce)],
		[qw(verify   unix - - n -     1 verify)],
		[qw(flush    unix n - n 1000? 0 flush)],
		[qw(proxymap unix - - n -     - proxymap)],
		[qw(proxywrite unix - - n -   1 proxymap)],
		[qw(showq    unix n - n -     - showq)],
		[qw(error    unix - - n -     - error)],
		[qw(retry    unix - - n -     - error)],
		[qw(discard  unix - - n -     - discard)],
		[qw(anvil    unix - - n -     1 anvil)],
		[qw(scache   unix - - n -     1 scache)],
		[qw(postlog  unix-dgram n - n - 1 postlogd)],
	);

	spew(
		$self->conf . '/master.cf',
		join '',
		map { join(' ', @$_) . "\n" } (
			[ "127.0.0.1:$self->{port}", qw(inet n - n - - smtpd) ], @inner
		)
	);
	return;
}

sub _postfix {
	my ($self, $command) = @_;
	my $out = "$self->{dir}/postfix.out";
	my $pid = fork;

	croak "fork: $!" if !defined $pid;
	if ($pid == 0) {
		delete $ENV{MAIL_CONFIG};
		open STDIN,  '<',  '/dev/null';
		open STDOUT, '>>', $out;
		open STDERR, '>&', \*STDOUT;
		{ exec '/usr/sbin/postfix', '-c', $self->conf, $command }
		POSIX::_exit(127);
	}
	waitpid $pid, 0;
	return $? == 0;
}

sub start {
	my $self = shift;

	$self->_postfix('start')
		or croak 'Postfix does not start: '
		. slurp("$self->{dir}/postfix.out")
		. $self->log;
	$self->{started} = 1;
	wait_for {
		my $s = IO::Socket::INET->new(
			PeerAddr => '127.0.0.1',
			PeerPort => $self->{port}
		) or return;
		return 1;
	} 15 or croak 'Postfix does not listen: ' . $self->log;
	return $self;
}

sub reload { return $_[0]->_postfix('reload') }

# Ends the master by the number it left; it ends all that it started.
sub stop {
	my $self = shift;

	return if !$self->{started};
	$self->{started} = 0;
	my $pidfile = $self->queue . '/pid/master.pid';
	my ($pid) = (slurp($pidfile) // '') =~ /(\d+)/ or return;
	kill 'TERM', $pid;
	wait_for { !kill 0, $pid } 10 or kill 'KILL', $pid;
	# Its children see that it is gone within a moment; wait for the last,
	# so that the folder can be removed.
	wait_for { !grep { index(readlink("$_/cwd") // '', $self->queue) == 0 }
			glob '/proc/[0-9]*' } 10;
	return;
}

sub log { return slurp($_[0]{maillog}) // '' }

# Wait until the log matches; true if it does.
sub log_has {
	my ($self, $re, $seconds) = @_;
	return wait_for { $self->log =~ $re } $seconds || 10;
}

# A new SMTP session; the greeting has been read, and EHLO sent unless
# helo => ''.
sub smtp {
	my ($self, %opt) = @_;
	return PostfixTest::Smtp->new($self->{port}, %opt);
}

sub DESTROY {
	my $self = shift;
	local ($?, $!, $@);
	return if $self->{owner} != $$;
	$self->stop;
	remove_tree($self->{dir}) if !$self->{kept};
	return;
}

package PostfixTest::Smtp;

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use Time::HiRes qw(time);

sub new {
	my ($class, $port, %opt) = @_;
	my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port)
		or return;
	my $self = bless { sock => $s, in => '' }, $class;

	$self->{greeting} = $self->reply;
	my $helo = $opt{helo} // 'client.example.net';
	$self->{ehlo} = $self->cmd("EHLO $helo") if length $helo;
	return $self;
}

# One whole reply, its lines joined by LF; undef when the connection ended.
sub reply {
	my ($self, $seconds) = @_;
	my $end = time + ($seconds || 30);
	my $sel = IO::Select->new($self->{sock});

	while ($self->{in} !~ /\A(?:\d{3}-[^\n]*\n)*\d{3}(?: [^\n]*)?\n/) {
		my $left = $end - time;
		return if $left <= 0 || !$sel->can_read($left);
		my $n = sysread $self->{sock}, $self->{in}, 65536, length $self->{in};
		return if !$n;
	}
	$self->{in} =~ s/\A((?:\d{3}-[^\n]*\n)*\d{3}(?: [^\n]*)?\n)//;
	my $text = $1;
	$text =~ s/\r?\n/\n/g;
	chomp $text;
	return $text;
}

sub put {
	my ($self, $line) = @_;
	local $SIG{PIPE} = 'IGNORE';
	return defined syswrite $self->{sock}, "$line\r\n";
}

sub cmd {
	my ($self, $line) = @_;
	$self->put($line) or return;
	return $self->reply;
}

# MAIL, all RCPTs, and DATA if one was accepted: every reply in a list.
sub mail {
	my ($self, $from, @to) = @_;
	my @got = $self->cmd("MAIL FROM:<$from>");

	for my $to (@to) {
		push @got, $self->cmd("RCPT TO:<$to>");
		return @got if !defined $got[-1];
	}
	if (grep {/^250/} @got[ 1 .. $#got ]) {
		push @got, $self->cmd('DATA');
		push @got, $self->cmd("Subject: test\r\n\r\ntest\r\n.")
			if ($got[-1] // '') =~ /^354/;
	} else {
		$self->cmd('RSET');
	}
	return @got;
}

# Has the other side hung up, within the time?
sub closed {
	my ($self, $seconds) = @_;
	my $sel = IO::Select->new($self->{sock});
	return 0 if !$sel->can_read($seconds || 5);
	my $n = sysread $self->{sock}, my $more, 1;
	return !$n;
}

sub quit { my $self = shift; my $r = $self->cmd('QUIT'); close $self->{sock};
	return $r }

1;
