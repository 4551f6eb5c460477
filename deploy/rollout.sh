#!/usr/bin/env bash
# Replaces the containers of services by new ones, of the image and the
# configuration that compose.yaml names now, while clients stay connected:
#
#   docker compose build && deploy/rollout.sh          # auth, email, chat, echo, gate
#   deploy/rollout.sh chat gate                        # only these, in this order
#
# Gates come last: what clients ask them for is there in its new version by then.
#
# One container at a time: a new one is started beside those that run and must
# become healthy (and, of a gate, be known to the front), then an old one is told
# to stop, finishes what it has, and is removed. So a service has one replica more
# for a moment, and never one less. A new container that does not become healthy is
# removed, the old ones stay, and the exit code is 1. So it is where an old one did
# not finish what it had (its exit code is not 0), once everything is rolled out.
#
# docker compose reads its own variables: COMPOSE_FILE, COMPOSE_PROJECT_NAME and so
# on. MINIGATE_ROLLOUT_WAIT is how many seconds a new container has to become
# healthy (120).
set -euo pipefail
cd "${COMPOSE_PROJECT_DIR:-$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")}"

patience=${MINIGATE_ROLLOUT_WAIT:-120}
unfinished=() # old containers that did not end with 0

say() { printf '%s %s\n' "$(date +%T)" "$*"; }

fail() {
	echo "rollout.sh: $*" >&2
	exit 1
}

# containers SERVICE prints the ids of those that run, oldest first.
containers() {
	local ids
	mapfile -t ids < <(docker compose ps --quiet --no-trunc "$1")
	((${#ids[@]} == 0)) || docker inspect --format '{{.Created}} {{.Id}}' "${ids[@]}" | sort | cut -d' ' -f2
}

health() { docker inspect --format '{{if .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}' "$1"; }

# healthy ID waits until it is, and is false where it ends or takes too long.
healthy() {
	local end=$((SECONDS + patience)) state
	while ((SECONDS < end)); do
		state=$(health "$1") || return 1
		case $state in
		healthy | running) return 0 ;;
		exited | dead | removing) return 1 ;;
		esac
		sleep 0.5
	done
	return 1
}

# in_front ID waits until the front sends clients to a gate, on both of its ports.
in_front() {
	local end=$((SECONDS + 30)) address port page
	[[ -n $(docker compose ps --quiet front 2>/dev/null) ]] || return 0 # clients come another way
	address=$(docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}' "$1")
	while ((SECONDS < end)); do
		page=$(docker compose exec -T front wget -q -O - 'http://127.0.0.1:8405/stats;csv' 2>/dev/null || true)
		for port in 7080 7001; do
			grep -q "^[^,]*,gate[0-9]*,.*,UP,.*,${address%% *}:$port," <<<"$page" || continue 2
		done && return 0
		sleep 0.5
	done
	return 1
}

replace() {
	local service=$1 before=() old all id new name code
	mapfile -t before < <(containers "$service")
	if ((${#before[@]} == 0)); then
		say "$service: nothing runs"
		return
	fi
	for old in "${before[@]}"; do
		mapfile -t all < <(containers "$service")
		docker compose --progress quiet up --detach --no-deps --no-recreate --no-build \
			--scale "$service=$((${#all[@]} + 1))" "$service"
		new=
		for id in $(containers "$service"); do
			[[ " ${all[*]} " == *" $id "* ]] || new=$id
		done
		[[ -n $new ]] || fail "$service: no container was started"
		name=$(docker inspect --format '{{slice .Name 1}}' "$new")
		if ! healthy "$new"; then
			docker logs --tail 20 "$new" >&2 || true
			docker rm --force "$new" >/dev/null
			fail "$service: $name did not become healthy (its log is above) and was removed; the old ones stay"
		fi
		if [[ $service == gate ]] && ! in_front "$new"; then
			fail "$service: the front does not know $name after 30 s; the old ones stay, and so does it"
		fi
		say "$service: $name takes over from $(docker inspect --format '{{slice .Name 1}}' "$old")"
		docker stop "$old" >/dev/null # SIGTERM, and time to finish: stop_grace_period
		code=$(docker inspect --format '{{.State.ExitCode}}' "$old")
		if [[ $code != 0 ]]; then
			docker logs --tail 5 "$old" >&2 || true
			name=$(docker inspect --format '{{slice .Name 1}}' "$old")
			echo "rollout.sh: $service: $name ended with exit code $code; its last lines are above" >&2
			unfinished+=("$name ($code)")
		fi
		docker rm "$old" >/dev/null
	done
	say "$service: done"
}

case ${1:-} in -h | --help | help)
	sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "$0"
	exit
	;;
esac
(($#)) || set -- auth email chat echo gate
known=" $(docker compose config --services | tr '\n' ' ')"
for service in "$@"; do
	[[ $known == *" $service "* ]] || fail "no service $service in compose.yaml"
done
for service in "$@"; do replace "$service"; done
((${#unfinished[@]} == 0)) || fail "all is rolled out, but not everything was finished by ${unfinished[*]}"
