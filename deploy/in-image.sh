#!/usr/bin/env bash
# Becomes a process of a built image as an orchestrator would start it, without Docker: read-only root,
# the image's own user, no capabilities. OFFRAMP_* and OTEL_* variables go along; the zoo that one names is
# mounted read-only. Needs root and buildah. Usage: IMAGE=TAG ROOT=MOUNTED deploy/in-image.sh COMMAND...
set -euo pipefail
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=${STORAGE_DRIVER:-vfs}

user=$(buildah inspect --type image --format '{{.Docker.Config.User}}' "$IMAGE")
zoo=${OFFRAMP_ZOO:-}
if [ -n "$zoo" ]; then
    chmod -R a+rX "$zoo"
    export OFFRAMP_ZOO=/zoo
fi
own='{{range .Docker.Config.Env}}{{println .}}{{end}}'
mapfile -t environment < <(
    buildah inspect --type image --format "$own" "$IMAGE" | grep .
    env | grep -E '^(OFFRAMP|OTEL)_'
)

exec unshare --mount bash -c '
    root=$1 user=$2 zoo=$3; shift 3
    mount --rbind "$root" "$root" && mount -o remount,bind,ro "$root"
    [ -z "$zoo" ] || { mount --bind "$zoo" "$root/zoo" && mount -o remount,bind,ro "$root/zoo"; }
    mount -t proc proc "$root/proc" && mount -t tmpfs tmpfs "$root/tmp"
    exec chroot "$root" setpriv --reuid "${user%:*}" --regid "${user#*:}" --clear-groups \
        --bounding-set=-all --inh-caps=-all --no-new-privs env -i "$@"
' - "$ROOT" "$user" "$zoo" "${environment[@]}" "$@"
