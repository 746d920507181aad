# Run on the device by `edgerev push`, as `sh -c`: take a bundle as a tar from standard input, then install it.
# No backslashes here, so that every login shell passes this on as it is.
set -eu
export LC_ALL=C
root=$1
id=$2

refuse() {
    echo "edgerev: error: $*" >&2
    exit 1
}

mkdir -p "$root"
exec 9>"$root/lock"
flock -w 10 9 || refuse "something else is being installed in $root; wait until it is done, then push again"
export EDGEREV_LOCKED=1
incoming=$root/incoming-$id
rm -rf "$root"/incoming-*
trap 'cd /; rm -rf "$incoming"' EXIT
trap 'exit 1' HUP INT TERM PIPE
mkdir "$incoming"
cd "$incoming"

# A cable that is pulled leaves the connection open, and with it the lock; so silence ends it too.
python3 -c '
import os, select, sys
while select.select([0], [], [], 60)[0]:
    block = os.read(0, 1 << 16)
    if not block:
        break
    sys.stdout.buffer.write(block)
' | tar -xf - || refuse "the bundle did not arrive whole; push it again"
[ "$(sha256sum <SHA256SUMS | cut -c 1-64)" = "$id" ] || refuse "the bundle did not arrive whole; push it again"
grep "  install.sh$" SHA256SUMS | sha256sum --check --strict --status ||
    refuse "the bundle arrived damaged; push it again"
sh install.sh --path "$root"
