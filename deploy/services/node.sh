# shellcheck shell=bash disable=SC2154 # script and patience are set in services.sh
# Part of services.sh: a server of the caller's own, which may be restarted and killed.

# node KIND DIR ACTION …; KIND is rabbitmq or etcd.
node() {
	local kind=$1 dir=$2 action=$3 data
	shift 3
	if [[ $action == start && ! -f $dir/$kind ]]; then
		need "$kind-server"
		mkdir -p "$dir"
		data=$(new_data)
		echo "$data" >"$dir/$kind"
		[[ -d ${MINIGATE_SERVICES_DATA:-} ]] && echo "$data" >>"$MINIGATE_SERVICES_DATA/nodes"
	fi
	[[ -f $dir/$kind ]] || {
		[[ $action == remove ]] && return
		fail "there is no node in $dir: start it"
	}
	data=$(<"$dir/$kind")
	case $action in
	start) ;;
	stop | restart)
		signal "$data" "$kind" TERM
		gone "$data" "$kind" 30 || signal "$data" "$kind" KILL
		gone "$data" "$kind" 10 || fail "the node in $dir does not end"
		;;
	kill)
		signal "$data" "$kind" KILL
		gone "$data" "$kind" 10 || fail "the node in $dir does not end"
		;;
	url) "${kind}_url" "$data" ;;
	ctl)
		[[ $kind == rabbitmq ]] || fail "ctl is of RabbitMQ"
		# Erlang looks into the folder where it is started, which its user may not see.
		(cd / && rabbit_env "$data" /usr/lib/rabbitmq/bin/rabbitmqctl -q "$@" </dev/null)
		;;
	remove)
		remove "$data"
		rm -f "$dir/$kind"
		;;
	*) fail "$action: want start, stop, kill, restart, url, ctl or remove" ;;
	esac
	if [[ $action == start || $action == restart ]]; then
		alive "$data" "$kind" || "start_$kind" "$data"
		answer "$data" "$kind"
		"${kind}_url" "$data"
	fi
}
