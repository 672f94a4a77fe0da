# Sourced by what installs the lab's parts: the folder they are built in, and Debian's packages without their services.

cache=${TIERDECK_LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tierdeck-lab}

say() { printf 'lab: %s\n' "$*" >&2; }

# install_packages NAME...: in a subshell, whose end removes the policy that keeps the packages from starting their services.
install_packages() (
  missing=()
  for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || exit 0
  [ "$(id -u)" = 0 ] || { say "run as root to install ${missing[*]}"; exit 1; }
  say "installing ${missing[*]}"
  policy=/usr/sbin/policy-rc.d
  if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
)
