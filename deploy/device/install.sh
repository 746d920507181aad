#!/bin/sh
# Install the bundle that this file lies in, for the user who runs it. Nothing that runs is touched before the new
# bundle has been checked, installed beside the old one, and tried.
#
#   sh install.sh [--path DIR]              install (or switch back to this bundle, if it is installed)
#   sh install.sh [--path DIR] --rollback   switch to the bundle before the current one
set -eu
export LC_ALL=C PIP_CONFIG_FILE=/dev/null
unset PYTHONPATH PYTHONHOME EDGEREV_JIT || true

root=${HOME:-}/.local/share/edgerev
rollback=
unit=edgerev.service

say() { echo "edgerev: $*"; }
refuse() {
    echo "edgerev: error: $*" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
        --path)
            [ $# -gt 1 ] || refuse "--path: expected a folder; give one"
            root=$2
            shift 2
            ;;
        --rollback)
            rollback=1
            shift
            ;;
        *) refuse "$1: unknown option; expected --path DIR or --rollback" ;;
    esac
done
case $root in
    /*) ;;
    *) refuse "--path $root: expected a path that begins with /; give the whole path" ;;
esac
case $root in
    *[!A-Za-z0-9/._+-]*) refuse "--path $root: expected letters, digits and /._+- only; choose another folder" ;;
esac

# Whoever receives a bundle holds the lock already, on a descriptor that is inherited. Others wait a little: a receiver
# whose connection was cut is about to end.
lock() {
    [ -z "${EDGEREV_LOCKED:-}" ] || return 0
    mkdir -p "$root"
    exec 9>"$root/lock"
    flock -w 10 9 || refuse "something else is being installed in $root; wait until it is done, then try again"
    export EDGEREV_LOCKED=1
}

# Check that the files of the bundle in this folder are all there, as they were made, and no others.
check_files() {
    sha256sum --check --strict --quiet SHA256SUMS >&2 ||
        refuse "the bundle is damaged: files are missing or changed; copy or push it again"
    known=$(sed 's/^[0-9a-f]*  //' SHA256SUMS)
    extra=$(find . -path ./venv -prune -o ! -type d -print | sed 's|^\./||' | grep -vxF -e SHA256SUMS -e "$known") || true
    [ -z "$extra" ] || refuse "the bundle is damaged: these files do not belong to it:" $extra
}

install_here() {
    say "making the virtual environment"
    options=$(python3 check.py venv-options)
    # shellcheck disable=SC2086
    python3 -m venv $options venv ||
        refuse "python3 -m venv failed; on Debian: apt install python3-venv"
    say "installing the wheels, without network"
    venv/bin/python -m pip install --isolated --quiet --disable-pip-version-check --no-cache-dir --no-index \
        --find-links wheels "$(python3 check.py requirement)" ||
        refuse "pip cannot install the bundle's wheels; what it says is above"
}

# Let a symbolic link point elsewhere in one step.
point() {
    ln -sfn "$1" "$root/.$2-new"
    mv -T "$root/.$2-new" "$root/$2"
}

target_of() { readlink "$root/$1" 2>/dev/null || true; }

# Make `bundles/ID` the current bundle and the current one the previous. What programs start from is `current` alone,
# and that changes in one step; if power fails before `previous` follows, `finish_switch` does the rest next time.
switch_to() {
    before=$(target_of current)
    if [ -n "$before" ]; then ln -sfn "$before" "$root/.previous-next"; fi
    sync -f "$root"
    point "$1" current
    finish_switch
    sync -f "$root"
}

finish_switch() {
    next=$(target_of .previous-next)
    if [ "$next" = "$(target_of current)" ]; then
        rm -f "$root/.previous-next"
    elif [ -n "$next" ]; then
        mv -T "$root/.previous-next" "$root/previous"
    fi
}

# Let the links be as they were before the last switch, and the service too.
switch_back() {
    if [ -n "$1" ]; then point "$1" current; else rm -f "$root/current"; fi
    if [ -n "$2" ]; then point "$2" previous; else rm -f "$root/previous"; fi
    sync -f "$root"
    restart_service || true
    remove_old
}

# Run systemctl for the system if this is root, else for the user.
control() {
    if [ "$(id -u)" -eq 0 ]; then systemctl "$@"; else systemctl --user "$@"; fi
}

restart_service() {
    if [ ! -d /run/systemd/system ]; then
        [ ! -f "$root/current/$unit" ] || say "no systemd here, so nothing starts $root/current/venv/bin/edgerev"
        return 0
    fi
    if [ "$(id -u)" -eq 0 ]; then
        folder=/etc/systemd/system wanted=multi-user.target
    else
        folder=${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user wanted=default.target
    fi
    if [ ! -f "$root/current/$unit" ]; then
        if grep -qsF "ExecStart=$root/current/" "$folder/$unit"; then # a bundle before brought one
            control disable --now $unit || true
            rm -f "$folder/$unit"
            control daemon-reload || true
            say "service $unit removed: this bundle has none"
        fi
        return 0
    fi
    mkdir -p "$folder"
    sed -e "s|@ROOT@|$root|" -e "s|@WANTED_BY@|$wanted|" "$root/current/$unit" >"$folder/.$unit-new"
    mv "$folder/.$unit-new" "$folder/$unit"
    control daemon-reload && control enable --quiet $unit && control restart $unit || return 1
    say "service $unit restarted"
    [ "$(id -u)" -eq 0 ] || say "for it to run without anyone logged in: loginctl enable-linger"
}

remove_old() {
    for place in "$root"/bundles/* "$root"/incoming-*; do
        case bundles/${place##*/} in
            "$(target_of current)" | "$(target_of previous)") ;;
            *) rm -rf "$place" ;;
        esac
    done
}

