#!/bin/sh
# Installs tokenring on a board from the folder that this script lies in; the board needs no internet.
#
#   install.sh [--dry-run] [--root DIR] [--no-start] [--wait SECONDS]
#   install.sh --uninstall [--purge]      --purge: the configuration and what the board remembers as well
#   install.sh --roll-back                back to the version that was there before
#
# /opt/tokenring/VERSION holds one version, /opt/tokenring/current names the one that runs. An upgrade puts the new one
# beside the old, tries it, and moves the name only when it is ready; otherwise the old one goes on. Whatever ends an
# upgrade in the middle (a full disk, a power cut, a signal), the name is the old version's, and running the script
# again completes it. Touches nothing that it did not make: what lies in a place of ours and is not ours is left and named.
set -eu

root='' dry_run='' start=yes wait_s=60 purge='' action=install
here=$(cd "$(dirname "$0")" && pwd)

say() { printf '%s\n' "install.sh: $*"; }
fail() {
    printf '%s\n' "install.sh: $*" >&2
    exit 1
}
usage() { sed -n '2,/^set -eu/{/^#/s/^# \{0,1\}//p}' "$0"; }

while [ $# -gt 0 ]; do
    case $1 in
    --dry-run) dry_run=yes ;;
    --root) root=${2:?--root needs a folder} && shift ;;
    --no-start) start='' ;;
    --wait) wait_s=${2:?--wait needs seconds} && shift ;;
    --uninstall) action=uninstall ;;
    --roll-back) action=roll_back ;;
    --purge) purge=yes ;;
    -h | --help) usage && exit 0 ;;
    *) fail "unknown option $1; see install.sh --help" ;;
    esac
    shift
