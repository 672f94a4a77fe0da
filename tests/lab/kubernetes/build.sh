#!/usr/bin/env bash
# Builds Kubernetes' control plane from Debian's own source package, and installs etcd; silent and quick when all is there.
# Debian packages kubectl alone, but its source is the whole of that release. Two cores take a quarter of an hour.
set -euo pipefail

PROGRAMS=(kube-apiserver kube-controller-manager kube-scheduler)
PACKAGES=(etcd-server golang-go rsync jq make gcc)
SUITE=bookworm
REFLECT=golang-github-modern-go-reflect2-dev
BUILD=2

. "$(dirname "$0")/../packages.sh"
install_packages "${PACKAGES[@]}"
mkdir -p "$cache"
exec 9>"$cache/kubernetes.lock"
flock 9
target=$cache/kubernetes
[ -e "$target/build-$BUILD" ] && exit 0
say "building ${PROGRAMS[*]}"
work=$(mktemp -d "$cache/.kubernetes.XXXX")
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT

# The machine's own package sources, asked for source packages in lists of their own.
mkdir -p "$work/apt/lists/partial" "$work/home"
for file in /etc/apt/sources.list.d/*.sources; do
  [ -e "$file" ] && sed 's/^Types:.*/Types: deb-src/' "$file" >"$work/apt/${file##*/}"
done
touch "$work/apt/list"
sed -n 's/^deb /deb-src /p' /etc/apt/sources.list >"$work/apt/list" 2>/dev/null || true
options=(-o "Dir::Etc::sourcelist=$work/apt/list" -o "Dir::Etc::sourceparts=$work/apt" -o "Dir::State::lists=$work/apt/lists"
  -o "APT::Sandbox::User=root")
apt-get "${options[@]}" update -qq
(cd "$work" && apt-get "${options[@]}" source -qq --download-only "kubernetes/$SUITE")
mkdir "$work/source"
tar -C "$work/source" --strip-components=1 -xf "$work"/kubernetes_*.orig.tar.gz

cd "$work/source"
# Its own reflect2, of 2018, reads types by a layout that Go has changed since: the API server would end at the first
# custom resource. Debian packages one that fits.
(cd "$work" && apt-get -o APT::Sandbox::User=root download -qq "$REFLECT" && dpkg -x "$REFLECT"_*.deb reflect2)
rm -r vendor/github.com/modern-go/reflect2
cp -r "$work/reflect2/usr/share/gocode/src/github.com/modern-go/reflect2" vendor/github.com/modern-go/
mkdir -p .go/src/k8s.io
ln -s ../../.. .go/src/k8s.io/kubernetes
env HOME="$work/home" GOPATH="$PWD/.go" GO111MODULE=off CGO_ENABLED=0 \
  make WHAT="${PROGRAMS[*]/#/cmd/}" >"$cache/kubernetes.log" 2>&1 || { tail -20 "$cache/kubernetes.log" >&2; exit 1; }
mkdir "$work/new"
for program in "${PROGRAMS[@]}"; do
  strip -o "$work/new/$program" "_output/local/bin/linux/$(go env GOARCH)/$program"
done
touch "$work/new/build-$BUILD"
rm -rf "$target"
mv "$work/new" "$target"
