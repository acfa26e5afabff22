"""A build on a Slurm cluster: each worker is a job, submitted through dask-jobqueue (``pip install "mmearth[slurm]"``).

    python slurm.py --jobs 8 --partition cpu -- --recipe mmearth-1m-64 --ee-project MY-PROJECT --out /scratch/mmearth.zarr

Run it on a login node, or in a small job of its own: the scheduler runs in this process, which also shows the build's
progress. Arguments after ``--`` are passed to ``mmearth-data build``. Jobs that run out of time are replaced; if this
process itself is stopped, the same command continues with the shards that are not committed. ``--show`` prints the job
script and submits nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from dask_jobqueue import SLURMCluster

THREADS = 3
"""One shard is read while another is written and a third one surveyed."""


def make_cluster(options: argparse.Namespace) -> SLURMCluster:
    """Scheduler in this process, and the description of one job."""
    return SLURMCluster(
        queue=options.partition,
        account=options.account,
        cores=THREADS,
        processes=1,
        memory=options.memory,
        walltime=options.time,
        interface=options.interface,
        python=sys.executable,
        job_extra_directives=options.directive,
        worker_extra_args=["--no-dashboard"],
        scheduler_options={"dashboard_address": "127.0.0.1:0"},  # None means port 8787, which another user may have
    )


def main() -> int:
    """Submit, build, and give the jobs back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=4, help="workers, one job each")
    parser.add_argument("--partition", help="queue")
    parser.add_argument("--account")
    parser.add_argument("--memory", default="6GB", help="of a job; a build of 128 px takes less than 2 GB per worker")
    parser.add_argument("--time", default="24:00:00", help="of a job")
    parser.add_argument("--interface", help="network interface that jobs can reach, such as ib0")
    parser.add_argument(
        "--directive", action="append", default=[], help="further #SBATCH line, such as --constraint=ssd"
    )
    parser.add_argument("--show", action="store_true", help="print the job script, submit nothing")
    parser.add_argument("build", nargs="*", help="options of mmearth-data build, behind --")
    options = parser.parse_args()
    with make_cluster(options) as cluster:
        if options.show:
            sys.stdout.write(cluster.job_script())
            return 0
        cluster.adapt(minimum_jobs=options.jobs, maximum_jobs=options.jobs)  # replaces jobs that ended
        command = ["mmearth-data", "build", *options.build, "--scheduler", cluster.scheduler_address]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