done
case $root in '' | /*) ;; *) root=$(pwd)/$root ;; esac
case $wait_s in '' | *[!0-9]*) fail "--wait takes whole seconds" ;; esac

opt=$root/opt/tokenring
units=$root/usr/local/lib/systemd/system
trials=$root/run/systemd/system
etc=$root/etc/tokenring
state=$root/var/lib/tokenring
links=$opt/links # what lies outside of /opt/tokenring and is ours, one path a line

# Every change of the file system goes through `change`, so that --dry-run shows it instead.
change() {
    if [ -n "$dry_run" ]; then
        say "would run: $*"
    else
        "$@"
    fi
}
# systemd of this machine, where it runs and --root did not point elsewhere. TOKENRING_...: for tests.
supervised() { [ -n "${TOKENRING_SYSTEMCTL:-}" ] || { [ -z "$root" ] && [ -d /run/systemd/system ]; }; }
systemctl() { change "${TOKENRING_SYSTEMCTL:-/usr/bin/systemctl}" "$@"; }
asked() { "${TOKENRING_SYSTEMCTL:-/usr/bin/systemctl}" "$@" 2>/dev/null || true; }
current() { basename "$(readlink "$opt/current" 2>/dev/null || true)"; }

# Whole or not at all: what a reader finds under the name is the old or the new one. $1 target of the link, $2 its name
link() {
    change rm -f "$2.new"
    change ln -s "$1" "$2.new"
    change mv -T "$2.new" "$2"
}
folder() { # make a folder outside of /opt/tokenring, and remember each level that was not there
    [ ! -d "$1" ] || return 0
    folder "$(dirname "$1")"
    note "$1/"
    change mkdir "$1"
}
put() { # $1 source, $2 destination, $3 mode
    cmp -s "$1" "$2" && return 0
    change install -m "$3" "$1" "$2.new"
    change mv -T "$2.new" "$2"
}
noted() { grep -qxF "${1#"$root"}" "$links" 2>/dev/null; }
note() { noted "$1" || [ -n "$dry_run" ] || printf '%s\n' "${1#"$root"}" >>"$links"; }
claim() { # whether a path outside of /opt/tokenring is missing, or one that an earlier run made; then it may be written
    if ! noted "$1" && { [ -e "$1" ] || [ -L "$1" ]; }; then
        say "left alone: ${1#"$root"} is not ours"
        return 1
    fi
    folder "$(dirname "$1")"
    note "$1"
}

# ---------------------------------------------------------------------------------------------------------------------

check_machine() {
    [ -n "$root" ] || [ "$(id -u)" -eq 0 ] || fail "run it as root: sudo $0"
    [ -r "$here/VERSION" ] || fail "there is no release beside this script; unpack the whole archive"
    read -r version arch python <"$here/VERSION"
    [ "$(uname -m)" = "$arch" ] || [ -n "${TOKENRING_ANY_MACHINE:-}" ] ||
        fail "this release is for $arch, the board is $(uname -m): take the other archive"
    interpreter=$(command -v "python$python" || true)
    [ -n "$interpreter" ] && "$interpreter" -c 'import venv' 2>/dev/null ||
        fail "this release needs python$python: install the package python$python, or take the archive for your Python"
    (cd "$here" && sha256sum --quiet --strict --check SHA256SUMS) ||
        fail "the release is damaged (see above): unpack or download it again"
    digest=$(sha256sum <"$here/SHA256SUMS" | cut -c1-64)
}

check_room() {
    # Wheels unpack to about four times their size; twice that stays free for the board.
    need_kb=$(($(du -sk "$here" | cut -f1) * 5))
    place=$opt
    while [ ! -d "$place" ]; do place=$(dirname "$place"); done
    free_kb=$(df -Pk "$place" | awk 'NR == 2 { print $4 }')
    [ "$free_kb" -ge "$need_kb" ] ||
        fail "$((need_kb / 1024)) MB are needed below /opt, $((free_kb / 1024)) MB are free; nothing was changed"
}

# A version in a folder of its own, built beside its place and renamed into it when it is whole and on the disk.
unpack() {
    if [ -d "$opt/$version" ]; then
        [ "$(cat "$opt/$version/release" 2>/dev/null)" = "$digest" ] ||
            fail "$version is installed with other contents; a release of its own needs a version of its own"
        say "$version is there already"
        return 0
    fi
    check_room
    say "unpacking $version (this takes a minute or two on a small board)"
    fresh=$opt/.new-$version
    change mkdir -p "$opt"
    change rm -rf "$fresh"
    if [ -n "$dry_run" ]; then
        say "would make a virtual environment in $opt/$version from $(find "$here/wheels" -name '*.whl' | wc -l) wheels"
        return 0
    fi
    trap 'rm -rf "$fresh"' EXIT
    # The release brings pip along and leaves it out of what it installs: Debian's python3 alone has none.
    env -i PATH="$PATH" "$interpreter" -m venv --without-pip "$fresh"
    env -i PATH="$PATH" HOME="$fresh/.home" "$fresh/bin/python" "$(echo "$here"/pip-*.whl)/pip" --isolated install \
        --quiet --no-cache-dir --disable-pip-version-check --no-index --find-links "$here/wheels" --require-hashes \
        --only-binary :all: --no-compile -r "$here/requirements.txt"
    rm -rf "$fresh/.home"
    # What was built in one place runs in another.
    for script in "$fresh"/bin/*; do
        [ -L "$script" ] || sed -i "s|$fresh|/opt/tokenring/$version|g" "$script"
    done
    sed -i "s|$fresh|/opt/tokenring/$version|g" "$fresh/pyvenv.cfg"
    "$fresh/bin/python" -I -m compileall -q -s "$fresh" -p "/opt/tokenring/$version" "$fresh/lib" >/dev/null || true
    mkdir -p "$fresh/libexec" "$fresh/systemd" "$fresh/models"
    cp -R "$here/models/." "$fresh/models/"
    cp "$here"/systemd/* "$fresh/systemd/"
    cp "$here/install.sh" "$fresh/libexec/install.sh"
    install -m 755 "$here/systemd/peerd-backoff" "$fresh/libexec/peerd-backoff"
    "$fresh/bin/python" -I -c 'import peer.node, runtime.stage'
    printf '%s\n' "$digest" >"$fresh/release"
    chmod -R u=rwX,go=rX "$fresh"
    sync
    mv -T "$fresh" "$opt/$version"
    sync
    trap - EXIT
}

# Links and units that stand outside of /opt/tokenring; they name `current`, except the units, which are copies.
integrate() { # $1 version whose units to install
    for unit in peerd.service peerd@.service peerd-token.path; do
        if claim "$units/$unit"; then put "$opt/$1/systemd/$unit" "$units/$unit" 644; fi
    done
    lib=$root/usr/local/lib
    if claim "$lib/sysusers.d/tokenring.conf"; then put "$opt/$1/systemd/tokenring.sysusers" "$lib/sysusers.d/tokenring.conf" 644; fi
    if claim "$lib/tmpfiles.d/tokenring.conf"; then put "$opt/$1/systemd/tokenring.tmpfiles" "$lib/tmpfiles.d/tokenring.conf" 644; fi
    for program in peerctl peerd; do outer "bin/$program" "usr/local/bin/$program"; done
    [ -d "$opt/$1/share" ] || return 0
    (cd "$opt/$1/share" && find . -type f) | sed 's|^\./||' | while read -r file; do
        case $file in
        bash-completion/* | fish/* | zsh/* | man/*) outer "share/$file" "usr/local/share/$file" ;;
        esac
    done
}
outer() { # $1 path below `current`, $2 the link's place
    if claim "$root/$2" && [ "$(readlink "$root/$2" 2>/dev/null)" != "/opt/tokenring/current/$1" ]; then
        link "/opt/tokenring/current/$1" "$root/$2"
    fi
}

configure() {
    [ -e "$etc/peerd.toml" ] || {
        say "writing /etc/tokenring/peerd.toml: this board will listen on port 7700 of every address"
        change mkdir -p "$etc"
        if [ -z "$dry_run" ]; then
            sed 's|^listen = .*|listen = "0.0.0.0:7700"|' "$here/systemd/peerd.example.toml" >"$etc/peerd.toml.new"
            mv -T "$etc/peerd.toml.new" "$etc/peerd.toml"
        fi
    }
    supervised || return 0
    [ -n "$root" ] && return 0
    change systemd-sysusers tokenring.conf
    change systemd-tmpfiles --create tokenring.conf
}

# ---------------------------------------------------------------------------------------------------------------------

state_of() { asked show --property="$1" --value peerd.service; }
has_token() { [ -s "$etc/token" ] || [ -s "$state/token" ]; }

# The new version runs under its own unit from /run, which a power cut or reboot removes: then the old one is back.
try_out() { # $1 version to try; whether it got ready in time
    trap 'exit 1' INT TERM
    trap '' HUP # the connection over which this is typed may break
    change mkdir -p "$trials"
    if [ -z "$dry_run" ]; then
        sed "s|/opt/tokenring/current/|/opt/tokenring/$1/|g" "$opt/$1/systemd/peerd.service" >"$trials/peerd.service.new"
        mv -T "$trials/peerd.service.new" "$trials/peerd.service"
    fi
    systemctl daemon-reload
    was=$(state_of ActiveState)
    say "starting $1"
    change rm -f "$root/run/tokenring/starts"
    systemctl --no-block restart peerd.service
    [ -n "$dry_run" ] && return 0
    waited=0
    while [ $waited -lt "$wait_s" ]; do
        sleep "${TOKENRING_POLL_S:-1}"
        waited=$((waited + 1))
        now=$(state_of ActiveState)
        [ "$now" != active ] || { [ "$(state_of SubState)" = running ] && return 0; }
        [ "$now" != failed ] && [ "$(state_of NRestarts)" -lt 3 ] || return 1
    done
    # A board that was not ready before, for want of a model, cannot be asked for more than to be as it was.
    [ "$was" = activating ] && [ "$(state_of SubState)" = start ] && [ "$(state_of NRestarts)" = 0 ]
}
take_back() {
    change rm -f "$trials/peerd.service" "$root/run/tokenring/starts"
    systemctl daemon-reload
    systemctl --no-block restart peerd.service
}
# A guard for the case that this very script is killed while it tries a version out.
guard() {
    [ -z "$root" ] && [ -z "$dry_run" ] || return 0
    systemd-run --quiet --collect --unit=tokenring-upgrade-guard --on-active=$((wait_s + 60)) /bin/sh -c \
        "rm -f $trials/peerd.service && systemctl daemon-reload && systemctl restart peerd.service" ||
        say "no guard could be set: should this script be killed now, run it again"
}
unguard() { [ -n "$root" ] || [ -n "$dry_run" ] || asked stop tokenring-upgrade-guard.timer; }

settle() { # $1 version that is the board's from now on
    before=$(current)
    change mkdir -p "$opt"
    [ "$before" = "$1" ] || { [ -n "$before" ] && link "$before" "$opt/previous"; } || true
    [ "$before" = "$1" ] || link "$1" "$opt/current"
    [ -n "$dry_run" ] || sync
    integrate "$1"
}

tidy() { # versions that are neither current nor the one before, and what interrupted runs left
    for place in "$opt"/* "$opt"/.new-*; do
        if [ ! -d "$place" ] || [ -L "$place" ]; then continue; fi
        case ${place##*/} in
        "$(current)" | "$(basename "$(readlink "$opt/previous" 2>/dev/null || true)")") continue ;;
        esac
        if [ -e "$place/release" ] || [ "${place##*/.new-}" != "$place" ]; then change rm -rf "$place"; fi
    done
}

