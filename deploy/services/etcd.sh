# shellcheck shell=bash
# Part of services.sh: etcd, the shared one or one of the caller's own.

start_etcd() {
	local data=$1 client peer
	if [[ ! -f $data/etcd.port ]]; then
		take_port "$data" etcd >/dev/null
		take_port "$data" etcd-peer >/dev/null
	fi
	client=http://127.0.0.1:$(port "$data" etcd)
	peer=http://127.0.0.1:$(port "$data" etcd-peer)
	spawn "$data" etcd env -i PATH=/usr/bin:/bin etcd --name node --data-dir "$data/etcd" --logger zap --log-level warn \
		--listen-client-urls "$client" --advertise-client-urls "$client" \
		--listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "node=$peer"
}

ask_etcd() {
	local answer
	exec 7<>"/dev/tcp/127.0.0.1/$(port "$1" etcd)" || return 1
	printf 'GET /health HTTP/1.0\r\n\r\n' >&7
	answer=$(timeout 2 cat <&7) || answer=
	exec 7>&-
	[[ $answer == *'"health":"true"'* ]]
}

etcd_url() { echo "127.0.0.1:$(port "$1" etcd)"; }
