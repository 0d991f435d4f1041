#!/usr/bin/env bash
# Runs the built image as an orchestrator would, without Docker: read-only root, the image's own user,
# no capabilities. It must become healthy, answer, and end in time on SIGTERM. Needs root and buildah.
# Usage: deploy/check-image.sh [TAG [COMMAND...]]; a COMMAND runs beside it, its URL in RUNNING_SERVER.
set -euo pipefail
cd "$(dirname "$0")/.."
export BUILDAH_ISOLATION=chroot

tag=${1:-localhost/offramp}
port=${PORT:-18000}
export RUNNING_SERVER=http://127.0.0.1:$port
container=$(buildah from --pull-never "$tag")
root=$(buildah mount "$container")
server=
trap '[ -z "$server" ] || kill -KILL "$server"; buildah rm "$container" > /dev/null' EXIT

config() {
    buildah inspect --type image --format "{{$1}}" "$tag"
}

# Becomes a process of the image's user in a mount namespace and a root directory of its own.
become() {
    exec unshare --mount bash -c '
        root=$1 user=$2; shift 2
        mount --rbind "$root" "$root" && mount -o remount,bind,ro "$root"
        mount -t proc proc "$root/proc" && mount -t tmpfs tmpfs "$root/tmp"
        exec chroot "$root" setpriv --reuid "${user%:*}" --regid "${user#*:}" --clear-groups \
            --bounding-set=-all --inh-caps=-all --no-new-privs env -i "$@"
    ' - "$root" "$(config .Docker.Config.User)" "${environment[@]}" OFFRAMP_PORT="$port" "$@"
}

mapfile -t environment < <(config 'range .Docker.Config.Env}}{{println .}}{{end' | grep .)
mapfile -t command < <(config 'range .Docker.Config.Cmd}}{{println .}}{{end' | grep .)
mapfile -t health < <(config 'range slice .Docker.Config.Healthcheck.Test 1}}{{println .}}{{end' | grep .)

echo "size: $(du -sm "$root" | cut -f1) MB, of which the server's environment is" \
    "$(du -sm "$root/opt/venv" | cut -f1) MB"
for unwanted in 'torch' 'pip' 'gcc*' 'c++*' 'x86_64-linux-gnu-gcc*'; do
    found=$(find "$root/opt/venv" "$root/usr/bin" "$root/usr/local/bin" -name "$unwanted" -print -quit)
    [ -z "$found" ] || { echo "the image has $found"; exit 1; }
done
if (become touch /written) 2> /dev/null; then
    echo "the root file system can be written"
    exit 1
fi

become "${command[@]}" &
server=$!
for _ in $(seq 240); do
    if (become "${health[@]}") 2> /dev/null; then break; fi
    kill -0 "$server" # set -e ends the script with the server
    sleep 0.5
done
(become "${health[@]}")
echo "healthy"

grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs)' "/proc/$server/status"
grep -q $'^CapEff:\t0*$' "/proc/$server/status"
curl --fail --silent --show-error --data-binary @examples/otter.png \
    --header 'Content-Type: image/png' "$RUNNING_SERVER/v1/classify" | grep '"label":"otter"'
if [ $# -gt 1 ]; then "${@:2}"; fi

kill -TERM "$server"
start=$SECONDS
wait "$server"
server=
echo "ended with 0 after $((SECONDS - start)) s"
