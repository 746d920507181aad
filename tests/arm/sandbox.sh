#!/bin/sh
# Make an ARM "device" for tests: Debian's packages unpacked into a folder, to be run by qemu-user and proot.
#   sh sandbox.sh FOLDER arm64|armhf
# FOLDER appears whole or not at all. Nothing of the system's own packages or lists is touched.
set -eu
folder=$1
architecture=$2
packages="coreutils dash libstdc++6 python3-venv"

mkdir -p "$(dirname "$folder")"
scratch=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM
state=$scratch/apt
mkdir -p "$state/dpkg" "$state/lists/partial" "$state/cache/archives/partial" "$scratch/root"
: >"$state/dpkg/status"

get() {
    apt-get -qq -o "APT::Architecture=$architecture" -o "APT::Architectures::=$architecture" -o "Dir::State=$state" \
        -o "Dir::State::status=$state/dpkg/status" -o "Dir::Cache=$state/cache" -o APT::Install-Recommends=false \
        -o APT::Sandbox::User=root -o Debug::NoLocking=true "$@"
}

get update
# shellcheck disable=SC2086
get install --yes --download-only $packages
for package in "$state"/cache/archives/*.deb; do dpkg-deb --extract "$package" "$scratch/root"; done
mkdir -p "$scratch/root/tmp" "$scratch/root/root" "$scratch/root/proc" "$scratch/root/dev" "$scratch/root/home"
chmod 1777 "$scratch/root/tmp"
# maintainers' scripts did not run: what they would have made
ln -sf dash "$scratch/root/bin/sh"
echo "root:x:0:0:root:/root:/bin/sh" >"$scratch/root/etc/passwd"
mv -T "$scratch/root" "$folder"
