package Oracle;

# SPDX-License-Identifier: MIT
#
# The contract once more, written from its text alone and as plainly as it can
# be: what may policyd answer to a request?  No index, no cache, no packing;
# nothing is shared with the daemon, and no row of what it does is copied.
#
#   my $world = Oracle::world(%rows_and_settings);
#   for my $path (Oracle::paths(worlds => [$world], request => \%attr,
#       sessions => \@may_be, grey => $grey, from => $sent, to => $answered)) {
#       print "right\n" if Oracle::fits($path, $answer, $took);
#   }
#
# A path is one way through the decision.  Nearly always there is one.  There
# are more where two answers are right: while a change comes into force (several
# worlds), at the very moment when a wait is over, while PostgreSQL is away (a
# script), or where the contract leaves it open.  Each path carries the session
# and the greylisting state that would follow from it; Oracle::join_states makes
# one of those of all the paths that fit.  No path at all: there would be too
# many, since too much is open.

use strict;
use warnings;

use List::Util qw(max min);
use Socket qw(AF_INET AF_INET6 inet_pton);

use constant {
	SLACK_S      => 0.1,   # clocks are read a moment before or after
	HOLD_EARLY_S => 0.03,  # a loop's time is that of its last turn
	ANNOUNCED_S  => 5,     # so long after a fault all may not be told
	LATE_S       => 5,     # a statement may wait so long at the server
	UNSYNCED_S   => 4,     # what was written before one is written again
	PATHS_MAX    => 500,   # beyond that nobody can say
};

# Names beyond ASCII that the test uses, both ways to write them.
my %A_LABEL = ("b\xc3\xbccher.example" => 'xn--bcher-kva.example');

# ---- one of several ways ----

my (@plan, @taken);

# Every one of these is tried, each on a path of its own.
sub choose {
	my @options = @_;
	return $options[0] if @options == 1;
	my $at = @taken;
	my $i  = $plan[$at] // 0;

	push @taken, [ $i, scalar @options ];
	return $options[$i];
}

sub paths {
	my %ask = @_;
	my @paths;

	@plan = ();
	while (1) {
		@taken = ();
		push @paths, decide(\%ask);
		return if @paths > PATHS_MAX;
		pop @taken while @taken && $taken[-1][0] + 1 >= $taken[-1][1];
		last if !@taken;
		$taken[-1][0]++;
		@plan = map { $_->[0] } @taken;
	}
	return @paths;
}

# Is this the answer of that path?
sub fits {
	my ($path, $answer, $took) = @_;
	return 0 if $path->{hold} && $took < $path->{hold} - HOLD_EARLY_S;
	return 1 if $answer eq $path->{want};
	return 0 if !$path->{like};
	return $path->{like}->($answer);
}

# ---- the world: rows and settings ----

# domain, domain_alias, address, alias, list_entry, rule: arrays of hashes of
# their columns; allowed: { client => 1 }; ini: what policyd.ini says.
sub world {
	my %w = @_;

	my %domain = map { domain($_->{name}) => $_ }
		grep { $_->{enabled} } @{ $w{domain} };
	my %address = map { address($_->{address}) => $_ } @{ $w{address} };
	my (%alias, %list);
	push @{ $alias{ address($_->{address}) } }, $_ for @{ $w{alias} };
	push @{ $list{ $_->{list} } }, $_->{value} for @{ $w{list_entry} };
	my @rules = map {
		{ %$_, test => [ map { condition($_, \%list) } @{ $_->{conditions} } ] }
		}
		sort { $a->{priority} <=> $b->{priority} || $a->{id} <=> $b->{id} }
		grep { $_->{enabled} } @{ $w{rule} };
	return {
		n       => $w{n},
		ini     => $w{ini},
		allowed => $w{allowed} || {},
		domain  => \%domain,
		domain_alias => { map { domain($_->{name}) => domain($_->{target}) }
				@{ $w{domain_alias} } },
		address => \%address,
		alias   => \%alias,
		rules   => \@rules,
	};
}

# ---- names ----

sub domain {
	my $name = lc shift;
	$name =~ s/\.\z//;
	return $A_LABEL{$name} // $name;
}

# Local parts in lower case, too: fold_local_part is on.
sub address {
	my $text = shift;
	my ($local, $domain) = $text =~ /\A(.*)@([^@]*)\z/s or return lc $text;
	return lc($local) . '@' . domain($domain);
}

