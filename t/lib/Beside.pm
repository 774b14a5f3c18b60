package Beside;

# SPDX-License-Identifier: MIT
#
# A process of a test's own, and a socket between the two:
#
#   use parent 'Beside';
#   my $self = Class->beside(sub { my $control = shift; ... });
#   print { $self->{control} } ...
#
# It ends with the object, in the process that made that.

use strict;
use warnings;

use Carp qw(croak);
use IO::Handle;
use POSIX ();
use Socket qw(AF_UNIX PF_UNSPEC SOCK_STREAM);

# %more: of the object.
sub beside {
	my ($class, $run, %more) = @_;
	socketpair my $ours, my $theirs, AF_UNIX, SOCK_STREAM, PF_UNSPEC
		or croak "socketpair: $!";
	my $pid = fork // croak "fork: $!";

	if ($pid == 0) {
		$SIG{$_} = 'DEFAULT' for qw(INT TERM HUP);
		$SIG{PIPE} = 'IGNORE';
		close $ours;
		$theirs->autoflush(1);
		eval { $run->($theirs); 1 } or print STDERR "$class: $@";
		POSIX::_exit(0);
	}
	close $theirs;
	$ours->autoflush(1);
	return bless { %more, pid => $pid, control => $ours, owner => $$ }, $class;
}

sub stop {
	my $self = shift;

	return if !$self->{pid};
	# It would end with the socket, if no other child had inherited that.
	kill 'TERM', $self->{pid};
	waitpid delete $self->{pid}, 0;
	return;
}

sub DESTROY {
	my $self = shift;
	local ($?, $!, $@);
	$self->stop if $self->{owner} == $$;
	return;
}

1;
