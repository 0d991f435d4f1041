#!/usr/bin/env bash
# Runs the built image as an orchestrator would (in-image.sh): it must become healthy, answer, and end in
# time on SIGTERM under load, with no request lost. Needs root, buildah and curl.
# Usage: deploy/check-image.sh [TAG [TEST...]]; TESTs are for pytest, whose servers are the image's. One
# that is skipped is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=${STORAGE_DRIVER:-vfs}

export IMAGE=${1:-localhost/offramp}
port=${PORT:-18000}
url=http://127.0.0.1:$port
container=$(buildah from --pull-never "$IMAGE")
ROOT=$(buildah mount "$container")
export ROOT
logs=$(mktemp -d)
server=
end() {
    [ $? = 0 ] || tail --lines 20 "$logs/server"
    [ -z "$server" ] || kill -KILL "$server"
    buildah rm "$container" > /dev/null
    rm -r "$logs"
}
trap end EXIT

config() {
    buildah inspect --type image --format "{{$1}}" "$IMAGE"
}

become() {
    OFFRAMP_PORT=$port exec deploy/in-image.sh "$@"
}

classify() {
    curl --silent --data-binary @examples/otter.png --header 'Content-Type: image/png' "$@" \
        "$url/v1/classify?model=cifar100-msdnet"
}

# Asks until it is refused, as a server does that is about to end; fails where a request is lost.
ask() {
    local code=200
    while [ "$code" = 200 ]; do
        code=$(classify --output /dev/null --write-out '%{http_code}')
    done
    [ "$code" = 503 ] || { echo "answered $code"; return 1; }
}

mapfile -t command < <(config 'range .Docker.Config.Cmd}}{{println .}}{{end' | grep .)
mapfile -t health < <(config 'range slice .Docker.Config.Healthcheck.Test 1}}{{println .}}{{end' | grep .)

echo "size: $(du -sm "$ROOT" | cut -f1) MB, of which the server's environment is" \
    "$(du -sm "$ROOT/opt/venv" | cut -f1) MB"
for unwanted in 'torch' 'pip' 'gcc*' 'c++*' 'x86_64-linux-gnu-gcc*'; do
    found=$(find "$ROOT/opt/venv" "$ROOT/usr/bin" "$ROOT/usr/local/bin" -name "$unwanted" -print -quit)
    [ -z "$found" ] || { echo "the image has $found"; exit 1; }
done
found=$(find "$ROOT/root/.cache" "$ROOT/var/cache/apt" "$ROOT/var/lib/apt/lists" "$ROOT/tmp" -type f \
    -print -quit 2> /dev/null || true)
[ -z "$found" ] || { echo "the image has a cache: $found"; exit 1; }
if (become touch /written) 2> /dev/null; then
    echo "the root file system can be written"
    exit 1
fi

OFFRAMP_DRAIN_DELAY_S=2 become "${command[@]}" > "$logs/server" 2>&1 &
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
classify --fail --show-error | grep '"label":"otter"'

if [ $# -gt 1 ]; then
    RUNNING_SERVER=$url SERVER_COMMAND="deploy/in-image.sh offramp" pytest -rs -m "not not_in_image" "${@:2}" \
        | tee "$logs/tests"
    if grep --quiet '[0-9] skipped' "$logs/tests"; then
        echo "a skipped test has checked nothing"
        exit 1
    fi
fi

clients=()
for _ in 1 2 3 4; do
    ask &
    clients+=($!)
done
sleep 1
kill -TERM "$server"
start=$SECONDS
wait "$server"
server=
echo "ended with 0 after $((SECONDS - start)) s"
for client in "${clients[@]}"; do wait "$client"; done
echo "no request was lost"