# No usable address: (); else local part and domain.
sub split_address {
	my $text = shift;
	return if $text =~ /\A | \z/;
	my ($local, $domain) = $text =~ /\A(.+)@([^@]+)\z/s or return;
	$domain = domain($domain);
	return if $domain eq '';
	return (lc $local, $domain);
}

# Bytes that are no plain text: how they are shown and compared is left open.
sub is_odd { return $_[0] =~ /[^ -~]/ }

# ---- conditions ----

my %NUMBER = map { $_ => 1 }
	qw(size recipient_count client_port server_port encryption_keysize);
my %HOST = map { $_ => 1 } qw(client_address server_address);
my %MAIL = map { $_ => 1 } qw(sender recipient sasl_username sasl_sender);

sub value {
	my ($c, $name) = @_;
	my $r = $c->{request};

	if ($name =~ /^(sender|recipient)_(domain|localpart)$/) {
		my $text = $r->{$1} // '';
		my $at   = rindex $text, '@';
		return $2 eq 'domain' ? '' : $text if $at < 0;
		return $2 eq 'domain' ? domain(substr $text, $at + 1)
			: substr $text, 0, $at;
	}
	return (find_domain($c))[0] ? 'yes' : 'no'
		if $name eq 'recipient_is_local';
	return $c->{client} if $name eq 'client';
	return $r->{$name} // '';
}

sub expand {
	my ($c, $text) = @_;
	$text =~ s/\{([a-z_]+)\}/my $v = value($c, $1);
		$c->{odd_text} = 1 if is_odd($v); $v/ge;
	return $text;
}

# What a condition looks at is left open: blanks around an address, a dot at its
# end, letters beyond ASCII, bytes that are none.
sub is_open {
	my ($c, $name) = @_;
	my $base = $name =~ /^(sender|recipient)/ ? $1 : $name;
	my $text = $c->{request}{$base} // '';
	return 1 if is_odd($text);
	return $base eq 'recipient' && length $text && !$c->{plain_recipient};
}

# A sub that is asked with a check.
sub condition {
	my ($text, $list) = @_;
	my ($not, $name, $rest) = $text =~ /^(not )?([a-z_]+) (.*)$/
		or die "no condition: $text\n";
	my $test = operator($name, $rest, $list);

	return sub {
		my $c = shift;
		my $held = is_open($c, $name) ? choose(0, 1) : $test->($c) ? 1 : 0;
		return $not ? !$held : $held;
	};
}

sub operator {
	my ($name, $text, $list) = @_;

	return sub { value($_[0], $name) eq '' } if $text eq 'is empty';
	return sub { value($_[0], $name) ne '' } if $text eq 'is not empty';
	my ($op, $arg) = $text =~ /^(\S+) (.+)$/ or die "no operator: $text\n";
	return compare($name, $op, $arg) if $op =~ /^[<>]=?$/;
	if ($op eq '=' || $op eq '!=') {
		return sub {
			my $c = shift;
			my $same = equal($name, value($c, $name), expand($c, $arg));
			return $op eq '=' ? $same : !$same;
		};
	}
	if ($op eq 'under') {
		return sub {
			my $c = shift;
			my $v = value($c, $name);
			$v =~ s/.*@//s;
			return is_under(lc $v, lc expand($c, $arg));
		};
	}
	if ($op eq 'in' && $arg =~ /^list:(.+)/) {
		my @entries = @{ $list->{$1} || [] };
		my $what = $HOST{$name} ? \&in_networks
			: $MAIL{$name} ? \&in_mail : \&in_names;
		return sub { $what->(value($_[0], $name), @entries) };
	}
	if ($op eq 'in') {
		my @items = split /, */, $arg;
		return sub { in_networks(value($_[0], $name), @items) }
			if $HOST{$name};
		return sub {
			my $v = value($_[0], $name);
			return scalar grep { equal($name, $v, $_) } @items;
		};
	}
	if ($op eq 'like') {
		my $re = glob_re($arg);
		return sub { value($_[0], $name) =~ $re };
	}
	if ($op eq 'matches') {
		my $re = qr/$arg/i;
		return sub { value($_[0], $name) =~ $re };
	}
	die "no operator: $text\n";
}

