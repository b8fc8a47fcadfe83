#!/bin/sh
# Installs Debian packages whose commands are missing: `needs.sh COMMAND:PACKAGE…`. Silent when nothing is missing.
set -eu
PATH=$PATH:/usr/sbin:/sbin

packages=
for need; do
    command -v "${need%%:*}" >/dev/null || packages="$packages ${need#*:}"
done
[ -n "$packages" ] || exit 0

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}
give_up() {
    echo "$1; as root, run: apt-get install$packages" >&2
    exit 1
}

command -v apt-get >/dev/null || give_up "missing:$packages, and there is no apt-get"
[ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null || give_up "missing:$packages, and there is no sudo"

echo "needs$packages for this: installs them by apt-get as root$([ "$(id -u)" -eq 0 ] || echo ' (sudo may ask for your password)')" >&2
case $packages in
*openssh-server*) echo "the ssh service is neither started nor enabled: an sshd is only run by hand, on a pipe or a private port" >&2 ;;
esac

# Packages of services start them when they are installed, and at every boot. Nobody asked for that here.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'as_root rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
    as_root chmod 755 $policy
fi

install() {
    # shellcheck disable=SC2086 # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $packages >/dev/null 2>&1 </dev/null
}
install || { as_root apt-get update -qq >/dev/null && install; } || give_up "could not install$packages"
case $packages in
*openssh-server*) as_root systemctl disable ssh.service ssh.socket >/dev/null 2>&1 || : ;;
esac
