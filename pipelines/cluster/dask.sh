#!/usr/bin/env bash
# A build on a Dask cluster that is started by plain commands.
#
#     dask.sh WORKERS mmearth-data build --recipe mmearth-1m-64 --ee-project MY-PROJECT --out s3://bucket/mmearth.zarr
#
# starts a scheduler and WORKERS workers on this machine, runs the build with --scheduler, and stops them again.
# On several machines, run the same three commands by hand: the scheduler on one (SCHEDULER_HOST is its address, port
# 8786), workers on all, and the build anywhere. The store must be reachable from all of them under one name: a shared
# folder, or a bucket. Three threads per worker: one shard is read while another is written and a third one surveyed.
set -euo pipefail

workers=$1
shift
host=${SCHEDULER_HOST:-127.0.0.1}
folder=$(mktemp -d)
started=()
stop() {
    # Workers first, so that they can sign off from the scheduler; after ten seconds, processes that still run are killed.
    for ((k = ${#started[@]} - 1; k >= 0; k--)); do kill "${started[k]}" 2>/dev/null || true; done
    for _ in $(seq 100); do [ -n "$(jobs -rp)" ] && sleep 0.1; done
    for process in "${started[@]}"; do kill -KILL "$process" 2>/dev/null || true; done
    wait
    rm -rf "$folder"
}
trap stop EXIT

dask scheduler --host "$host" --port "${SCHEDULER_PORT:-8786}" --no-dashboard --scheduler-file "$folder/scheduler.json" \
    2>"$folder/scheduler.log" &
started+=($!)
for _ in $(seq 600); do
    [ -s "$folder/scheduler.json" ] && break
    kill -0 "${started[0]}" 2>/dev/null || { cat "$folder/scheduler.log" >&2; exit 1; }
    sleep 0.1
done
address=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["address"])' "$folder/scheduler.json")

for _ in $(seq "$workers"); do
    dask worker "$address" --nworkers 1 --nthreads 3 --no-nanny --no-dashboard --local-directory "$folder" 2>>"$folder/workers.log" &
    started+=($!)
done

"$@" --scheduler "$address"
