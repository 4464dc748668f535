#!/usr/bin/env bash
# Builds the three images with podman on a Debian machine that reaches pip's and Debian's packages and no registry of
# images: the base is made of Debian's packages. Needs root, and what apt-get installs here; with the argument "install"
# that is all it does. With "probe" it tries whether a container can run that has a network of its own.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PODMAN_IGNORE_CGROUPSV1_WARNING=1 # not on every kernel are there the newer control groups
engine=(podman --runtime runc)           # nor can crun do with these
base=localhost/slim-scheduler/base

needed=(podman buildah runc catatonit netavark nftables aardvark-dns mmdebstrap)
if ! dpkg-query --show "${needed[@]}" > /dev/null 2>&1; then
  apt-get --quiet update
  DEBIAN_FRONTEND=noninteractive apt-get --quiet --yes --no-install-recommends install "${needed[@]}"
fi
[ "${1:-}" != install ] || exit 0

# It has one file, which needs no other.
if [ "${1:-}" = probe ]; then
  root=$(mktemp --directory)
  trap 'rm -rf "$root"' EXIT
  cp "$(command -v catatonit)" "$root"
  "${engine[@]}" run --rm --rootfs "$root" /catatonit --version
  exit
fi

# Python 3.11, as in the base that the Dockerfile names. Podman asks health with curl, and Triton's stubs load libpython.
if ! "${engine[@]}" image exists "$base"; then
  # Its hooks are written to descriptors above all that are open, and dash knows those of one digit only.
  exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-
  folder=$(mktemp --directory)
  trap 'rm -rf "$folder"' EXIT
  excluded=()
  for path in doc man locale; do excluded+=("--dpkgopt=path-exclude=/usr/share/$path/*"); done
  mmdebstrap --variant=minbase --include=python3,python3-venv,libpython3.11,ca-certificates,curl "${excluded[@]}" \
    bookworm "$folder/base.tar"
  "${engine[@]}" import "$folder/base.tar" "$base"
fi

# What pip uses here is mounted while building, and never copied.
mounts=()
for path in /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
  [ ! -e "$path" ] || mounts+=(--volume "$path:$path:ro")
done
for target in gateway controller embedded; do
  "${engine[@]}" build --network host --ulimit nofile=20000:20000 --ulimit nproc=20000:20000 "${mounts[@]}" \
    --build-arg "BASE=$base" --build-arg "REVISION=$(git rev-parse HEAD)" \
    --file deploy/images/Dockerfile --target "$target" --tag "localhost/slim-scheduler/$target" .
done
