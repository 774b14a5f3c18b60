package SmtpdLoad;

# Questions that go on and on, each asked as Postfix's smtpd asks: over a
# connection that is kept; where no whole answer comes, once more, a second
# later, over a new one.  What became of each goes to a file.
#
#   perl -I/t/lib -MSmtpdLoad -e 'SmtpdLoad::run(SOCKET, FOLDER, COUNT)'
#
# COUNT processes ask, of alice@example.org and, who is not greylisted,
# carol@example.com, until FOLDER/stop is there.  As long as one of them asks
# for a second time, there is a FOLDER/again.N: who breaks things waits for that
# to go, since smtpd does not ask a third time.  Lines of FOLDER/log.N are a
# time and
#
#   answered        it was the right one
#   wrong ANSWER    it was not
#   key SENDER      as before, and this is a new key of greylisting
#   stale           the connection was closed while nothing was asked
#   refused WHY     it could not connect
#   lost            a question, not a byte of the answer
#   truncated TEXT  some bytes of the answer
#   failed          asked twice in vain: 451 4.3.5 for the client

use strict;
use warnings;

use IO::Select;
use IO::Socket::UNIX;
use Socket qw(SOCK_STREAM);
use Time::HiRes qw(sleep time);

use PolicydTest qw(block);

use constant {
	PAUSE_S => 0.02,	# from an answer to the next question
	AGAIN_S => 1,	# smtpd_policy_service_retry_delay
	WAIT_S  => 100,	# smtpd_policy_service_timeout
	TRIES   => 2,	# smtpd_policy_service_try_limit
};

my @QUESTIONS = (
	['unknown', qr/^550 5\.1\.1 /, recipient => 'nobody@example.org'],
	['known', qr/^DUNNO$/, recipient => 'carol@example.com'],
	['key', qr/^DEFER_IF_PERMIT 4\.2\.0 /, recipient => 'alice@example.org',
		client_address => '198.51.100.7', client_name => 'unknown'],
	['known', qr/^DUNNO$/, protocol_state => 'CONNECT'],
);

# Letters alone, since runs of digits are one to greylisting.
sub word {
	my $n = shift;
	return sprintf('%06d', $n) =~ tr/0-9/g-p/r;
}

sub note_it {
	my ($self, @what) = @_;
	printf {$self->{log}} "%.3f %s\n", time, "@what";
	return;
}

sub connect_it {
	my $self = shift;
	$self->{sock} = IO::Socket::UNIX->new(Type => SOCK_STREAM,
		Peer => $self->{path});
	note_it($self, 'refused', $!) if !$self->{sock};
	return $self->{sock};
}

# Whatever follows the answer, or comes without a question, spoils it.
sub answer {
	my $self = shift;
	my $select = IO::Select->new($self->{sock});
	my $text = '';

	while ($text !~ /\n\n/ && $select->can_read(WAIT_S)) {
		sysread $self->{sock}, $text, 4096, length $text or last;
	}
	return $1 if $text =~ /\Aaction=([^\n]+)\n\n\z/;
	note_it($self, length $text ? ('truncated', $text =~ s/\n/|/gr) : 'lost');
	return;
}

sub try_it {
	my ($self, $text) = @_;

	if ($self->{sock} && IO::Select->new($self->{sock})->can_read(0)) {
		note_it($self, 'stale');
		$self->{sock} = undef;
		sleep AGAIN_S;
	}
	$self->{sock} ||= connect_it($self) or return;
	syswrite $self->{sock}, $text;
	my $answer = answer($self);
	$self->{sock} = undef if !defined $answer;
	return $answer;
}

sub ask {
	my ($self, $text) = @_;

	for my $try (1 .. TRIES) {
		if ($try > 1) {
			open my $f, '>', $self->{again};
			close $f;
			sleep AGAIN_S;
		}
		my $answer = try_it($self, $text);
		unlink $self->{again} if $try > 1;
		return $answer if defined $answer;
	}
	note_it($self, 'failed');
	return;
}

sub one {
	my ($path, $dir, $id) = @_;
	my $self = { path => $path, again => "$dir/again.$id" };
	my $serial = $id * 100000;

	open $self->{log}, '>', "$dir/log.$id" or die "$dir: $!";
	$self->{log}->autoflush(1);
	for (my $turn = $id; !-e "$dir/stop"; $turn++) {
		my ($kind, $right, @attr) = @{ $QUESTIONS[$turn % @QUESTIONS] };
		my $sender = word(++$serial) . '@example.net';
		my $answer = ask($self, block(@attr, sender => $sender));

		if (!defined $answer) {
			# It is told already.
		} elsif ($answer !~ $right) {
			note_it($self, 'wrong', $answer);
		} elsif ($kind eq 'key') {
			note_it($self, 'key', $sender);
		} else {
			note_it($self, 'answered');
		}
		sleep PAUSE_S * 2 * rand;
	}
	return;
}

sub run {
	my ($path, $dir, $count) = @_;
	my @pids;

	$SIG{PIPE} = 'IGNORE';
	mkdir $dir;
	for my $id (1 .. $count) {
		my $pid = fork // die "fork: $!";
		if ($pid == 0) {
			one($path, $dir, $id);
			exit 0;
		}
		push @pids, $pid;
	}
	waitpid $_, 0 for @pids;
	return;
}

# Wait until so many more have had the right answer; false: not in 20 seconds.
sub goes_on {
	my ($dir, $more) = @_;
	my $count = sub {
		my $seen = events($dir, 0, 9e9);
		return map { scalar @{ $seen->{$_} || [] } } qw(answered key);
	};
	my ($answered, $keys) = $count->();

	for (1 .. 200) {
		my @now = $count->();
		return 1 if $now[0] >= $answered + $more && $now[1] > $keys;
		sleep 0.1;
	}
	return 0;
}

# Lines since a time: { WORD => [[TIME, REST]...] }
sub events {
	my ($dir, $since, $until) = @_;
	my %seen;

	for my $file (glob "$dir/log.*") {
		open my $in, '<', $file or next;
		while (<$in>) {
			chomp;
			my ($time, $word, $rest) = split / /, $_, 3;
			push @{ $seen{$word} }, [$time, $rest // '']
			    if $time >= $since && $time < $until;
		}
	}
	return \%seen;
}

1;
