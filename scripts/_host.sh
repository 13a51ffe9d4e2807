# Where Karoo is on a plain host. POSIX sh, sourced by scripts/install and scripts/uninstall.
# shellcheck shell=sh disable=SC2034,SC2154

user=karoo
# In the program's folder: it was made by scripts/install, from a program with that fingerprint; and with which service.
mark=.installed
service_mark=.service
# What of the project is installed.
parts='karoo scripts deploy docs conf examples setup.py pyproject.toml requirements.txt README.md CHANGELOG.md LICENSE'

say() { printf 'karoo: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
wrong() { say "$*"; usage >&2; exit 2; }

# Do something, or say that it would be done.
run() {
    if [ "$dry" = yes ]; then
        say "would run: $*"
    else
        "$@" || die "failed: $*"
    fi
}

# All places, from $prefix on.
places() {
    case $prefix in
        '') [ "$dry" = yes ] || [ "$(id -u)" -eq 0 ] ||
            die "this needs root: sudo $0. To try it without, --prefix DIR puts all of it under DIR" ;;
        *[!A-Za-z0-9/._+-]*) die "--prefix: letters, digits and /._+- only, as the path goes into several files" ;;
        /) die "--prefix / is what happens without --prefix" ;;
        /*) prefix=${prefix%/} ;;
        *) prefix=$(pwd)/${prefix%/}
           case $prefix in *[!A-Za-z0-9/._+-]*) die "--prefix: $prefix holds more than letters, digits and /._+-" ;; esac ;;
    esac
    root_dir=$prefix
    home=$prefix/opt/karoo
    # While it is put there: the new one, and the one of before.
    fresh=$prefix/opt/.karoo.new
    former=$prefix/opt/.karoo.old
    config=$prefix/etc/karoo
    state=$prefix/var/lib/karoo
    logs=$prefix/var/log/karoo
    root_logs=$prefix/var/log/supervisor
    command=$prefix/usr/local/bin/karoo
    units=$prefix/etc/systemd/system
    rotation=$prefix/etc/logrotate.d/karoo
    # Where supervisord looks for programs: Debian's folder, or the others'.
    snippet=$prefix/etc/supervisor/conf.d/karoo.conf
    if [ -d "$prefix/etc/supervisord.d" ]; then snippet=$prefix/etc/supervisord.d/karoo.ini; fi
}

# One call at a time. The lock is on the open folder: nothing is left of it, and what outlives a killed call holds it on.
lock() {
    if [ "$dry" = yes ] || [ ! -d "${home%/*}" ]; then return; fi
    command -v flock >/dev/null || die "the command flock is missing: install util-linux"
    exec 9<"${home%/*}"
    flock -n 9 || die "another scripts/install or scripts/uninstall is at work"
}

# A file with the places of this installation in it. Under a prefix whoever installs it runs it.
localised() {
    if [ -z "$prefix" ]; then
        cat "$1"
        return
    fi
    sed -e "s#/opt/karoo#$home#g; s#/etc/karoo#$config#g; s#/var/lib/karoo#$state#g; s#/var/log/karoo#$logs#g" \
        -e "s#/var/log/supervisor#$root_logs#g; s#/run/karoo#$prefix/run/karoo#g" \
        -e "s#^user=karoo\$#user=$(id -un)#; s#^User=karoo\$#User=$(id -un)#; s#^Group=karoo\$#Group=$(id -gn)#" \
        -e "s#^    su karoo karoo\$#    su $(id -un) $(id -gn)#" \
        -e "s#^    create 0640 karoo karoo\$#    create 0640 $(id -un) $(id -gn)#" "$1"
}

# unchanged FILE PLACE: whether a file of deploy/ is still as the last installation wrote it.
unchanged() { [ -f "$home/deploy/$1" ] && localised "$home/deploy/$1" | cmp -s - "$2"; }
