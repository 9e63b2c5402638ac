#!/usr/bin/env bash
# Stop the Slurm that up.sh started in a folder: cancel its jobs, end its daemons.
#   tests/slurm/down.sh FOLDER [--wipe]       --wipe also removes the folder
set -euo pipefail

dir=$(cd "$1" && pwd)

# 0 if the process that a pid file names is the daemon, and not a stranger with a recycled number
lives() {
    local name
    [ -s "$dir/$1.pid" ] || return 1
    name=$(cat "/proc/$(<"$dir/$1.pid")/comm" 2>/dev/null) || return 1
    # Debian's binary may be called slurmctld-wlm
    [[ $name == "$1"* ]]
}

stop() {
    lives "$1" || return 0
    local pid
    pid=$(<"$dir/$1.pid")
    kill "$pid" 2>/dev/null || return 0
    for _ in $(seq 200); do
        [ -d "/proc/$pid" ] || return 0
        [ "$(awk '/^State:/{print $2}' "/proc/$pid/status" 2>/dev/null)" != Z ] || return 0
        sleep 0.05
    done
    kill -KILL "$pid" 2>/dev/null || true
}

if lives slurmctld; then
    export SLURM_CONF=$dir/slurm.conf
    # nothing new starts, what runs is killed at once; its slurmstepd then ends by itself
    timeout 10 scancel --user="$(id -un)" --state=PENDING || true
    timeout 10 scancel --user="$(id -un)" --signal=KILL --full || true
    for _ in $(seq 60); do
        [ -n "$(timeout 10 squeue --noheader || true)" ] || break
        sleep 0.05
    done
fi
for daemon in slurmd slurmctld slurmdbd mariadbd munged; do
    stop "$daemon"
done
if [ "${2:-}" = --wipe ]; then
    rm -rf "$dir"
fi
