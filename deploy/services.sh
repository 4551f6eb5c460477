#!/usr/bin/env bash
# Brings up what the tests need on a Debian with nothing but Go: RabbitMQ,
# MariaDB, Redis and an SMTP server that delivers into a Maildir.
#
#   deploy/services.sh run COMMAND…   up, COMMAND with the environment, down again
#                                     in any case; exits with COMMAND's code.
#                                     Any number of runs may go on at once
#   deploy/services.sh up             start them and leave them running; prints
#                                     the environment and writes it to DIR/env
#   deploy/services.sh env            print that environment again
#   deploy/services.sh down           stop them and remove their data
#   deploy/services.sh install        only install the Debian packages
#
#   deploy/services.sh rabbit DIR start     one RabbitMQ node of the caller's own,
#   deploy/services.sh rabbit DIR stop      which may be restarted and killed. Its
#   deploy/services.sh rabbit DIR kill      port and its data stay the same until
#   deploy/services.sh rabbit DIR restart   remove. start and restart return when
#   deploy/services.sh rabbit DIR url       it answers; start, restart and url
#   deploy/services.sh rabbit DIR ctl ARG…  print its URL; ctl is rabbitmqctl.
#   deploy/services.sh rabbit DIR remove    DIR keeps one line, no data
#
# DIR of up, env and down is $MINIGATE_SERVICES_DIR, or .cache/services in the
# repository. A service that the environment names already is neither installed
# nor started. The environment:
#
#   MINIGATE_TEST_RABBITMQ      amqp://guest:guest@127.0.0.1:PORT/
#   MINIGATE_TEST_MYSQL         root:minigate@tcp(127.0.0.1:PORT)/
#   MINIGATE_TEST_REDIS         127.0.0.1:PORT
#   MINIGATE_TEST_SMTP          127.0.0.1:PORT
#   MINIGATE_TEST_MAILDIR       the Maildir behind it
#   MINIGATE_TEST_RABBITMQ_CTL  this script, for `"$MINIGATE_TEST_RABBITMQ_CTL" rabbit DIR start`;
#                               down also removes the nodes so started
#   MINIGATE_SERVICES_DATA      where it all is, with a log of each service
#
# Everything listens on loopback only, on a free port each. It needs root or
# sudo only where packages are missing, and starts no service of the system.
set -euo pipefail

script=$(readlink -f "${BASH_SOURCE[0]}")
repo=$(dirname "$(dirname "$script")")
state=${MINIGATE_SERVICES_DIR:-$repo/.cache/services}
password=minigate
patience=120 # seconds until a service has to answer, also on a busy machine

# Where CI closes stdin, the first file opened would become it.
if [[ ! -e /proc/$$/fd/0 ]]; then
	exec 3</dev/null
	exec <&3 3<&-
fi

fail() {
	echo "services.sh: $*" >&2
	exit 1
}

# --- packages ----------------------------------------------------------------

installed() { [[ $(dpkg-query -W -f '${Status}' "$1" 2>/dev/null) == 'install ok installed' ]]; }

# wanted_packages prints those that the environment does not make unnecessary.
wanted_packages() {
	echo fortunes
	echo fortunes-zh
	[[ -n ${MINIGATE_TEST_RABBITMQ:-} ]] || echo rabbitmq-server
	[[ -n ${MINIGATE_TEST_MYSQL:-} ]] || echo mariadb-server
	[[ -n ${MINIGATE_TEST_REDIS:-} ]] || echo redis-server
	[[ -n ${MINIGATE_TEST_SMTP:-} ]] || echo python3-aiosmtpd
}

