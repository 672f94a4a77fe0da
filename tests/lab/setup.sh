#!/usr/bin/env bash
# Installs the real parts that the lab starts, on Debian 12 as root; silent and quick when all is there.
set -euo pipefail

LLAMA=(xllamacpp==2026.10.11549 gguf==0.19.0)
LITELLM=('litellm[proxy]==1.106.0')
PACKAGES=(docker.io iptables iproute2 openssh-server busybox-static mmdebstrap prometheus syncthing tmux caddy
  xrdp xorgxrdp freerdp2-x11 freerdp2-shadow-x11 xvfb openssl chromium)
SUITE=bookworm
ROOT=python3.11-minimal,libpython3.11-stdlib,libgomp1,libstdc++6,dash,coreutils,base-files,netbase

python=${PYTHON:-python3}
unset PYTHONDONTWRITEBYTECODE

. "$(dirname "$0")/packages.sh"

# piece NAME KEY BUILDER...: builds in a folder of its own, which gets its name when all of it is there.
piece() {
  local target=$cache/$1 new=$cache/.$1.new name=$1 key=$2
  shift 2
  [ "$(cat "$target/stamp" 2>/dev/null)" != "$key" ] || return 0
  say "building $name"
  rm -rf "$new"
  mkdir "$new"
  "$@" "$new"
  printf '%s\n' "$key" >"$new/stamp"
  rm -rf "$target"
  mv "$new" "$target"
}

# venv REQUIREMENT... FOLDER
venv() {
  local folder=${!#}
  "$python" -m venv "$folder"
  "$folder/bin/python" -m pip --disable-pip-version-check install -qq "${@:1:$#-1}"
}

# Unpacked, not installed: the few packages that llama.cpp's server needs, with that server in /opt.
image() {
  mmdebstrap --quiet --variant=extract --include="$ROOT" "$SUITE" "$1/root.tar"
  tar --append --file "$1/root.tar" --owner=0 --group=0 --exclude=__pycache__ --transform 's,^,opt/,' \
    -C "$cache"/llama/lib/python3*/site-packages xllamacpp
}

"$python" -c 'import ensurepip' 2>/dev/null || PACKAGES+=(python3-venv)
install_packages "${PACKAGES[@]}"
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
{ piece llama "${LLAMA[*]}" venv "${LLAMA[@]}"; piece image "$SUITE $ROOT ${LLAMA[*]}" image; } &
llama=$!
piece litellm "${LITELLM[*]}" venv "${LITELLM[@]}" &
litellm=$!
failed=0
wait $llama || failed=1
wait $litellm || failed=1
exit $failed