cd -P "$(dirname "$0")"
if [ -n "$rollback" ]; then
    lock
    finish_switch
    previous=$(target_of previous)
    [ -n "$previous" ] && [ "$previous" != "$(target_of current)" ] && [ -f "$root/previous/install.sh" ] ||
        refuse "there is no bundle before the current one in $root; expected two that were installed; push one"
    exec sh "$root/$previous/install.sh" --path "$root"
fi

command -v python3 >/dev/null || refuse "python3 is missing; on Debian: apt install python3 python3-venv"
lock
check_files
python3 check.py device
finish_switch
root=$(cd -P "$root" && pwd) # as `pwd` below says it
id=$(sha256sum <SHA256SUMS | cut -c 1-64)
place=$root/bundles/$id
if [ "$(target_of current)" = "bundles/$id" ]; then
    say "bundle $id is installed already"
    exit 0
fi

if [ "$(pwd)" != "$place" ]; then # else it is the previous one, and comes back
    [ "$(target_of previous)" != "bundles/$id" ] || exec sh "$place/install.sh" --path "$root"
    incoming=$root/incoming-$id
    if [ "$(pwd)" != "$incoming" ]; then
        rm -rf "$root"/incoming-*
        mkdir -p "$incoming"
        trap 'rm -rf "$incoming"' EXIT
        cp -R . "$incoming"
        cd "$incoming"
        check_files
    fi
    trap 'cd /; rm -rf "$incoming"' EXIT
    trap 'exit 1' HUP INT TERM PIPE
    rm -rf venv "$place"
    install_here
    say "trying it"
    venv/bin/python check.py run
    # programs in a virtual environment name its path
    grep -lIF "$incoming" venv/bin/* venv/pyvenv.cfg | while read -r file; do sed -i "s|$incoming|$place|g" "$file"; done
    mkdir -p "$root/bundles"
    sync -f "$incoming"
    mv -T "$incoming" "$place"
    cd "$place"
    trap - EXIT
else
    say "trying it"
    venv/bin/python check.py run
fi

"$place/venv/bin/edgerev" --version >/dev/null || refuse "edgerev does not start from $place; see what is above"
trap '' HUP INT TERM PIPE
before=$(target_of current) two_before=$(target_of previous)
switch_to "bundles/$id"
if ! restart_service; then
    switch_back "$before" "$two_before"
    refuse "the service does not start (journalctl -u $unit tells why); what was current before is so again"
fi
remove_old
say "bundle $id is current in $root"