sub compare {
	my ($name, $op, $arg) = @_;
	my %unit = (k => 1024, m => 1024**2, g => 1024**3);
	my ($n, $unit) = $arg =~ /^(\d+)([kmg]?)$/i or die "no number: $arg\n";

	$n *= $unit{ lc $unit } if $unit;
	return sub {
		my $v = value($_[0], $name);
		return 0 if $v !~ /^\d+$/;
		return $op eq '<' ? $v < $n : $op eq '<=' ? $v <= $n
			: $op eq '>' ? $v > $n : $v >= $n;
	};
}

sub equal {
	my ($name, $one, $two) = @_;

	if ($NUMBER{$name} && $one =~ /^\d+$/ && $two =~ /^\d+$/) {
		return $one == $two;
	}
	if ($HOST{$name}) {
		my ($p, $q) = map { bits($_) } $one, $two;
		return $p eq $q if defined $p && defined $q;
	}
	return lc $one eq lc $two;
}

sub is_under {
	my ($name, $top) = @_;
	return 0 if $top eq '';
	return $name eq $top || $name =~ /\.\Q$top\E\z/;
}

sub bits {
	my $text = shift;
	my $packed = inet_pton($text =~ /:/ ? AF_INET6 : AF_INET, $text);
	return defined $packed ? unpack('B*', $packed) : undef;
}

sub in_networks {
	my ($address, @networks) = @_;
	my $have = bits($address) // return 0;

	for (@networks) {
		my ($net, $len) = m{^([^/]+)(?:/(\d+))?$};
		my $want = bits($net);
		next if length $want != length $have;
		$len //= length $want;
		return 1 if substr($want, 0, $len) eq substr($have, 0, $len);
	}
	return 0;
}

sub in_mail {
	my ($v, @entries) = @_;
	my ($local, $domain) = lc($v) =~ /^(.*)@([^@]*)$/s;

	for my $entry (map {lc} @entries) {
		return 1 if $entry eq lc $v && length $v;
		next if !defined $local;
		return 1 if $entry eq "$local\@" || $entry eq "\@$domain";
		return 1 if $entry =~ /^@(\..+)/
			&& substr($domain, -length $1) eq $1;
	}
	return 0;
}

sub in_names {
	my ($v, @entries) = @_;

	$v = lc $v;
	for my $entry (map {lc} @entries) {
		return 1 if $entry eq $v && length $v;
		return 1 if $entry =~ /^\./ && length $v > length $entry
			&& substr($v, -length $entry) eq $entry;
	}
	return 0;
}

sub glob_re {
	my $glob = shift;
	my $re   = '';

	while ($glob =~ /\G(?:\\(.)|(\*)|(\?)|\[(!?)([^]]+)\]|(.))/gs) {
		$re .= defined $1 ? quotemeta $1 : $2 ? '.*' : $3 ? '.'
			: defined $5 ? '[' . ($4 ? '^' : '') . $5 . ']' : quotemeta $6;
	}
	return qr/\A$re\z/is;
}

# ---- the decision ----

