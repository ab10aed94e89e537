#!/bin/bash
# A Slurm of its own on one machine, for tests: pretend nodes with 8 cores, 64 GB and 2 GPUs each, whatever the machine has.
#   cluster.sh up DIR [NODES]     start it (root; Debian: apt-get install slurm-wlm munge), then export SLURM_CONF=DIR/slurm.conf
#   cluster.sh down DIR           stop it
# Every daemon ends by itself after half an hour. The GPUs are null devices: they are scheduled, not computed on.
set -eu

LIFETIME=1800
PORT=${KR_SLURM_PORT:-16817}

configuration() { # DIR NODES
    local host last
    host=$(hostname -s)
    last=$(($2 - 1))
    cat <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
CredType=cred/munge
StateSaveLocation=$1/state
SlurmdSpoolDir=$1/spool/%n
SlurmctldPidFile=$1/slurmctld.pid
SlurmdPidFile=$1/slurmd.%n.pid
SlurmctldLogFile=$1/log/slurmctld.log
SlurmdLogFile=$1/log/slurmd.%n.log
SlurmctldPort=$PORT
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
GresTypes=gpu
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
JobRequeue=1
KillWait=5
NodeName=node[0-$last] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((PORT + 1))-$((PORT + $2))] CPUs=8 RealMemory=64000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF
CONF
}

daemon() { # PIDFILE COMMAND...
    local file=$1
    shift
    setsid timeout "$LIFETIME" "$@" >/dev/null 2>&1 </dev/null &
    echo $! >"$file"
}

up() { # DIR NODES
    local i
    mkdir -p "$1"/{state,spool,log,pids} /run/munge
    chown munge:munge /run/munge
    for i in 0 1; do [ -e "$1/gpu$i" ] || mknod "$1/gpu$i" c 1 3; done
    configuration "$1" "$2" >"$1/slurm.conf"
    echo "Name=gpu File=$1/gpu[0-1]" >"$1/gres.conf"
    export SLURM_CONF="$1/slurm.conf"
    munge -n >/dev/null 2>&1 || daemon "$1/pids/munged" runuser -u munge -- /usr/sbin/munged --foreground
    daemon "$1/pids/slurmctld" slurmctld -D -c
    for i in $(seq 0 $(($2 - 1))); do
        mkdir -p "$1/spool/node$i"
        daemon "$1/pids/slurmd$i" slurmd -D -N "node$i"
    done
    for i in $(seq 120); do
        [ "$(sinfo -h -N -p main -o %T 2>/dev/null | grep -cx idle)" = "$2" ] && return
        sleep 0.5
    done
    echo "the nodes did not come up; see $1/log" >&2
    tail -n 5 "$1"/log/* >&2 || true
    down "$1"
    return 1
}

down() { # DIR
    local file
    export SLURM_CONF="$1/slurm.conf"
    timeout 10 scancel --user=root || true
    for _ in $(seq 40); do
        [ -z "$(timeout 5 squeue -h 2>/dev/null)" ] && break
        sleep 0.25
    done
    for file in "$1"/pids/*; do
        kill "$(cat "$file")" 2>/dev/null || true
    done
}

case "${1:-}" in
up) up "$(mkdir -p "$2" && cd "$2" && pwd)" "${3:-2}" ;;
down) down "$(cd "$2" && pwd)" ;;
*)
    echo "usage: cluster.sh up DIR [NODES] | down DIR" >&2
    exit 2
    ;;
esac
