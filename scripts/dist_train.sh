#!/usr/bin/env bash
# Trains with several processes, one a GPU (or, without GPUs, as many CPU processes).
#
#     scripts/dist_train.sh PROCESSES OPTION_FILE [arguments of Train_pip.py …]
#
# Several machines: the same command on each, with NNODES, NODE_RANK (0 on the first) and MASTER_ADDR (the first's name)
# in the environment; MASTER_PORT is 29500 unless it is set.
set -euo pipefail

if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: scripts/dist_train.sh PROCESSES OPTION_FILE [arguments of Train_pip.py …]" >&2
    exit 2
fi
processes=$1 options=$2
shift 2

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python}
[[ -z ${PYTHON:-} && -x $project/.venv/bin/python ]] && python=$project/.venv/bin/python

if [[ ${NNODES:-1} -gt 1 ]]; then
    : "${NODE_RANK:?set NODE_RANK to the number of this machine, 0 on the first}"
    : "${MASTER_ADDR:?set MASTER_ADDR to the name of the first machine}"
    where=(--nnodes="$NNODES" --node_rank="$NODE_RANK" --master_addr="$MASTER_ADDR" --master_port="${MASTER_PORT:-29500}")
else
    where=(--standalone)
fi
exec "$python" -m torch.distributed.run "${where[@]}" --nproc_per_node="$processes" \
    "$project/Train_pip.py" -opt "$options" "$@"
