#!/bin/sh
# Asks the node's service manager: `service restart docker` waits for it as systemctl would, `service logon` does not.
folder=$(dirname "$0")
echo "$$ $*" >"$folder/requests"
[ "$1" != logon ] || exit 0
answer=$folder/answers/$$
while [ ! -s "$answer" ]; do sleep 0.05; done
read -r status words <"$answer"
rm -f "$answer"
[ "$status" = 0 ] || echo "$words" >&2
exit "$status"
