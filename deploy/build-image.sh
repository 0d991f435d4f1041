#!/usr/bin/env bash
# Builds the image without a Docker daemon and without pulling one: Debian's packages are the base.
# Needs root, buildah and debootstrap. Usage: deploy/build-image.sh [TAG [OPTION...]]; OPTIONs are those
# of buildah build, such as --build-arg REQUIREMENTS=requirements/traces.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=${STORAGE_DRIVER:-vfs}

tag=${1:-localhost/offramp}
base=localhost/offramp-base:bookworm
# The host's certificate authorities, for pip inside the build; the base has none.
authorities=/etc/ssl/certs/ca-certificates.crt

if ! buildah inspect --type image "$base" > /dev/null 2>&1; then
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    debootstrap --variant=minbase --include=python3,python3-venv bookworm "$root"
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$root" /
    buildah commit --quiet --format docker "$container" "$base"
    buildah rm "$container"
fi

# The OCI format has no health checks.
buildah build --format docker --pull-never --build-arg "BASE=$base" \
    --volume "$authorities:$authorities:ro" --tag "$tag" "${@:2}" .
