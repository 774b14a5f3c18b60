package FaultDns;

# SPDX-License-Identifier: MIT
#
# A nameserver, in a process of its own, for a program that is started with
# prefix() before it:
#
#   my $dns = FaultDns->new or plan skip_all => 'not here';
#   $dns->name('db.policyd.test', '127.0.0.1');   # no address: there is none
#   $dns->mute(1);    # it swallows what it is asked
#   $dns->asked;      # how many questions there were since the last time

use strict;
use warnings;

use Carp qw(croak);
use File::Temp qw(tempdir);
use IO::Select;
use IO::Socket::INET;
use Socket qw(inet_aton);

use parent 'Beside';

use constant { A => 1, NO_SUCH_NAME => 3 };

# Nothing where port 53 cannot be had, or nothing be mounted.
sub new {
	my ($class) = @_;
	my $address = join '.', 127, map { 1 + int rand 250 } 1 .. 3;
	my $door = IO::Socket::INET->new(
		LocalAddr => $address,
		LocalPort => 53,
		Proto     => 'udp'
	) or return;
	my $dir = tempdir('dns-XXXXXX', TMPDIR => 1, CLEANUP => 1);

	_spew("$dir/resolv.conf", "nameserver $address\nsearch .\n"
		. "options timeout:2 attempts:2\n");
	_spew("$dir/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n");
	chmod 0755, $dir;
	return if system(_prefix($dir), 'true') != 0;
	return $class->beside(sub { _run($door, $_[0]) }, dir => $dir);
}

# What comes after it has this nameserver, and no other.
sub prefix { return _prefix($_[0]{dir}) }

sub _prefix {
	my ($dir) = @_;
	return ('unshare', '-m', 'sh', '-c', 'for f in resolv.conf nsswitch.conf; do
		mount --bind "$1/$f" "/etc/$f" || exit 1; done; shift; exec "$@"',
		'sh', $dir);
}

sub name { my ($self, @what) = @_; return $self->_tell("name @what") }
sub mute { my ($self, $on) = @_; return $self->_tell("mute $on") }
sub asked { my ($self) = @_; return 0 + $self->_tell('asked') }

# In force when it returns.
sub _tell {
	my ($self, $line) = @_;
	my $control = $self->{control};
	print {$control} "$line\n";
	return readline $control // croak 'the nameserver has ended';
}

sub _run {
	my ($door, $control) = @_;
	my ($mute, $asked, %address) = (0, 0);
	my $both = IO::Select->new($door, $control);

	while (1) {
		for my $ready ($both->can_read) {
			if ($ready == $control) {
				my ($what, @arg) = split ' ', readline $control // return;
				$mute = $arg[0] if $what eq 'mute';
				$address{ $arg[0] } = [ @arg[ 1 .. $#arg ] ]
					if $what eq 'name';
				print {$control} "$asked\n";
				$asked = 0 if $what eq 'asked';
				next;
			}
			my $from = recv $door, my $question, 512, 0;
			$asked++;
			send $door, _answer($question, \%address), 0, $from
				if defined $from && !$mute;
		}
	}
	return;
}

# RFC 1035: the question again, and after it an A record for each address.
sub _answer {
	my ($question, $address) = @_;
	my ($name, $at) = ('', 12);

	while (my $n = ord substr $question, $at, 1) {
		$name .= '.' . substr $question, $at + 1, $n;
		$at += 1 + $n;
	}
	my ($type) = unpack 'n', substr $question, $at + 1, 2;
	my $known = $address->{ lc substr $name, 1 };
	my @records = $known && $type == A ? @$known : ();

	return pack('a2nnnnn', $question, 0x8580 | ($known ? 0 : NO_SUCH_NAME),
		1, scalar @records, 0, 0)
		. substr($question, 12, $at + 5 - 12)
		. join '', map { pack 'nnnNna4', 0xc00c, A, 1, 0, 4, inet_aton($_) }
		@records;
}

sub _spew {
	my ($path, $text) = @_;
	open my $out, '>', $path or croak "$path: $!";
	print {$out} $text;
	close $out or croak "$path: $!";
	return;
}

1;
