#!/bin/sh
# Install the bundle that this file lies in, for the user who runs it; `device/install.py` does the work.
#
#   sh install.sh [--path DIR]              install, repair, or switch back to this bundle
#   sh install.sh [--path DIR] --rollback   switch to the bundle before the current one
set -eu
unset PYTHONPATH PYTHONHOME PYTHONSAFEPATH || true

refuse() {
    echo "edgerev: error: $*" >&2
    exit 1
}

command -v python3 >/dev/null || refuse "python3 is missing; on Debian: apt install python3 python3-venv"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    refuse "$(python3 --version) is here; expected Python 3.10 or newer; update the device's system"
cd -P "$(dirname "$0")"
exec python3 -B -m device.install "$@" # -B: a bundle holds the files of its list, and no others
