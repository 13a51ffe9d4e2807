# The private environment: made once in .venv, checked at each call. POSIX sh, sourced by the scripts beside it.
#
# The caller sets $here, its own path with symbolic links resolved, then says
#     use_environment run    what Karoo needs to run
#     use_environment dev    that, and what its tests and checks need
# and goes on with $root (the project), $venv (the environment) and $abi (its Python, such as "cpython-312").
#
# A stamp in .venv holds what the environment was made from. While it matches, nothing is installed or
# written. It is written last, so an interrupted set-up has none and is made afresh.

root=${here%/scripts/*}
venv=$root/.venv
newest_first='python3.13 python3.12 python3.11 python3.10'

say() { printf 'karoo: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Print what an interpreter's compiled packages depend on; nothing if it is missing, broken or too old.
abi_of() {
    "$1" -I -S -c '
import sys
if sys.version_info >= (3, 10):
    print(sys.implementation.cache_tag + sys.abiflags)' 2>/dev/null || :
}

stamp_for() {
    case $1 in
        run) set -- "$root/requirements.txt" "$root/setup.py" "$root/karoo/_speed.c" ;;
        dev) set -- "$root/requirements-dev.txt" ;;
    esac
    printf '%s\n' "$abi" "$(cat "$@" | cksum)" "$root"
}

is_stamped() {
    [ -f "$venv/.karoo-$1" ] && [ "$(cat "$venv/.karoo-$1")" = "$(stamp_for "$1")" ]
}

is_ready() {
    abi=$(abi_of "$venv/bin/python")
    [ -n "$abi" ] || return 1
    if [ -n "${KAROO_PYTHON:-}" ]; then
        wanted=$(abi_of "$KAROO_PYTHON")
        [ "${wanted:-$abi}" = "$abi" ] || return 1
    fi
    is_stamped run || return 1
    [ "$1" = run ] || is_stamped "$1"
}

use_environment() {
    is_ready "$1" && return
    [ -w "$root" ] || die "cannot write to $root: the first call, which makes .venv there, needs to."
    # A subshell: what setting up changes in variables, directory and open files ends with it.
    (set_up "$1") 9>>"$root/.venv.lock" || exit
    is_ready "$1" || die "$venv is not usable although setting it up went well."
}

# Below: only when there is something to set up. "set -e" does not work here (the caller says "|| exit").

# The system's own interpreter, where it has all that is needed: distributions build theirs with profile-guided
# optimisation (15 % less time a share), mend it, and let every user of the machine read it.
system_python=/usr/bin/python3
is_complete() {
    [ -n "$(abi_of "$1")" ] && "$1" -I -c '
import ensurepip, os, sys, sysconfig, venv
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' 2>/dev/null
}

choose_python() {
    first=python3
    if is_complete "$system_python"; then first=$system_python; fi
    first=${KAROO_PYTHON:-$first}
    for candidate in "$first" $newest_first; do
        [ -n "$(abi_of "$candidate")" ] || continue
        # The real file: a wrapper costs time, and python3 may be the one in the .venv that is about to go.
        python=$("$candidate" -I -c 'import os, sys; print(os.path.realpath(sys.executable))') && return
    done
    version=$("$first" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || version=
    if [ -n "$version" ]; then
        found="$first is $version"
    else
        found="there is no working $first"
    fi
    die "Python 3.10 or newer is needed, but $found." \
        "Install python3, or name another interpreter in KAROO_PYTHON."
}

quietly() {
    "$@" >>"$venv/setup.log" 2>&1 </dev/null && return
    cat "$venv/setup.log" >&2
    die "setting up failed (output above). The next call starts over."
}

pip_install() { quietly "$venv/bin/python" -I -m pip install --disable-pip-version-check "$@"; }

stamp() {
    stamp_for "$1" >"$venv/.karoo-$1.new" && mv "$venv/.karoo-$1.new" "$venv/.karoo-$1" ||
        die "cannot write the stamp in $venv."
}

make_run() {
    "$python" -I -c 'import ensurepip, venv' 2>/dev/null ||
        die "$python cannot make virtual environments: its venv or ensurepip module is missing." \
            "On Debian and Ubuntu, install the package python3-venv."
    say "setting up the environment in .venv with $python (once)"
    if [ -e "$venv/pyvenv.cfg" ] && [ ! -e "$venv/.karoo" ]; then
        mv "$venv" "$venv.$$" || die "cannot move $venv away."
        say "a .venv was there that is not Karoo's: kept as .venv.$$"
    fi
    # pyvenv.cfg goes first and .karoo comes first, so that a half-made .venv is never taken for someone else's.
    rm -rf "$venv/pyvenv.cfg" "$venv" && mkdir "$venv" && : >"$venv/.karoo" || die "cannot make $venv anew."
    quietly "$python" -I -m venv "$venv"
    pip_install -r requirements.txt
    pip_install --no-deps --no-build-isolation -e .
    abi=$(abi_of "$venv/bin/python")
    stamp run
}

make_dev() {
    say "setting up the tools for tests and checks in .venv (once)"
    rm -f "$venv/setup.log"
    pip_install -r requirements-dev.txt
    stamp dev
}

set_up() {
    cd "$root" || exit
    unset PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX PIP_ROOT
    export PIP_USER=0 PIP_NO_INPUT=1
    # A home that is not there would be created, by pip or by a tool that it asks.
    [ -d "${HOME-/}" ] || export HOME="$venv"
    choose_python
    # The lock is on the open file 9. Whatever inherits it keeps the lock, so a pip that outlives a killed
    # script cannot meet the next call's; when the last holder is gone, so is the lock.
    "$python" -I -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)' || die "cannot lock $root/.venv.lock."
    is_ready run || make_run
    is_ready "$1" || make_dev
}
