"""Who may write to a workdir in a bucket."""

import json
import threading
import time
from dataclasses import replace

import pytest
from helpers.bucket_runs import SleepingClock
from helpers.memory_store import Memory, MemoryStore
from helpers.object_stores import misbehaving_store

from clac_jax.bucket.lease import Clock, acquire
from clac_jax.bucket.ledger import LEDGER, Ledger, LedgerError
from clac_jax.errors import LostWorkdirError, WorkdirError
from clac_jax.stores.errors import UnavailableError
from clac_jax.stores.store import open_store


def test_a_second_start_is_refused_with_who_holds_it_and_since_when():
    store = MemoryStore(Memory())
    lease = acquire(store, 60)
    said = []

    class Renewing(SleepingClock):
        def sleep(self, seconds):
            super().sleep(seconds)
            if self.time > 10:
                lease.renew()

    with pytest.raises(WorkdirError, match=r"in use by process \d+ on \S+ \(since \d{4}-\d\d-\d\d"):
        acquire(store, 60, clock=Renewing(), say=said.append)
    assert "Waiting up to 60 seconds" in said[0]
    lease.renew()


def test_the_lease_of_a_dead_holder_runs_out():
    store, clock = MemoryStore(Memory()), SleepingClock()
    dead = acquire(store, 60)
    lease = acquire(store, 5, clock=clock)
    assert 60 <= clock.time < 70, "by the lease of the dead holder, not by its own"
    assert lease.ledger.fence == dead.ledger.fence + 1
    with pytest.raises(LostWorkdirError, match="was taken by process") as error:
        dead.renew()
    assert error.value.prevents_saving
    with pytest.raises(LostWorkdirError):
        dead.check()


def test_a_released_workdir_and_one_whose_holder_is_known_to_be_dead_are_free_immediately():
    store = MemoryStore(Memory())

    def never(seconds):
        raise AssertionError("waits")

    clock = Clock(lambda: 0.0, never)
    acquire(store, 60).release()
    dead = acquire(store, 60, clock=clock)
    assert acquire(store, 60, [dead.ledger.nonce], clock).ledger.fence == 3


def test_a_watcher_that_was_suspended_itself_does_not_take_it():
    """Its clock says that the lease has run out, but it has seen an old ledger."""
    store = MemoryStore(Memory())
    lease = acquire(store, 60)
    reads = []

    class Renewing(SleepingClock):
        def sleep(self, seconds):
            super().sleep(seconds)
            if len(reads) > 2:
                lease.renew()

    clock = Renewing()

    def suspended(operation, name):
        if operation == "get":
            reads.append(name)
            if len(reads) == 2:
                clock.time += 1000
                lease.renew()

    with pytest.raises(WorkdirError, match="in use"):
        acquire(MemoryStore(store.memory, after=suspended), 60, clock=clock)


def test_a_late_request_of_a_dead_holder_does_not_show_life():
    store = MemoryStore(Memory())
    dead = acquire(store, 60)

    class OnceLate(SleepingClock):
        def sleep(self, seconds):
            before, self.time = self.time, self.time + seconds
            if before < 10 <= self.time:
                dead.renew()

    clock = OnceLate()
    acquire(store, 60, clock=clock)
    assert clock.time >= 70, "the watch starts again"


def test_a_change_of_which_the_answer_was_lost_is_not_somebody_elses():
    memory, answers = Memory(), []

    def lose(operation, name):
        if answers and operation == "put":
            answers.clear()
            raise UnavailableError("no answer")

    store = MemoryStore(memory, after=lose)
    lease = acquire(store, 60)
    answers.append(True)
    with pytest.raises(UnavailableError):
        lease.change(lambda ledger: replace(ledger, deleting=(*ledger.deleting, "first")))
    lease.change(lambda ledger: replace(ledger, deleting=(*ledger.deleting, "second")))
    stored = Ledger.from_bytes(memory.objects[LEDGER][0], "")
    assert stored == lease.ledger and stored.deleting == ("first", "second")


@pytest.mark.parametrize("is_there", ["nothing", "released", "dead"])
def test_of_fifty_at_the_same_instant_one_wins(is_there):
    memory = Memory(counts_versions=False)
    dead = []
    if is_there != "nothing":
        before = acquire(MemoryStore(memory), 60)
        dead = [before.ledger.nonce]
        if is_there == "released":
            before.release()
    check_one_wins(lambda: MemoryStore(memory), dead)


