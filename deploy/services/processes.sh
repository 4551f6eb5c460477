# shellcheck shell=bash disable=SC2154 # script and patience are set in services.sh
# Part of services.sh: processes that are recorded when they are started, so that
# exactly they are stopped, with a data folder and ports of their own. It needs
# fail, script and patience of services.sh.

# started prints when a process began, so that a pid that was given to another
# process is never taken for ours.
started() {
	local stat fields
	stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
	read -ra fields <<<"${stat##*) }"
	[[ ${fields[0]} != Z ]] || return 1
	echo "${fields[19]}"
}

# spawn DATA NAME COMMAND… starts a service as leader of a session of its own
# and records it.
spawn() {
	local data=$1 name=$2
	shift 2
	# setsid, not a child of ours in its group, execs the command: $! is its pid.
	(cd "$data" && exec setsid "$@") </dev/null >>"$data/$name.log" 2>&1 8<&- 9<&- &
	local pid=$!
	disown "$pid" # the shell reports the end of none of them
	echo "$pid $(started "$pid" || true)" >"$data/$name.pid"
}

alive() {
	local pid since
	[[ -f $1/$2.pid ]] || return 1
	read -r pid since <"$1/$2.pid"
	[[ -n $since && $(started "$pid") == "$since" ]]
}

# signal DATA NAME SIGNAL sends it to the whole session's group.
signal() {
	local pid
	alive "$1" "$2" || return 0
	read -r pid _ <"$1/$2.pid"
	kill -s "$3" -- "-$pid" 2>/dev/null || true
}

# gone DATA NAME SECONDS waits until it has ended.
gone() {
	local until=$((SECONDS + $3))
	while alive "$1" "$2"; do
		((SECONDS < until)) || return 1
		sleep 0.05
	done
}

# answer DATA NAME waits until the service NAME answers.
answer() {
	local until=$((SECONDS + patience))
	until "ask_$2" "$1" >/dev/null 2>&1; do
		if ! alive "$1" "$2" || ((SECONDS >= until)); then
			tail -n 30 "$1/$2.log" >&2 || true
			fail "$2 did not come up, its log is above"
		fi
		sleep 0.05
	done
}

# new_data makes a folder for servers' data: in /tmp, because the servers' own
# users have to reach it and sockets want short paths.
new_data() {
	local data
	data=$(mktemp -d /tmp/minigate-services.XXXXXX)
	chmod 755 "$data"
	echo "$data"
}

# take_port DATA NAME prints a free port and reserves it in DATA/NAME.port. It is
# below the range from which the kernel gives ports to clients, so that it stays
# free over a restart, and the lock keeps two runs from choosing the same one.
take_port() {
	local port
	exec 9</tmp
	flock 9
	while :; do
		port=$((10240 + (RANDOM * 32768 + RANDOM) % 21504))
		grep -qsx "$port" /tmp/minigate-services.*/*.port && continue
		(exec 7<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && continue
		break
	done
	echo "$port" >"$1/$2.port"
	exec 9<&-
	echo "$port"
}

port() { cat "$1/$2.port"; }

# remove DATA kills what runs on a data folder, and removes it. What it holds is
# thrown away, so nothing gets the time to save it.
remove() {
	local data=$1 pidfile name
	[[ $data == /tmp/minigate-services.* && -d $data ]] || return 0
	if [[ -f $data/nodes ]]; then
		local node
		while read -r node; do remove "$node"; done <"$data/nodes"
	fi
	for pidfile in "$data"/*.pid; do
		[[ -e $pidfile ]] || continue
		name=$(basename "$pidfile" .pid)
		signal "$data" "$name" KILL
		gone "$data" "$name" 10 || echo "services.sh: $name (pid $(<"$pidfile")) does not end" >&2
	done
	rm -rf "$data"
}

# as USER COMMAND… becomes COMMAND, as the user of the Debian
# package where we are root, and as ourselves where not.
as() {
	local user=$1
	shift
	if ((EUID == 0)); then
		exec setpriv --reuid="$user" --regid="$user" --clear-groups -- "$@"
	fi
	exec "$@"
}

own() { ((EUID != 0)) || chown -R "$1:$1" "$2"; }
