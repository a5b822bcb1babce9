"""A SLURM cluster on 127.0.0.1: a controller and two nodes, as ordinary processes of this user."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

PACKAGES = "slurmctld slurmd slurm-client munge"
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "scontrol", "scancel")
START_SECONDS = 60
NODES = ("node1", "node2")
KILL_WAIT = 30  # seconds from SIGTERM to SIGKILL; SLURM's default
# No cgroups, accounts or name service. Many processors and four GPUs per node, which are devices
# that every machine has: SLURM only checks that they exist. A requeued job starts when its
# credential has expired: after six seconds, and with a smaller number after the default of 120.
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=6
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait={kill_wait}
SlurmdTimeout=3600
SlurmdParameters=config_overrides
SlurmctldParameters=idle_on_node_suspend
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=1
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/%n.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node1} CPUs=64 Gres=gpu:4
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={node2} CPUs=64 Gres=gpu:4
PartitionName=normal Nodes=ALL Default=YES PriorityTier=1 State=UP
PartitionName=graceful Nodes=ALL PriorityTier=1 GraceTime=30 State=UP
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP
"""
GPUS = "".join(f"NodeName={node} Name=gpu File=/dev/tty[0-3]\n" for node in NODES)


class Cluster:
    """A running cluster.

    Attributes:
        folder: its configuration, state and logs.
        environment: variables with which SLURM's commands, and jobs, find it.
    """

    def __init__(self, folder):
        self.folder = folder
        self.environment = os.environ | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}{os.pathsep}/usr/sbin",
        }
        self.daemons = {}

    def start(self, name, *arguments):
        """Starts a daemon in the foreground; it is ended with the cluster."""
        with open(self.folder / f"{name}.out", "ab") as log:
            self.daemons[name] = subprocess.Popen(
                arguments,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )

    def call(self, *command):
        """Runs a command of SLURM -> its output."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def submit(self, *arguments, environment, folder):
        """Submits a job script with its arguments, from `folder` -> the job's number."""
        done = subprocess.run(
            ["sbatch", "--parsable", *map(str, arguments)],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=folder,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def job(self, number):
        """Every field of a job (its first task, if it is an array), as `scontrol` reports them."""
        record = self.call("scontrol", "show", "job", str(number), "--oneliner").splitlines()[0]
        return dict(field.partition("=")[::2] for field in record.split())

    def state(self, number):
        """RUNNING, COMPLETED, FAILED, ..."""
        return self.job(number)["JobState"]

    def until(self, condition, seconds=600):
        """Waits until the condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{seconds} seconds\n{self.call('squeue', '--array')}")
            time.sleep(0.1)

    def end_of(self, number, seconds=600):
        """Waits for the end of a job -> (state, exit code of its script)."""
        ends = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        self.until(lambda: self.state(number) in ends, seconds)
        record = self.job(number)
        return record["JobState"], int(record["ExitCode"].split(":")[0])

    def stop(self):
        """Cancels all jobs, waits for the end of their processes, and stops the daemons."""
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired, TimeoutError):
            for number in set(self.call("squeue", "-h", "-o", "%A").split()):
                self.call("scancel", number)
            self.until(lambda: not self.call("squeue", "-h"), KILL_WAIT + 15)
        for name in reversed(list(self.daemons)):  # munged last
            daemon = self.daemons[name]
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def missing_programs():
    """The programs of SLURM that this machine lacks."""
    path = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


@contextlib.contextmanager
def slurm_cluster():
    """A cluster of two nodes on 127.0.0.1; skips the test if SLURM is not installed."""
    if missing := missing_programs():
        pytest.skip(f"SLURM is not installed (no {missing[0]}): apt-get install {PACKAGES}")
    # A socket's path may have 107 characters, which pytest's folders exceed.
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as name:
        folder = Path(name)
        ports = free_ports("controller", *NODES)
        text = CONFIG.format(
            folder=folder,
            host=socket.gethostname().split(".")[0],
            user=getpass.getuser(),
            kill_wait=KILL_WAIT,
            **ports,
        )
        (folder / "slurm.conf").write_text(text)
        (folder / "gres.conf").write_text(GPUS)
        for made in ("state", *(f"spool-{node}" for node in NODES)):
            (folder / made).mkdir()
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        cluster = Cluster(folder)
        try:
            start(cluster)
            yield cluster
        finally:
            cluster.stop()


def start(cluster):
    """Starts the daemons, and waits until both nodes are idle."""
    munge = {"key": "key", "socket": "socket", "pid": "pid", "log": "log", "seed": "seed"}
    flags = [f"--{flag}-file={cluster.folder}/munge.{end}" for flag, end in munge.items()]
    flags = [flag.replace("--socket-file", "--socket") for flag in flags]
    cluster.start("munged", "munged", "--foreground", "--force", *flags)
    deadline = time.monotonic() + START_SECONDS
    wait_for(cluster, (cluster.folder / "munge.socket").exists, deadline)
    cluster.start("slurmctld", "slurmctld", "-D")
    for node in NODES:
        cluster.start(node, "slurmd", "-D", "-N", node)
    wait_for(cluster, lambda: idle_nodes(cluster) == len(NODES), deadline)


def wait_for(cluster, condition, deadline):
    while not condition():
        ended = [name for name, daemon in cluster.daemons.items() if daemon.poll() is not None]
        if ended or time.monotonic() > deadline:
            name = ended[0] if ended else "slurmctld"
            log = (cluster.folder / f"{name}.out").read_text(errors="replace")
            raise RuntimeError(f"{name} did not start:\n{log[-3000:]}")
        time.sleep(0.1)


def idle_nodes(cluster):
    done = subprocess.run(
        ["sinfo", "-h", "-N", "-p", "normal", "-o", "%t"],
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout.split().count("idle")


def free_ports(*names):
    """A free port for each name; all are held until the last one is found."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in names]
        return {name: each.getsockname()[1] for name, each in zip(names, sockets, strict=True)}