install_version() {
    check_machine
    unpack
    before=$(current)
    if [ -n "$dry_run" ] && [ ! -d "$opt/$version" ]; then
        say "would then make $version the current version, install units and links, and start the daemon"
        exit 0
    fi
    if [ -z "$before" ]; then
        settle "$version"
        configure
        if supervised; then
            systemctl daemon-reload
            systemctl --quiet enable peerd.service peerd-token.path
            [ -z "$start" ] || systemctl start peerd-token.path
            [ -z "$start" ] || ! has_token || systemctl --no-block start peerd.service
        fi
        tidy
        say "$version is installed"
        [ -z "$root" ] || return 0
        if has_token; then
            say "next: peerctl members"
        else
            say "next: peerctl join TOKEN with the token of your first board (peerctl token show there),"
            say "      or, if this is the first: peerctl token new | peerctl join -"
        fi
        return 0
    fi
    if [ "$before" = "$version" ]; then
        settle "$version"
        configure
        ! supervised || systemctl daemon-reload
        tidy
        say "$version is what this board runs already"
        return 0
    fi
    upgrade "$before" "$version"
}

upgrade() { # $1 from, $2 to
    if supervised && [ -n "$start" ] && [ "$(state_of ActiveState)" != inactive ] && has_token; then
        guard
        trap 'take_back; unguard; fail "$before goes on"' EXIT
        if ! try_out "$2"; then
            trap - EXIT
            say "$2 was not ready within $wait_s s; going back to $1. Its last words:" >&2
            [ -n "$root" ] || journalctl --no-pager --quiet --unit peerd.service --lines 10 --output cat >&2 || true
            take_back
            unguard
            fail "$1 goes on; $2 stays in /opt/tokenring/$2 for a look, and the next install removes it"
        fi
        settle "$2"
        trap - EXIT INT TERM
        change rm -f "$trials/peerd.service"
        systemctl daemon-reload
        unguard
    else
        settle "$2"
        ! supervised || systemctl daemon-reload
    fi
    configure
    tidy
    say "upgraded from $1 to $2; install.sh --roll-back goes back"
}

