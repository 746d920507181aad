#!/bin/sh
# Make an ARM board without the hardware: Debian's packages unpacked into a folder, run by qemu and proot.
#   sh sandbox.sh FOLDER [arm64|armhf]
# FOLDER/root is its system, FOLDER/home the user's home, and FOLDER/ssh reaches it as ssh would reach a board. It appears
# whole or not at all; nothing of this system's own packages or lists is touched.
set -eu
folder=$(realpath -m "${1:?expected a folder: sh sandbox.sh FOLDER [arm64|armhf]}") # apt resolves other paths against its own
architecture=${2-arm64}
packages="coreutils dash libstdc++6 python3-venv"

case $architecture in
arm64) qemu=qemu-aarch64-static ;;
armhf) qemu=qemu-arm-static ;;
*) echo "architecture $architecture: expected arm64 or armhf" >&2 && exit 2 ;;
esac
for tool in "$qemu" proot apt-get dpkg-deb; do
    command -v "$tool" >/dev/null && continue
    echo "$tool is missing; expected Debian or one of its kind with it: apt install qemu-user-static proot" >&2
    exit 1
done
if [ -e "$folder" ]; then
    echo "$folder is there already; take another folder, or remove it" >&2
    exit 1
fi

mkdir -p "$(dirname "$folder")"
scratch=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM
state=$scratch/apt
root=$scratch/board/root
mkdir -p "$state/dpkg" "$state/lists/partial" "$state/cache/archives/partial" "$root" "$scratch/board/home"
: >"$state/dpkg/status"

get() {
    apt-get -qq -o "APT::Architecture=$architecture" -o "APT::Architectures::=$architecture" -o "Dir::State=$state" \
        -o "Dir::State::status=$state/dpkg/status" -o "Dir::Cache=$state/cache" -o APT::Install-Recommends=false \
        -o APT::Sandbox::User=root -o Debug::NoLocking=true "$@"
}

get update || echo "going on with the lists that came" >&2 # one of several sources may be amid its own update
# shellcheck disable=SC2086
get install --yes --download-only $packages
for package in "$state"/cache/archives/*.deb; do dpkg-deb --extract "$package" "$root"; done
mkdir -p "$root/tmp" "$root/root" "$root/proc" "$root/dev" "$root/home"
chmod 1777 "$root/tmp"
# maintainers' scripts did not run: what they would have made
ln -sf dash "$root/bin/sh"
echo "root:x:0:0:root:/root:/bin/sh" >"$root/etc/passwd"

cat >"$scratch/board/ssh" <<END
#!/bin/sh
# As "ssh [options without a value] HOST COMMAND", with this folder for a board; its network is that of this machine.
folder=\$(dirname "\$(realpath "\$0")")
home=\$folder/home
while [ "\${1#-}" != "\${1-}" ]; do shift; done
[ \$# -ge 2 ] || { echo "expected a name and a command: \$0 board 'uname -m'" >&2 && exit 2; }
shift
set -- /usr/bin/env -i HOME="\$home" PATH=/usr/bin:/bin /bin/sh -c "\$*"
# home is where it is here: faccessat2, which proot 5.1 does not translate, is then told the truth
exec proot -q $qemu -r "\$folder/root" -b /dev -b /proc -b "\$home" -w "\$home" "\$@"
END
chmod +x "$scratch/board/ssh"
mv -T "$scratch/board" "$folder"
echo "$folder is a board of the architecture $architecture; try: $1/ssh board 'uname -m'"