# need installs those of the named packages that are missing.
need() {
	local package missing=()
	for package; do installed "$package" || missing+=("$package"); done
	((${#missing[@]})) || return 0
	command -v apt-get >/dev/null || fail "needs the packages ${missing[*]}, and this is no Debian: install them, or name running services in the environment"
	echo "services.sh: installing ${missing[*]}" >&2
	if ((EUID == 0)); then
		bash "$script" install-packages "${missing[@]}"
	elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
		sudo -n bash "$script" install-packages "${missing[@]}"
	else
		fail "needs root or sudo to install ${missing[*]}: run 'apt-get install ${missing[*]}' as root once"
	fi
}

# install_packages runs as root. A policy-rc.d that forbids everything keeps the
# packages from starting their services on the default ports; where systemd is
# there, they are not started at the next boot either.
install_packages() {
	local policy=/usr/sbin/policy-rc.d log kept=0
	exec 8</var/lib/dpkg
	flock 8 # two runs at once: the second finds everything installed
	log=$(mktemp)
	if [[ -e $policy || -L $policy ]]; then
		mv "$policy" "$policy.minigate"
		kept=1
	fi
	# shellcheck disable=SC2064 # the values of now
	trap "rm -f '$policy'; ((!$kept)) || mv '$policy.minigate' '$policy'; rm -f '$log'" EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"

	export DEBIAN_FRONTEND=noninteractive
	local apt=(apt-get -q -o DPkg::Lock::Timeout=300)
	{ "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "$@"; } >"$log" 2>&1 8<&- </dev/null || {
		tail -n 30 "$log" >&2
		fail "apt-get could not install $*"
	}
	if [[ -d /run/systemd/system ]]; then
		local package
		for package; do
			case $package in
			rabbitmq-server | redis-server) systemctl -q disable "$package" ;;
			mariadb-server) systemctl -q disable mariadb ;;
			esac
		done
	fi
}

# --- processes ---------------------------------------------------------------

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

# --- RabbitMQ ----------------------------------------------------------------

# rabbit_env DATA COMMAND… runs COMMAND in the environment of the node in DATA.
# epmd is the node's own: it ends with it, and does not meet another's.
rabbit_env() {
	local data=$1
	shift
	local node=$data/rabbitmq
	as rabbitmq env -i PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
		LANG=C.UTF-8 HOME="$node" \
		ERL_EPMD_PORT="$(port "$data" epmd)" ERL_EPMD_ADDRESS=127.0.0.1 ERL_MAX_PORTS=65536 \
		RABBITMQ_NODENAME="minigate$(port "$data" rabbitmq)@localhost" \
		RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT="$(port "$data" rabbitmq)" \
		RABBITMQ_DIST_PORT="$(port "$data" distribution)" \
		RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}' \
		RABBITMQ_MNESIA_BASE="$node" RABBITMQ_LOG_BASE="$node" RABBITMQ_LOGS=- \
		RABBITMQ_CONF_ENV_FILE="$node/none" RABBITMQ_CONFIG_FILE="$node/rabbitmq" \
		RABBITMQ_ADVANCED_CONFIG_FILE="$node/none" \
		RABBITMQ_ENABLED_PLUGINS_FILE="$node/enabled_plugins" \
		"$@"
}

start_rabbitmq() {
	local data=$1
	if [[ ! -d $data/rabbitmq ]]; then
		mkdir "$data/rabbitmq"
		take_port "$data" rabbitmq >/dev/null
		take_port "$data" distribution >/dev/null
		take_port "$data" epmd >/dev/null
		echo 'log.console.level = warning' >"$data/rabbitmq/rabbitmq.conf"
		echo '[].' >"$data/rabbitmq/enabled_plugins"
		own rabbitmq "$data/rabbitmq"
	fi
	# Debian's wrapper in /usr/sbin takes no user but root and rabbitmq.
	alive "$data" epmd || spawn "$data" epmd "$script" in-rabbitmq "$data" epmd -address 127.0.0.1 -port "$(port "$data" epmd)"
	spawn "$data" rabbitmq "$script" in-rabbitmq "$data" /usr/lib/rabbitmq/bin/rabbitmq-server
}

ask_rabbitmq() {
	local first
	exec 7<>"/dev/tcp/127.0.0.1/$(port "$1" rabbitmq)" || return 1
	printf 'AMQP\x00\x00\x09\x01' >&7
	first=$(timeout 2 head -c 1 <&7 | od -An -tu1) || first=
	exec 7>&-
	[[ ${first// /} == 1 ]] # a method frame: connection.start
}

rabbit_url() { echo "amqp://guest:guest@127.0.0.1:$(port "$1" rabbitmq)/"; }

# rabbit DIR ACTION … is the caller's own node.
rabbit() {
	local dir=$1 action=$2 data
	shift 2
	if [[ $action == start && ! -f $dir/rabbitmq ]]; then
		need rabbitmq-server
		mkdir -p "$dir"
		data=$(new_data)
		echo "$data" >"$dir/rabbitmq"
		[[ -d ${MINIGATE_SERVICES_DATA:-} ]] && echo "$data" >>"$MINIGATE_SERVICES_DATA/nodes"
	fi
	[[ -f $dir/rabbitmq ]] || {
		[[ $action == remove ]] && return
		fail "there is no node in $dir: rabbit $dir start"
	}
	data=$(<"$dir/rabbitmq")
	case $action in
	start) ;;
	stop | restart)
		signal "$data" rabbitmq TERM
		gone "$data" rabbitmq 30 || signal "$data" rabbitmq KILL
		gone "$data" rabbitmq 10 || fail "the node in $dir does not end"
		;;
	kill)
		signal "$data" rabbitmq KILL
		gone "$data" rabbitmq 10 || fail "the node in $dir does not end"
		;;
	url) rabbit_url "$data" ;;
	ctl) (rabbit_env "$data" /usr/lib/rabbitmq/bin/rabbitmqctl -q "$@" </dev/null) ;;
	remove)
		remove "$data"
		rm -f "$dir/rabbitmq"
		;;
	*) fail "rabbit DIR $action: want start, stop, kill, restart, url, ctl or remove" ;;
	esac
	if [[ $action == start || $action == restart ]]; then
		alive "$data" rabbitmq || start_rabbitmq "$data"
		answer "$data" rabbitmq
		rabbit_url "$data"
	fi
}

