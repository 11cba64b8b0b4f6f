#!/usr/bin/env bash
# `gluster.sh COMMAND...` runs a command where two clients of one GlusterFS volume are mounted, at /run/a and /run/b;
# `gluster.sh --check` tells whether that can be had.
#
# All of it is in namespaces of its own (mounts, network, processes), on memory: when the first process in there ends,
# for whatever reason, the kernel ends the others, and nothing is left, not on the disk either. Ends with 77 and a reason
# where that cannot be had. SHARED_LIMIT is how many seconds all of it may take; SHARED_OPTIONS are options of the volume,
# for example "performance.quick-read=off performance.open-behind=off".
set -euo pipefail

limit=${SHARED_LIMIT:-110}
volume=ferrolock
server=ferrolock-server # glusterd takes no name of the loopback interface
address=10.77.0.1

cannot() {
    printf 'SKIPPED: GlusterFS: %s\n' "$*"
    exit 77
}

outside() {
    local program
    [ "$(id -u)" = 0 ] || cannot "mounting needs root"
    for program in glusterd gluster glusterfs ip unshare timeout; do
        command -v "$program" >/dev/null || cannot "$program is not installed"
    done
    [ -c /dev/fuse ] || cannot "there is no /dev/fuse"
    local spaces=(unshare --mount --net --uts --pid --fork --kill-child --mount-proc)
    local said
    said=$(timeout 10 "${spaces[@]}" sh -c 'mount -t tmpfs tmpfs /run && ip link set lo up' 2>&1) ||
        cannot "no namespaces: ${said:-unshare failed}"
    [ "${1:-}" != --check ] || exit 0
    exec timeout --kill-after=5 "$limit" "${spaces[@]}" "$0" --inside "$@"
}

# Until it is so, for ten seconds.
await() {
    local round
    for round in {1..100}; do
        if "$@" >/run/said 2>&1; then return; fi
        sleep 0.1
    done
    printf 'in vain: %s: %s\n' "$*" "$(tail -n 3 /run/said)"
    exit 1
}

logs() {
    find /var/log/glusterfs -name '*.log' -exec sh -c 'printf "== %s\n" "$1"; grep -E " [EC] " "$1" | tail -n 5' _ {} \;
}

serve() {
    local folder
    ip link set lo up
    ip addr add "$address/24" dev lo
    for folder in /run /var/lib/glusterd /var/log/glusterfs; do
        mkdir -p "$folder"
        mount -t tmpfs tmpfs "$folder"
    done
    printf '127.0.0.1 localhost\n%s %s\n' "$address" "$server" >/run/hosts
    mount --bind /run/hosts /etc/hosts
    mkdir -p /run/gluster /run/brick /run/a /run/b
    glusterd
    await gluster --mode=script volume create "$volume" "$server:/run/brick" force
    local option
    for option in ${SHARED_OPTIONS:-}; do
        await gluster --mode=script volume set "$volume" "${option%=*}" "${option#*=}"
    done
    await gluster --mode=script volume start "$volume"
    for folder in /run/a /run/b; do
        glusterfs --volfile-server="$server" --volfile-id="$volume" --pid-file="$folder.pid" "$folder"
    done
    await grep -q " /run/a fuse.glusterfs " /proc/mounts
    await grep -q " /run/b fuse.glusterfs " /proc/mounts
    mkdir /run/a/seen
    await rmdir /run/b/seen
}

if [ "${1:-}" != --inside ]; then
    outside "$@"
fi
shift
trap '[ $? = 0 ] || logs' EXIT
serve
"$@"