roll_back() {
    [ -n "$root" ] || [ "$(id -u)" -eq 0 ] || fail "run it as root"
    previous=$(basename "$(readlink "$opt/previous" 2>/dev/null || true)")
    now=$(current)
    [ -d "$opt/${previous:-none}" ] || fail "there is no version to go back to"
    settle "$previous"
    if supervised; then
        systemctl daemon-reload
        [ -z "$start" ] || systemctl --no-block restart peerd.service
    fi
    say "back from $now to $previous"
}

uninstall() {
    [ -n "$root" ] || [ "$(id -u)" -eq 0 ] || fail "run it as root"
    [ -d "$opt" ] || say "nothing is installed below /opt/tokenring"
    if supervised && [ -e "$units/peerd.service" ]; then
        systemctl --quiet disable --now peerd.service peerd-token.path
        systemctl stop 'peerd@*.service'
    fi
    change rm -f "$trials/peerd.service"
    if [ -r "$links" ]; then
        # Backwards: a folder that was made is noted before what was put into it.
        sed '1!G;h;$!d' "$links" | while read -r path; do
            case $path in
            */) [ ! -d "$root$path" ] || change rmdir --ignore-fail-on-non-empty "$root$path" ;;
            *) change rm -f "$root$path" ;;
            esac
        done
    fi
    for place in "$opt"/* "$opt"/.new-*; do
        if [ -L "$place" ] || [ -e "$place/release" ] || [ "${place##*/.new-}" != "$place" ]; then change rm -rf "$place"; fi
    done
    change rm -f "$links"
    [ ! -d "$opt" ] || change rmdir --ignore-fail-on-non-empty "$opt"
    ! supervised || systemctl daemon-reload
    if [ -n "$purge" ]; then
        change rm -rf "$etc" "$state" "$root/run/tokenring"
        [ -n "$root" ] || ! id tokenring >/dev/null 2>&1 || change userdel tokenring
        say "removed, with the configuration, the state and the user"
    else
        say "removed; /etc/tokenring and /var/lib/tokenring stay (--purge removes them)"
    fi
}

case $action in
install) install_version ;;
uninstall) uninstall ;;
roll_back) roll_back ;;
esac