# --- the others --------------------------------------------------------------

# The modes are those of MySQL 9, so that what passes here passes there.
mariadb_run() {
	local data=$1 dir=$1/mariadb
	mariadb-install-db --no-defaults --datadir="$dir/data" --auth-root-authentication-method=normal \
		--skip-test-db --skip-name-resolve >&2
	exec mariadbd --no-defaults --datadir="$dir/data" --socket="$dir/socket" --pid-file="$dir/pid" --tmpdir="$dir" \
		--bind-address=127.0.0.1 --port="$(port "$data" mariadb)" --init-file="$dir/init.sql" --skip-name-resolve \
		--character-set-server=utf8mb4 --collation-server=utf8mb4_unicode_ci --max-connections=500 \
		--innodb-buffer-pool-size=64M --innodb-log-file-size=32M --innodb-flush-log-at-trx-commit=2 \
		--sql-mode=ONLY_FULL_GROUP_BY,STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION
}

start_mariadb() {
	local data=$1 dir=$1/mariadb
	mkdir "$dir"
	take_port "$data" mariadb >/dev/null
	cat >"$dir/init.sql" <<-SQL
		CREATE OR REPLACE USER 'root'@'127.0.0.1' IDENTIFIED BY '$password';
		CREATE OR REPLACE USER 'root'@'localhost' IDENTIFIED BY '$password';
		GRANT ALL ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION;
		GRANT ALL ON *.* TO 'root'@'localhost' WITH GRANT OPTION;
	SQL
	own mysql "$dir"
	spawn "$data" mariadb "$script" in-mariadb "$data"
}

ask_mariadb() {
	mariadb --no-defaults --protocol=tcp -h 127.0.0.1 -P "$(port "$1" mariadb)" -u root -p"$password" -e 'SELECT 1' </dev/null
}

start_redis() {
	mkdir "$1/redis"
	spawn "$1" redis redis-server --bind 127.0.0.1 --port "$(take_port "$1" redis)" --dir "$1/redis" \
		--databases 64 --save '' --appendonly no --daemonize no
}

ask_redis() {
	local line
	exec 7<>"/dev/tcp/127.0.0.1/$(port "$1" redis)" || return 1
	printf 'PING\r\n' >&7
	read -r -t 2 line <&7 || line=
	exec 7>&-
	[[ $line == +PONG* ]]
}

# Debian's own Python: another one that PATH has first does not know aiosmtpd.
start_smtp() {
	spawn "$1" smtp /usr/bin/python3 -I -m aiosmtpd --nosetuid --class aiosmtpd.handlers.Mailbox \
		--listen "127.0.0.1:$(take_port "$1" smtp)" "$1/maildir"
}

ask_smtp() {
	local line
	exec 7<>"/dev/tcp/127.0.0.1/$(port "$1" smtp)" || return 1
	read -r -t 2 line <&7 || line=
	exec 7>&-
	[[ $line == 220* ]]
}

# --- all of them -------------------------------------------------------------