# One walk: { want, like, hold, why, session, grey }.
sub decide {
	my $ask = shift;
	my $r   = $ask->{request};
	my %c = (
		%$ask,
		world => choose(@{ $ask->{worlds} }),
		set   => {},
		why   => [],
	);
	my $c = \%c;
	my $state = $r->{protocol_state};

	$c->{session} = copy_session(choose(@{ $ask->{sessions} }));
	$c->{why} = [ "world $c->{world}{n}" ];
	return answer($c, 'DUNNO', 'no policy request')
		if ($r->{request} // '') ne 'smtpd_access_policy'
		|| grep { !defined $r->{$_} } needs($state);
	$c->{plain_recipient} = ($r->{recipient} // '')
		=~ /\A[\w.+-]+@[a-z0-9.-]+[a-z]\z/i;
	return at_rcpt($c) if $state eq 'RCPT';
	return rules($c) // at_data($c)
		if $state eq 'DATA' || $state eq 'END-OF-MESSAGE';
	return rules($c) // at_look_up($c, lc $state)
		if $state eq 'VRFY' || $state eq 'EXPN';
	return rules($c) // answer($c, 'DUNNO', 'other state');
}

sub needs {
	my $state = shift // return 'protocol_state';
	return qw(client_address sender recipient) if $state eq 'RCPT';
	return 'recipient_count' if $state =~ /^(?:DATA|END-OF-MESSAGE)$/;
	return 'recipient' if $state =~ /^(?:VRFY|EXPN)$/;
	return;
}

sub answer {
	my ($c, $text, $why, %more) = @_;
	return {
		want    => $text,
		why     => join(', ', @{ $c->{why} }, $why),
		session => $c->{session},
		grey    => $c->{grey_after},
		asks    => $c->{asks},
		faulty  => $c->{faulty},
		to      => $c->{to},
		well    => $c->{well} // 0,
		%more
	};
}

# One of [reply].
sub reply {
	my ($c, $name, %more) = @_;
	my $r    = $c->{request};
	my $text = $c->{world}{ini}{reply}{$name};
	my %with = (recipient => $r->{recipient}, sender => $r->{sender},
		client => $r->{client_address});
	my $odd;

	$text =~ s/\{(recipient|sender|client)\}/
		$odd = 1 if is_odd($with{$1} \/\/ ''); $with{$1} \/\/ ''/ge;
	return text_answer($c, $text, $name, $odd, %more);
}

# What cannot be told to the last byte: odd bytes are taken out of it, and it is
# cut where it grows too long.
sub text_answer {
	my ($c, $text, $why, $odd, %more) = @_;
	$text =~ s/ +\z//;
	my ($head) = $text =~ /^((?:\d+|[A-Z_]+) [245]\.\d\.\d \w+|\S+)/;
	my $long = length $text > 200;

	if ($odd || $long || length($c->{request}{recipient} // '') > 200
		|| length($c->{request}{sender} // '') > 200) {
		$more{like} = sub {
			my $copy = my $got = shift;
			return 0 if index($got, $head) != 0;
			return 0 if !utf8::decode($copy) || $got =~ /[\x00-\x1f\x7f]/;
			return 0 if length $got > 510;
			return $odd || index($text, $got) == 0
				|| $got =~ /\.\.\.\z|…\z/;
		};
	}
	return answer($c, $text, $why, %more);
}

sub relay_allows {
	my ($c, $who) = @_;
	return 1 if $who eq 'yes';
	return $who eq 'authenticated' && length($c->{request}{sasl_username} // '');
}

sub setting { my ($c, $name) = @_; return $c->{set}{$name} // $c->{world}{ini}{$name} }

# ---- steps 1 to 7 ----

sub at_rcpt {
	my $c = shift;
	my $s = $c->{session};
	my $r = $c->{request};
	my $instance = $r->{instance} // '';

	if (($s->{instance} // '') ne $instance) {
		$s->{instance} = $instance;
		$s->{accepted} = {};
		$s->{delayed}  = 0;
		$s->{any}      = 0;
	}
	$c->{key} = address($r->{recipient});

	# 1. Asked again after a lost reply, the last one is what it was.
	my $total = $s->{total} // $c->{world}{ini}{errors_total};
	my $id    = "$instance $c->{key}";
	my $n     = keys %{ $s->{refused} };
	$n-- if $n && $s->{last} eq $id;
	return reply($c, 'too_many_errors') if $total > 0 && $n >= $total;

	# 2.
	my $ruled = rules($c);
	return $ruled if $ruled;

	# 3.
	my ($word, $row) = recipient($c);
	if ($word =~ /^(?:bad_address|unknown_user|relay_denied)$/) {
		$s->{last} = $id if !$s->{refused}{$id};
		$s->{refused}{$id} = 1;
		return reply($c, $word, hold => setting($c, 'errors_wait'));
	}
	if ($word eq 'reply') {
		if ($row->{reply} !~ /^[45]\d\d / && choose(0, 1)) {
			# Without a look at how many there are.
			accept_it($c);
			$s->{any} = 1;
		}
		return text_answer($c, $row->{reply}, 'reply of the address');
	}

	# 4. Without an instance nobody can say what is one message.
	my $limit = $c->{set}{max_recipients};
	$limit //= $c->{domain}{max_recipients} if $c->{domain};
	$limit //= $c->{world}{ini}{max_recipients};
	return reply($c, 'too_many_recipients')
		if length $instance && !$s->{accepted}{ $c->{key} }
		&& keys %{ $s->{accepted} } >= $limit;
	if ($word eq 'relayed') {
		accept_it($c);
		return answer($c, 'DUNNO', 'relayed');
	}

	# 5.
	my $script = setting($c, 'script');
	if (length $script && $script ne 'none') {
		my $said = script($c, $script);
		return $said if $said;
	}

	# 6.
	if (wants_greylist($c, $row)) {
		my $waits = greylist($c);
		return $waits if $waits;
	}

	# 7.
	accept_it($c);
	return passes($c);
}

sub accept_it { my $c = shift; $c->{session}{accepted}{ $c->{key} } = 1; return }

sub passes {
	my $c = shift;
	my $s = $c->{session};
	my $verify = $c->{domain} && $c->{domain}{recipients} eq 'verify';
	my @verify = (answer($c, 'reject_unverified_recipient', 'verify'));

	if ($c->{delayed} && !$s->{delayed} && $c->{world}{ini}{header}) {
		# Instead of DUNNO, says one sentence; a header, another.
		return $verify[0] if $verify && choose(1, 0);
		$s->{delayed} = 1;
		my ($least, $most) = @{ $c->{delayed} };
		return answer($c, 'PREPEND X-Greylist',
			"has waited $least to $most s",
			like => sub {
				my ($n) = $_[0] =~
					/^PREPEND X-Greylist: delayed (\d+) seconds by policyd/
					or return 0;
				return $n >= $least && $n <= $most;
			});
	}
	return $verify[0] if $verify;
	return answer($c, 'DUNNO', 'passes');
}

# ---- rules ----

sub rules {
	my $c     = shift;
	my $state = $c->{request}{protocol_state};

	for my $rule (@{ $c->{world}{rules} }) {
		my $for = $rule->{state} // 'RCPT';
		next if $for ne 'ANY' && $for ne $state;
		next if $rule->{shadow};
		next if grep { !$_->($c) } @{ $rule->{test} };
		my $answer = act($c, $rule);
		return $answer if $answer;
	}
	return;
}

sub act {
	my ($c, $rule) = @_;
	my $action = $rule->{action};
	my $at_rcpt = $c->{request}{protocol_state} eq 'RCPT';

	push @{ $c->{why} }, "rule $rule->{id}";
	if ($action =~ /^set (\w+) (.+)$/) {
		my ($name, $value) = ($1, $2);
		return if exists $c->{set}{$name};
		$value =~ s/ms\z// and $value /= 1000;
		$c->{set}{$name} = $value;
		$c->{session}{total} = $value if $name eq 'errors_total' && $at_rcpt;
		return;
	}
	return script($c, $1) if $action =~ /^script (\w+)$/;
	if ($action eq 'greylist') {
		return if !$at_rcpt || (recipient($c))[0] ne 'here';
		$c->{early} = 1;
		return greylist($c);
	}
	$c->{odd_text} = 0;
	my $text = expand($c, $action);
	if ($at_rcpt && $action !~ /^(?:[45]\d\d |REJECT|DEFER(?!_IF_REJECT))/) {
		# What a restriction of Postfix makes of it nobody can say.
		accept_it($c) if $action =~ /^(?!DEFER)[A-Z]/ || choose(1, 0);
		$c->{session}{any} = 1;
	}
	return text_answer($c, $text, 'which answers', $c->{odd_text});
}

# The functions that the test has made in PostgreSQL.
sub script {
	my ($c, $name) = @_;
	my $r = $c->{request};

	$c->{asks} = 1;
	# PostgreSQL is away, or took longer than it may.
	return reply($c, 'unavailable')
		if $c->{faulty} && choose(0, 1)
		|| $c->{to} - $c->{from} > $c->{world}{ini}{query_timeout} - SLACK_S
		&& choose(0, 1);
	return if $name eq 'silent';
	if ($name eq 'said') {
		my $text = "450 4.9.1 said $r->{recipient}";
		return text_answer($c, $text, 'script said',
			is_odd($r->{recipient} // ''));
	}
	return reply($c, 'unavailable', hold => $name eq 'sleeps'
			&& !$c->{faulty} ? $c->{world}{ini}{query_timeout} : 0)
		if $name eq 'fails' || $name eq 'sleeps';
	die "no script: $name\n";
}

# ---- the recipient ----

# The row of its domain, and under which name its addresses are.
sub find_domain {
	my $c = shift;
	my $w = $c->{world};
	my ($local, $name) = split_address($c->{request}{recipient} // '');

	return if !defined $name;
	return ($w->{domain}{$name}, $name) if $w->{domain}{$name};
	if (defined(my $target = $w->{domain_alias}{$name})) {
		return $w->{domain}{$target} ? ($w->{domain}{$target}, $target) : ();
	}
	for (my $up = $name; $up =~ s/^[^.]*\.//;) {
		my $row = $w->{domain}{$up};
		return ($row, $name) if $row && $row->{subdomains};
	}
	return;
}

# (bad_address | relayed | relay_denied | unknown_user), (reply, ROW), or (here,
# ROW of its address if it has one).
sub recipient {
	my $c = shift;
	my $w = $c->{world};
	my ($local) = split_address($c->{request}{recipient});

	return 'bad_address' if !defined $local;
	my ($domain, $at) = find_domain($c);
	$c->{domain} = $domain;
	return relay_allows($c, setting($c, 'relay')) ? 'relayed' : 'relay_denied'
		if !$domain;

	my @names = ($local);
	push @names, $1 if $local =~ /^([^+]+)\+/;
	for my $row (map { $w->{address}{"$_\@$at"} || () } @names) {
		return is_good($c, $row) ? found($row) : 'unknown_user';
	}
	for my $rows (map { $w->{alias}{"$_\@$at"} || () } @names) {
		my @good = grep { is_good($c, $_) } @$rows;
		$c->{destinations} = [ map { $_->{destination} } @good ];
		return @good ? 'here' : 'unknown_user';
	}
	return 'here' if $domain->{recipients} ne 'listed';
	if (my $row = $w->{address}{"\@$at"}) {
		return is_good($c, $row) ? found($row) : 'unknown_user';
	}
	if (my $rows = $w->{alias}{"\@$at"}) {
		return (grep { is_good($c, $_) } @$rows) ? 'here' : 'unknown_user';
	}
	return 'unknown_user';
}

sub found {
	my $row = shift;
	return (defined $row->{reply} ? 'reply' : 'here', $row);
}

sub is_good {
	my ($c, $row) = @_;
	return 0 if !$row->{enabled};
	my $until = $row->{expires_at} // return 1;
	return 1 if $until > $c->{to} + 1 + SLACK_S;
	return 0 if $until < $c->{from} - 1 - SLACK_S;
	return $c->{is_good}{$row} //= choose(0, 1);
}

# ---- other states ----

sub at_data {
	my $c = shift;
	my $n = $c->{request}{recipient_count};
	my $s = $c->{session};
	my $same = ($s->{instance} // '') eq ($c->{request}{instance} // '');
	my $accepted = $same ? keys %{ $s->{accepted} } : 0;
	my @limits = ($c->{world}{ini}{max_recipients},
		map { $_->{max_recipients} // () } values %{ $c->{world}{domain} });

	# Those that were held against a limit at RCPT are not too many now.
	my $any = $same && $s->{any};
	return answer($c, 'DUNNO', 'as many as were accepted')
		if $n <= min(@limits) || !$any && $n <= $accepted;
	return answer($c, 'DUNNO', 'between two limits')
		if ($any || $n <= max(@limits, 6)) && choose(0, 1);
	return reply($c, 'too_many_recipients');
}

sub at_look_up {
	my ($c, $verb) = @_;
	return reply($c, "${verb}_disabled")
		if !relay_allows($c, setting($c, $verb));
	my ($word, $row) = recipient($c);

	return reply($c, $word)
		if $word =~ /^(?:bad_address|unknown_user|relay_denied)$/;
	return answer($c, 'DUNNO', $word) if $word eq 'relayed';
	return text_answer($c, $row->{reply}, 'reply of the address')
		if $word eq 'reply';
	return passes($c) if $verb eq 'vrfy';
	my @to = sort @{ $c->{destinations} || [] };
	return answer($c, "250 2.1.5 @to", 'destinations', like => sub {
		my ($list) = $_[0] =~ /^250 2\.1\.5 (.+)$/ or return 0;
		return 1 if !@to;
		my @got = sort $list =~ /([^\s,;<>]+@[^\s,;<>]+)/g;
		return lc "@got" eq lc "@to";
	});
}

# ---- greylisting ----

sub wants_greylist {
	my ($c, $row) = @_;
	return 0 if $c->{early};

	my $on = $c->{set}{greylist};
	return $on eq 'yes' if defined $on;
	$on = $row->{greylist} if $row;
	$on //= $c->{domain}{greylist};
	$on //= $c->{world}{ini}{greylist};
	return $on;
}

# Digits, case and the tags of BATV make no other sender.
sub fold_sender {
	my $sender = lc shift;
	$sender =~ s/^prvs=[0-9a-f]{10}=//;
	$sender =~ s/\d+/#/g;
	return $sender;
}

# As the table has it: what is no text there is written as "?".
sub grey_key {
	my ($client, $r) = @_;
	my $to = address($r->{recipient});

	$to =~ s/[\x80-\xff]/?/g if !utf8::decode(my $copy = $to);
	$to =~ s/[\x00-\x1f\x7f]/?/g;
	return join ' ', $client, fold_sender($r->{sender}), $to;
}

# What is remembered: of a key { is, passed, lo, hi }, of a client { lo, hi }
# passes and whether it was seen that they are enough.  is and passed: 0 no,
# 1 yes, 2 nobody can say; lo and hi: between these it was first seen.
#
# Nothing (it passes), or the answer.
sub greylist {
	my $c = shift;
	my $w = $c->{world};
	my $r = $c->{request};

	return if length($r->{sasl_username} // '');
	my $name   = grey_key($c->{client}, $r);
	my $key    = $c->{grey}{key}{$name} || { is => 0, passed => 0 };
	my $client = $c->{grey}{client}{ $c->{client} } || { lo => 0, hi => 0 };
	my $after  = $w->{ini}{auto_allow_after};
	my $delay  = $w->{ini}{delay};

	$c->{asks} = 1;
	my $allowed = $w->{allowed}{ $c->{client} };
	if ($allowed || $after && $client->{hi} >= $after) {
		# While PostgreSQL is away, memory has what it was told before.
		my $sure = $c->{faulty} ? $client->{seen}
			: $allowed || $client->{lo} >= $after;
		# What is yet to be written, or once more, is judged in memory, and a
		# pass is counted when it is written.
		my $last = max($key->{touched} // 0, $client->{passed} // 0);
		$sure = 0 if $c->{well} && $c->{from} < $c->{well} + ANNOUNCED_S
			&& $last > $c->{broken} - UNSYNCED_S;
		if ($sure || choose(1, 0)) {
			$c->{grey_after} = { client => $c->{client}, passes => 0,
				shown => !$c->{faulty} && !$allowed && $after };
			return;
		}
	}
	my @ways;
	# A row that somebody has changed is asked about anew.
	push @ways, 'new' if $key->{is} != 1 || $key->{changed} && $c->{faulty};
	if ($key->{is}) {
		push @ways, 'known' if $key->{passed};
		if ($key->{passed} != 1) {
			push @ways, 'early' if $c->{from} - $key->{hi} < $delay + SLACK_S;
			push @ways, 'pass' if $c->{to} - $key->{lo} >= $delay - SLACK_S;
		}
	}
	my $way = choose(@ways);
	my %key = %$key;
	my ($lo, $hi) = map { $_ // 0 } @key{qw(lo hi)};
	push @{ $c->{why} }, "greylisting: $way";
	if ($way eq 'new' && $key->{is} == 1) {
		# The row says more, and will win.
		%key = (%key, hi => $c->{to});
	} elsif ($way eq 'new') {
		%key = (is => 1, passed => 0, lo => $c->{from}, hi => $c->{to});
	} elsif ($way eq 'early') {
		%key = (%key, is => 1, passed => 0);
	} else {
		%key = (%key, is => 1, passed => 1);
	}
	$c->{grey_after} = { name => $name, key => \%key,
		client => $c->{client}, passes => 0 };
	delete $key{changed} if !$c->{faulty};
	$key{touched} = $c->{to};
	$key{past} = substr(sprintf('%.2f %s%s, ', $c->{to}, $way,
		$c->{faulty} ? ' in memory' : '') . ($key{past} // ''), 0, 300);
	if ($way eq 'pass') {
		$c->{grey_after}{passes} = 1;
		my $least = int($c->{from} - $hi - SLACK_S);
		my $most  = int($c->{to} - $lo + SLACK_S) + 1;
		$c->{delayed} = [ max($least, 0), $most ];
		$c->{delayed}[0] = 0 if !$hi;
	}
	return if $way eq 'known' || $way eq 'pass';

	# PostgreSQL may have seen it all the same, and later: its answer was lost, or
	# nobody waited for it any more.
	if ($c->{faulty} && $key->{is} && $c->{to} + LATE_S - $key->{lo} >= $delay) {
		$key{passed} = 2;
		$c->{grey_after}{may_pass} = 1;
	}
	my ($least, $most) = ($delay, $delay);
	if ($way eq 'early') {
		$least = int($delay - ($c->{to} - $lo) - SLACK_S);
		$most  = int($delay - ($c->{from} - $hi) + SLACK_S) + 1;
	}
	return grey_answer($c, max($least, 1), min($most, $delay));
}

sub grey_answer {
	my ($c, $least, $most) = @_;
	my ($head, $tail) = split /\{seconds\}/, $c->{world}{ini}{reply}{greylisted};
	return answer($c, "$head$least..$most$tail", 'waits', like => sub {
		my ($n) = $_[0] =~ /^\Q$head\E(\d+)\Q$tail\E\z/ or return 0;
		return $n >= $least && $n <= $most;
	});
}

# ---- what follows ----

sub new_session { return { refused => {}, last => '', accepted => {} } }

sub copy_session {
	my $s = shift;
	return { %$s, refused => { %{ $s->{refused} } },
		accepted => { %{ $s->{accepted} } } };
}

sub session_text {
	my $s = shift;
	return join "\n", map { $_ // '-' } $s->{instance}, $s->{total}, $s->{last},
		$s->{delayed} || 0, $s->{any} || 0, '', sort(keys %{ $s->{refused} }),
		'', sort keys %{ $s->{accepted} };
}

# All that the session may be after one of these paths; what is remembered for
# greylisting is changed in place to what all of them agree on.
sub join_states {
	my ($grey, @paths) = @_;
	my %sessions = map { session_text($_->{session}) => $_->{session} } @paths;
	my @after = map { $_->{grey} || () } @paths;
	my @keys  = grep { $_->{key} } @after;

	if (@keys) {
		my $name = $keys[0]{name};
		my @is = map { $_->{key} } @keys;
		# Some paths did not even look.
		push @is, $grey->{key}{$name} || { is => 0, passed => 0 }
			if @keys < @paths;
		$grey->{key}{$name} = join_keys(@is);
	}
	if (@after) {
		my $client = $grey->{client}{ $after[0]{client} }
			||= { lo => 0, hi => 0 };
		my @passes = map { $_->{passes} } @after;
		push @passes, 0 if @after < @paths;
		# What passes while PostgreSQL is away is counted when it is back.
		$client->{lo} += min(@passes) if !$paths[0]{faulty};
		my $most = max map { $_->{may_pass} || $_->{passes} } @after;
		$client->{hi} += $most;
		$client->{passed} = max(map { $_->{key}{touched} // 0 } @keys) if $most;
		# Who has passed is announced a moment later, and asked about anew.
		if (@after == @paths && !grep { !$_->{shown} } @after
			and $paths[0]{to} > ANNOUNCED_S
				+ max($client->{passed} // 0, $paths[0]{well}))
		{
			$client->{seen} ||= $paths[0]{to};
			$client->{lo} = max($client->{lo}, $after[0]{shown});
		}
	}
	return values %sessions;
}

sub join_keys {
	my @keys = @_;
	return $keys[0] if @keys == 1;
	my %is     = map { $_->{is} => 1 } @keys;
	my %passed = map { $_->{passed} => 1 } grep { $_->{is} } @keys;
	my @seen   = grep { $_->{is} && defined $_->{lo} } @keys;
	return {
		is      => keys %is == 1 ? (keys %is)[0] : 2,
		passed  => keys %passed == 1 ? (keys %passed)[0] : 2,
		lo      => min(map { $_->{lo} } @seen),
		hi      => max(map { $_->{hi} } @seen),
		touched => max(map { $_->{touched} // 0 } @keys),
		changed => scalar(grep { $_->{changed} } @keys),
		vague   => scalar(grep { $_->{vague} } @keys),
		past    => join('or ', map { $_->{past} // '-' } @keys),
	};
}

1;
