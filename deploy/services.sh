#!/usr/bin/env bash
# Brings up what the tests need on a Debian with nothing but Go: RabbitMQ,
# MariaDB, Redis, etcd and an SMTP server that delivers into a Maildir.
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
#   deploy/services.sh etcd DIR …           the same for etcd, without ctl; its URL
#                                           is 127.0.0.1:PORT
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
#   MINIGATE_TEST_ETCD          127.0.0.1:PORT
#   MINIGATE_TEST_ETCD_CTL      this script, for `"$MINIGATE_TEST_ETCD_CTL" etcd DIR start`
#   MINIGATE_TEST_PROMETHEUS    anything: Debian's prometheus is not installed. Tests
#                               that need one start it and promtool from PATH
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

# shellcheck source=deploy/services/packages.sh
source "$repo/deploy/services/packages.sh"
# shellcheck source=deploy/services/processes.sh
source "$repo/deploy/services/processes.sh"
# shellcheck source=deploy/services/rabbitmq.sh
source "$repo/deploy/services/rabbitmq.sh"
# shellcheck source=deploy/services/etcd.sh
source "$repo/deploy/services/etcd.sh"
# shellcheck source=deploy/services/node.sh
source "$repo/deploy/services/node.sh"

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
	[[ -n ${MINIGATE_TEST_ETCD:-} ]] || wait_for+=(etcd)
	if [[ -n ${MINIGATE_TEST_SMTP:-} ]]; then
		[[ -n ${MINIGATE_TEST_MAILDIR:-} ]] || fail "MINIGATE_TEST_SMTP is set and MINIGATE_TEST_MAILDIR, the Maildir that it delivers to, is not"
	else
		wait_for+=(smtp)
	fi
	for name in "${wait_for[@]}"; do "start_$name" "$data"; done
	for name in "${wait_for[@]}"; do answer "$data" "$name"; done
	for name in "${wait_for[@]}"; do
		case $name in
		rabbitmq) MINIGATE_TEST_RABBITMQ=$(rabbitmq_url "$data") ;;
		mariadb) MINIGATE_TEST_MYSQL="root:$password@tcp(127.0.0.1:$(port "$data" mariadb))/" ;;
		redis) MINIGATE_TEST_REDIS=127.0.0.1:$(port "$data" redis) ;;
		etcd) MINIGATE_TEST_ETCD=$(etcd_url "$data") ;;
		smtp)
			MINIGATE_TEST_SMTP=127.0.0.1:$(port "$data" smtp)
			MINIGATE_TEST_MAILDIR=$data/maildir
			;;
		esac
	done
	MINIGATE_TEST_RABBITMQ_CTL=${MINIGATE_TEST_RABBITMQ_CTL:-$script}
	MINIGATE_TEST_ETCD_CTL=${MINIGATE_TEST_ETCD_CTL:-$script}
	MINIGATE_SERVICES_DATA=$data
	for name in MINIGATE_TEST_{RABBITMQ,MYSQL,REDIS,SMTP,MAILDIR,RABBITMQ_CTL,ETCD,ETCD_CTL} MINIGATE_SERVICES_DATA; do
		printf 'export %s=%q\n' "$name" "${!name}"
	done >"$data/env"
}

# kept prints the data folder of what up started, or nothing. The data folder
# names $state and not the other way round: that one may be removed as a cache.
kept() {
	local data
	for data in /tmp/minigate-services.*; do
		if [[ -O $data && -f $data/kept && $(<"$data/kept") == "$state" ]]; then
			echo "$data"
			return
		fi
	done
}

# up_kept is the command up: it leaves what it starts running.
up_kept() {
	mkdir -p "$state"
	exec 6<"$state"
	flock 6
	local data name running=1
	data=$(kept)
	if [[ -n $data ]]; then
		for name in "$data"/*.pid; do
			alive "$data" "$(basename "$name" .pid)" || running=0
		done
		if ((running)) && [[ -f $data/env ]]; then
			cp "$data/env" "$state/env"
			cat "$state/env"
			return
		fi
		remove "$data"
	fi
	data=$(new_data)
	echo "$state" >"$data/kept"
	trap 'down_kept' EXIT
	up "$data" 6<&-
	trap - EXIT
	cp "$data/env" "$state/env"
	cat "$state/env"
}

down_kept() {
	local data
	data=$(kept)
	[[ -n $data ]] || echo "services.sh: nothing is up" >&2
	[[ -z $data ]] || remove "$data"
	rm -f "$state/env"
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
	node rabbitmq "$@"
	;;
etcd)
	(($# >= 2)) || fail "usage: services.sh etcd DIR start|stop|kill|restart|url|remove"
	node etcd "$@"
	;;
install-packages) install_packages "$@" ;;
in-rabbitmq) rabbit_env "$@" ;;
in-mariadb) # the user mysql need not be able to read the repository
	as mysql bash -c "set -eu; $(declare -f port mariadb_run); mariadb_run '$1'"
	;;
help | -h | --help) usage ;;
*) fail "unknown command $command, see services.sh help" ;;
esac
