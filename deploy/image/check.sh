#!/usr/bin/env bash
# Starts the binary as the image would: check.sh LAYOUT unpacks the image for this
# machine, and runs it as a user without rights, in a root file system that is
# read-only, with /data as the only place to write to. Needs root, and no
# container engine.
set -euo pipefail
layout=$(realpath "$1")
work=$(mktemp -d)
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT

blob() { echo "$layout/blobs/${1/://}"; }
field() { # field FILE PYTHON-EXPRESSION of the document d
	python3 -c 'import json,sys; d=json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$1" "$2"
}
case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) echo "no image for $(uname -m)" >&2; exit 1 ;; esac
index=$(blob "$(field "$layout/index.json" 'd["manifests"][0]["digest"]')")
manifest=$(blob "$(field "$index" "[m['digest'] for m in d['manifests'] if m['platform']['architecture']=='$arch'][0]")")
config=$(blob "$(field "$manifest" 'd["config"]["digest"]')")
layer=$(blob "$(field "$manifest" 'd["layers"][0]["digest"]')")

mkdir "$work/root" "$work/data"
tar -xzf "$layer" -C "$work/root" --same-permissions
user=$(field "$config" 'd["config"]["User"]')
mapfile -t command < <(field "$config" '"\n".join(d["config"]["Entrypoint"]+d["config"]["Cmd"])')
mapfile -t environment < <(field "$config" '"\n".join(d["config"]["Env"])')
[ "$user" = 65532:65532 ] || { echo "the image runs as $user" >&2; exit 1; }
chown "$user" "$work/data" && chmod 700 "$work/data"

cat >"$work/start" <<'INNER'
set -eu
root=$1 data=$2 user=$3
shift 3
mount --bind "$root" "$root"
mount --bind "$data" "$root/data"
mount -o remount,bind,ro "$root"
if touch "$root/tmp/x" 2>/dev/null; then echo "the root file system can be written to" >&2; exit 1; fi
exec chroot --userspec="$user" "$root" "$@"
INNER
inside() { unshare --mount sh "$work/start" "$work/root" "$work/data" "$user" "$@"; }

env -i "${environment[@]}" ASAP_LISTEN=127.0.0.1:0 PATH="$PATH" \
	unshare --mount sh "$work/start" "$work/root" "$work/data" "$user" "${command[@]}" >"$work/out" 2>"$work/err" &
node=$!
for _ in $(seq 300); do
	[ -s "$work/out" ] && break
	kill -0 $node 2>/dev/null || break
	sleep 0.1
done
url=$(sed -n 's/.* serves at \(http[^ ]*\).*/\1/p' "$work/out")
[ -n "$url" ] || { echo "the node did not start:" >&2; cat "$work/out" "$work/err" >&2; exit 1; }
owner=$(stat -c %u:%g "/proc/$(pgrep -P $node -x asap || echo $node)" 2>/dev/null || stat -c %u:%g "$work/data/asap.db")
[ "$owner" = "$user" ] || { echo "the node runs as $owner" >&2; exit 1; }
inside /usr/bin/asap send --to "$url" --skill echo --input '{"in":"the image"}' >"$work/answer"
kill -TERM $node
wait $node || { echo "the node ended with an error:" >&2; cat "$work/err" >&2; exit 1; }
inside /usr/bin/asap audit verify --data /data --vkey /data/node.vkey
echo "image: started as $user on a read-only root file system, did a task, stopped; the log verifies"
