#!/usr/bin/env bash
# Draws docs/top.svg: what "shmconn top" shows, in a terminal of 80x24, of real
# connections that this script makes. Needs tmux.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
export SHMCONN_DIR=/dev/shm/shmconn-picture-$$
mkdir "$SHMCONN_DIR"
go build -o "$work/shmconn" ./shmconn
PATH=$work:$PATH
tmux="tmux -S $work/tmux -f /dev/null"
pids=()
finish() {
	$tmux kill-server 2>/dev/null || true
	kill -CONT "${pids[@]}" 2>/dev/null || true
	kill "${pids[@]}" 2>/dev/null || true
	wait 2>/dev/null || true
	shmconn rm --dead >/dev/null || true
	rm -rf "$work" "$SHMCONN_DIR"
}
trap finish EXIT
run() { "$@" <&0 & pids+=($!); }
until_seen() { until shmconn ls "$SHMCONN_DIR/" | grep -Eq "$1"; do sleep 0.05; done; }

# A service that is asked all the time, and one that is asked now and then.
run shmconn pong quotes
run shmconn pong echo
until_seen 'quotes +listening'
run nice shmconn ping -f -q quotes >/dev/null
run nice shmconn ping -f -q -s 4KiB quotes >/dev/null
run shmconn ping -q -i 0.05 -s 1KiB echo >/dev/null
# A reader that is in no hurry: the ring is full, and the writer sleeps.
mkfifo "$work/slow"
(exec 3<>"$work/slow"; exec shmconn cat -l --ring-size 64KiB archive >&3 </dev/null) & pids+=($!)
until_seen 'archive +listening'
head -c 8000000 /dev/zero >"$work/zeros"
run shmconn cat archive <"$work/zeros" >/dev/null
# One that has said all that it had to say, and still listens.
mkfifo "$work/quiet"
(exec 3<>"$work/quiet"; exec shmconn cat -l orders <&3 >/dev/null) & pids+=($!)
until_seen 'orders +listening'
run shmconn cat orders <README.md >/dev/null
# A client that was killed while its server stood still, and a listener that was killed.
run shmconn pong risk
server=$!
until_seen 'risk +listening'
run shmconn ping -q -i 100 risk >/dev/null
client=$!
until_seen 'risk +established'
kill -STOP $server
until_seen 'risk +listening.*stopped'
kill -KILL $client
run shmconn pong old
until_seen 'old +listening'
kill -KILL $!

$tmux new-session -d -x 80 -y 24 "shmconn top $SHMCONN_DIR/"
sleep 4.5 # some looks, one each second
$tmux send-keys Down Down Down
sleep 0.5
$tmux capture-pane -e -p >"$work/screen"
go run ./docs/picture <"$work/screen" >"${1:-docs/top.svg}"
