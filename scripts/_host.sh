# Where Karoo is on a plain host. POSIX sh, sourced by scripts/install and scripts/uninstall.
# shellcheck shell=sh disable=SC2034,SC2154

user=karoo
mark=.installed  # in the program's folder: it was made by scripts/install, from a program with that fingerprint
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
    config=$prefix/etc/karoo
    state=$prefix/var/lib/karoo
    logs=$prefix/var/log/karoo
    root_logs=$prefix/var/log/supervisor
    command=$prefix/usr/local/bin/karoo
    units=$prefix/etc/systemd/system
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

# Which service manager: the one that was named, else the one that runs here.
choose_service() {
    case ${kind:-find} in
        systemd | supervisord | none) ;;
        find)
            if [ -d /run/systemd/system ]; then
                kind=systemd
            elif [ -d /etc/supervisor/conf.d ] || [ -d /etc/supervisord.d ]; then
                kind=supervisord
            else
                kind=none
                say "neither systemd nor supervisord is here: start it as you start other daemons"
            fi
            ;;
        *) wrong "--service: $kind is neither systemd nor supervisord nor none" ;;
    esac
}

# Where supervisord looks for programs: Debian's folder, or the others'.
snippet_place() {
    if [ -d "$prefix/etc/supervisord.d" ]; then
        echo "$prefix/etc/supervisord.d/karoo.ini"
    else
        echo "$prefix/etc/supervisor/conf.d/karoo.conf"
    fi
}
