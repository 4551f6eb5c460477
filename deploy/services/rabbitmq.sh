# shellcheck shell=bash disable=SC2154 # script and patience are set in services.sh
# Part of services.sh: a RabbitMQ node, the shared one or one of the caller's own.

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

rabbitmq_url() { echo "amqp://guest:guest@127.0.0.1:$(port "$1" rabbitmq)/"; }