@pytest.mark.slow
def test_on_a_server_one_wins_of_fifty_and_fifty_times_one_of_two():
    faults = {"lost_answer": 0.2, "answered_twice": 0.2, "false_conflict": 0.2, "reset": 0.1}
    with misbehaving_store(3, faults=faults) as running, running.activated() as url:
        check_one_wins(lambda: open_store(f"{url}/all"), [])
        for number in range(50):
            check_one_wins(lambda number=number: open_store(f"{url}/{number}"), [], threads=2)


def check_one_wins(open_one, dead, threads=50):
    stores = [open_one() for _ in range(threads)]
    ready, leases, refused = threading.Barrier(threads), [], []

    class Refusing(SleepingClock):
        """The holder of a lease that is watched renews it."""

        def sleep(self, seconds):
            if leases:
                leases[0].renew()

    def start(store):
        ready.wait()
        try:
            leases.append(acquire(store, 60, dead, Refusing()))
        except WorkdirError as error:
            refused.append(str(error))

    running = [threading.Thread(target=start, args=[store]) for store in stores]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(60)
    assert len(leases) == 1 and len(refused) == threads - 1
    assert all("is in use by" in line for line in refused)
    leases[0].renew()


def test_a_ledger_that_is_none_is_named():
    memory = Memory()
    memory.write(LEDGER, b"[]")
    with pytest.raises(LedgerError, match=r"run\.ledger\.json is not the ledger of a run"):
        acquire(MemoryStore(memory), 60)
    memory.write(LEDGER, b'{"format": 3}')
    with pytest.raises(
        LedgerError, match="has format 3, and this version of clac_jax reads 1 to 2"
    ):
        acquire(MemoryStore(memory), 60)


def test_a_ledger_that_cannot_be_read_for_a_while_does_not_end_the_renewals():
    memory = Memory()
    lease = acquire(MemoryStore(memory), 0.1)
    lease.start_renewing(lambda error: None)
    content = memory.objects[LEDGER][0]
    memory.write(LEDGER, b"[]")
    time.sleep(0.2)
    memory.write(LEDGER, content)
    time.sleep(0.2)
    lease.stop_renewing()
    assert memory.objects[LEDGER][0] != content, "somebody else would take the workdir"


def test_a_removed_ledger_ends_the_run():
    memory = Memory()
    lease = acquire(MemoryStore(memory), 60)
    del memory.objects[LEDGER]
    with pytest.raises(LostWorkdirError, match="was removed while the run was writing there"):
        lease.renew()


def test_the_ledger_survives_its_json():
    ledger = Ledger(
        fence=3,
        nonce="ab",
        holder="process 1 on host",
        checkpoints={8: 1, 16: 2},
        commits={8: "commits/8.1.ab.zip"},
        deleting=("commits/4.1.ab.zip",),
        damaged={2: "commits/2.1.ab.zip"},
        run_files={"config.json": (2, 3)},
        rows="commits/rows.1.ab.jsonl.gz",
        finished=True,
        is_new=True,
        run="2 0.5 process 1 on host",
        removed={4: 5},
    )
    assert Ledger.from_bytes(ledger.to_bytes(), "") == ledger


def test_a_ledger_of_the_format_before_is_read():
    ledger = Ledger(fence=3, started=0.5, holder="process 1 on host")
    values = json.loads(ledger.to_bytes())
    del values["run"], values["removed"]
    older = json.dumps({**values, "format": 1}).encode()
    assert Ledger.from_bytes(older, "") == ledger
    assert ledger.last_run == "3 0.5 process 1 on host", "which mirrors have noted"


@pytest.mark.parametrize("fails", [True, False])
def test_threads_that_wait_for_a_renewal_share_its_outcome(fails):
    """One by one, each would wait for an unreachable store as long as the first."""
    memory, requests = Memory(), []

    def slow(operation, name):
        requests.append(operation)
        time.sleep(0.1)
        if fails:
            raise UnavailableError("no answer")

    store = MemoryStore(memory)
    lease = acquire(store, 60)
    store.before = slow
    outcomes = []

    def renew():
        try:
            lease.renew()
            outcomes.append("renewed")
        except UnavailableError as error:
            outcomes.append(str(error))

    running = [threading.Thread(target=renew) for _ in range(6)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(20)
    assert outcomes == ["no answer" if fails else "renewed"] * 6
    assert len(requests) <= (1 if fails else 2), (
        "one that began before a thread asked does not count"
    )