# up DATA starts what the environment does not name, waits until all of them
# answer, and writes DATA/env.
up() {
	local data=$1 name wait_for=() packages
	mapfile -t packages < <(wanted_packages)
	need "${packages[@]}"
	[[ -n ${MINIGATE_TEST_RABBITMQ:-} ]] || wait_for+=(rabbitmq)
	[[ -n ${MINIGATE_TEST_MYSQL:-} ]] || wait_for+=(mariadb)
	[[ -n ${MINIGATE_TEST_REDIS:-} ]] || wait_for+=(redis)
	if [[ -n ${MINIGATE_TEST_SMTP:-} ]]; then
		[[ -n ${MINIGATE_TEST_MAILDIR:-} ]] || fail "MINIGATE_TEST_SMTP is set and MINIGATE_TEST_MAILDIR, the Maildir that it delivers to, is not"
	else
		wait_for+=(smtp)
	fi
	for name in "${wait_for[@]}"; do "start_$name" "$data"; done
	for name in "${wait_for[@]}"; do answer "$data" "$name"; done
	for name in "${wait_for[@]}"; do
		case $name in
		rabbitmq) MINIGATE_TEST_RABBITMQ=$(rabbit_url "$data") ;;
		mariadb) MINIGATE_TEST_MYSQL="root:$password@tcp(127.0.0.1:$(port "$data" mariadb))/" ;;
		redis) MINIGATE_TEST_REDIS=127.0.0.1:$(port "$data" redis) ;;
		smtp)
			MINIGATE_TEST_SMTP=127.0.0.1:$(port "$data" smtp)
			MINIGATE_TEST_MAILDIR=$data/maildir
			;;
		esac
	done
	MINIGATE_TEST_RABBITMQ_CTL=${MINIGATE_TEST_RABBITMQ_CTL:-$script}
	MINIGATE_SERVICES_DATA=$data
	for name in MINIGATE_TEST_{RABBITMQ,MYSQL,REDIS,SMTP,MAILDIR,RABBITMQ_CTL} MINIGATE_SERVICES_DATA; do
		printf 'export %s=%q\n' "$name" "${!name}"
	done >"$data/env"
}

# up_kept is the command up: the folder $state remembers where the data are.
up_kept() {
	mkdir -p "$state"
	exec 6<"$state"
	flock 6
	local data name running=1
	if [[ -f $state/data ]]; then
		data=$(<"$state/data")
		for name in "$data"/*.pid; do
			alive "$data" "$(basename "$name" .pid)" || running=0
		done
		if ((running)) && [[ -f $data/env ]]; then
			cat "$state/env"
			return
		fi
		remove "$data"
	fi
	data=$(new_data)
	echo "$data" >"$state/data"
	trap 'down_kept' EXIT
	up "$data" 6<&-
	trap - EXIT
	cp "$data/env" "$state/env"
	cat "$state/env"
}

down_kept() {
	[[ -f $state/data ]] || return 0
	remove "$(<"$state/data")"
	rm -f "$state/data" "$state/env"
}

# run COMMAND… has a data folder of its own, so that runs do not meet.
run() {
	(($#)) || fail "run what? usage: services.sh run COMMAND…"
	local data code=0 child=
	data=$(new_data)
	# shellcheck disable=SC2064 # the value of now
	trap "remove '$data'" EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	up "$data"
	# shellcheck source=/dev/null
	source "$data/env"
	if [[ -t 0 ]]; then
		"$@" || code=$?
	else
		# A group of its own, so that a signal to this script reaches all of it at once.
		setsid "$@" <&0 &
		child=$!
		trap 'stop_child "$child" 129' HUP
		trap 'stop_child "$child" 130' INT
		trap 'stop_child "$child" 143' TERM
		wait "$child" || code=$?
	fi
	exit "$code"
}

# stop_child PID CODE ends COMMAND with all that it started, and then the script.
stop_child() {
	kill -TERM -- "-$1" 2>/dev/null || true
	wait "$1" || true
	exit "$2"
}

usage() {
	sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "$script"
}

command=${1:-help}
(($# == 0)) || shift
case $command in
run) run "$@" ;;
up) up_kept ;;
down) down_kept ;;
env) cat "$state/env" 2>/dev/null || fail "nothing is up: services.sh up" ;;
install)
	mapfile -t packages < <(wanted_packages)
	need "${packages[@]}"
	;;
rabbit)
	(($# >= 2)) || fail "usage: services.sh rabbit DIR start|stop|kill|restart|url|ctl|remove"
	rabbit "$@"
	;;
install-packages) install_packages "$@" ;;
in-rabbitmq) rabbit_env "$@" ;;
in-mariadb) # the user mysql need not be able to read the repository
	as mysql bash -c "set -eu; $(declare -f port mariadb_run); mariadb_run '$1'"
	;;
help | -h | --help) usage ;;
*) fail "unknown command $command, see services.sh help" ;;
esac
