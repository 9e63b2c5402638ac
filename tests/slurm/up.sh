#!/usr/bin/env bash
# Start a Slurm of one node on the loopback device, without systemd and without root.
#   tests/slurm/up.sh FOLDER [--accounting]
#   export SLURM_CONF=FOLDER/slurm.conf
# Keys, sockets, logs, state and pids all live in FOLDER; ports are free ones, so that several clusters can run at once.
# --accounting adds slurmdbd and MariaDB, so that sacct answers. Where something fails, down.sh FOLDER cleans up.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$1"
dir=$(cd "$1" && pwd)
accounting=${2:-}
# slurmctld and slurmd find themselves in the configuration by this name
node=$(uname -n)
node=${node%%.*}
user=$(id -un)
# daemons live in sbin, which is not on everyone's path
PATH=$PATH:/usr/sbin:/sbin

trap 'echo "up.sh: line $LINENO failed; the ends of the logs:" >&2; tail -n 10 "$dir"/*.log >&2' ERR

wait_for() { # SECONDS WHAT COMMAND...
    local until=$((SECONDS + $1)) what=$2
    shift 2
    while ! timeout 10 "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$until" ]; then
            echo "up.sh: $what did not come up" >&2
            return 1
        fi
        sleep 0.05
    done
}

# outside the range from which the system itself gives ports away, so that nobody takes one before its daemon does
read -r ctld_port d_port dbd_port < <(python3 - <<'PYTHON'
import random
import socket

held = []
while len(held) < 3:
    taken = socket.socket()
    try:
        taken.bind(("127.0.0.1", random.randrange(15000, 32000)))
        held.append(taken)
    except OSError:
        taken.close()
print(*(one.getsockname()[1] for one in held))
PYTHON
)

mkdir -p "$dir/state" "$dir/spool"

head -c 1024 /dev/urandom >"$dir/munge.key"
chmod 0400 "$dir/munge.key"
# --force: the folder above may be writable by all, as /tmp is
munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
    --log-file="$dir/munged.log" --seed-file="$dir/munged.seed" 2>>"$dir/munged.log"
wait_for 60 munged munge --socket="$dir/munge.socket" --no-input

storage="AccountingStorageType=accounting_storage/none"
if [ "$accounting" = --accounting ]; then
    # a unix socket only, no network; --force: whether or not the machine's name can be looked up
    mariadb-install-db --no-defaults --force --user="$user" --datadir="$dir/mysql" --auth-root-authentication-method=normal \
        --innodb-log-file-size=8M --skip-test-db >"$dir/mariadb-install.log" 2>&1
    setsid mariadbd --no-defaults --user="$user" --datadir="$dir/mysql" --socket="$dir/mysql.socket" \
        --pid-file="$dir/mariadbd.pid" --skip-networking --innodb-buffer-pool-size=16M --innodb-log-file-size=8M \
        --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=0 --skip-log-bin \
        --log-error="$dir/mariadbd.log" </dev/null >/dev/null 2>&1 &
    wait_for 120 mariadbd mariadb --no-defaults --user=root --socket="$dir/mysql.socket" -e "CREATE DATABASE slurm_acct_db"
    cat >"$dir/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=$dir/munge.socket
DbdHost=$node
DbdAddr=127.0.0.1
DbdPort=$dbd_port
SlurmUser=$user
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
PidFile=$dir/slurmdbd.pid
LogFile=$dir/slurmdbd.log
DebugLevel=info
CONF
    chmod 0600 "$dir/slurmdbd.conf"
    storage="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$dbd_port
AccountingStoragePass=$dir/munge.socket"
fi

# slurmd wants cgroups at its start unless told not to look; this kind it touches only where the configuration uses it
echo "CgroupPlugin=cgroup/v1" >"$dir/cgroup.conf"
conf=$(<"$here/slurm.conf.in")
conf=${conf//@DIR@/$dir}
conf=${conf//@NODE@/$node}
conf=${conf//@USER@/$user}
conf=${conf//@CTLD_PORT@/$ctld_port}
conf=${conf//@D_PORT@/$d_port}
conf=${conf//@FIRST_JOB@/$ctld_port}
conf=${conf//@ACCOUNTING@/$storage}
echo "$conf" >"$dir/slurm.conf"
export SLURM_CONF=$dir/slurm.conf

if [ "$accounting" = --accounting ]; then
    # slurmdbd finds slurmdbd.conf beside $SLURM_CONF, and the database's socket by this name
    MYSQL_UNIX_PORT=$dir/mysql.socket slurmdbd
    wait_for 120 slurmdbd sacctmgr --noheader --immediate show cluster
    sacctmgr --immediate add cluster testcluster >/dev/null
fi
slurmctld
wait_for 60 slurmctld scontrol ping
slurmd
wait_for 60 slurmd bash -c "sinfo --noheader --format=%T | grep --quiet idle"
