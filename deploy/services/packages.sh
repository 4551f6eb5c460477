# shellcheck shell=bash disable=SC2154 # script and patience are set in services.sh
# Part of services.sh: Debian's packages, installed without leaving any service
# of theirs running.

installed() { [[ $(dpkg-query -W -f '${Status}' "$1" 2>/dev/null) == 'install ok installed' ]]; }

# wanted_packages prints those that the environment does not make unnecessary.
wanted_packages() {
	echo fortunes
	echo fortunes-zh
	[[ -n ${MINIGATE_TEST_RABBITMQ:-} ]] || echo rabbitmq-server
	[[ -n ${MINIGATE_TEST_MYSQL:-} ]] || echo mariadb-server
	[[ -n ${MINIGATE_TEST_REDIS:-} ]] || echo redis-server
	[[ -n ${MINIGATE_TEST_SMTP:-} ]] || echo python3-aiosmtpd
	[[ -n ${MINIGATE_TEST_ETCD:-} ]] || echo etcd-server
	[[ -n ${MINIGATE_TEST_PROMETHEUS:-} ]] || echo prometheus
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
			prometheus) systemctl -q disable prometheus ;;
			etcd-server) systemctl -q disable etcd ;;
			esac
		done
	fi
}
