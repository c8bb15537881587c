"""The queue of jobs: who gets what when, and what is left after kills."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from kandinsky.core.errors import JobError
from kandinsky.jobs import schema, store
from kandinsky.jobs.store import NewJob


@pytest.fixture
def db(tmp_path: Path) -> sqlite3.Connection:
    return store.open_store(tmp_path / "jobs.db")


def states(db: sqlite3.Connection) -> list[str]:
    return [job.state for job in store.listed(db)]


def test_a_job_goes_through_the_queue(db: sqlite3.Connection) -> None:
    ids = store.enqueue(db, [NewJob({"prompt": "a fox"}, name="one", owner="ann")], now=5.0)
    assert ids == [1]
    (job,) = store.claim(db, "w", now=10.0)
    assert (job.request, job.state, job.worker, job.attempts, job.started) == (
        {"prompt": "a fox"},
        "running",
        "w",
        1,
        10,
    )
    assert store.claim(db, "v") == []
    assert store.heartbeat(db, "w", {"step": 3}) == ({1}, set())
    assert store.get(db, 1).progress == {"step": 3}
    assert store.finish(db, "w", {1: ["fox.png"]}, now=12.0) == {1}
    done = store.get(db, 1)
    assert (done.state, done.result, done.worker, done.progress, done.ended) == ("done", ["fox.png"], None, None, 12)
    assert store.counts(db) == {"queued": 0, "running": 0, "done": 1, "failed": 0, "cancelled": 0}


def test_priority_then_age_decides_and_a_batch_is_of_one_group(db: sqlite3.Connection) -> None:
    groups = ["a", "b", "a", "a", "b", "a"]
    priorities = [0, 0, 0, 1, 0, 0]
    store.enqueue(db, [NewJob(None, group, priority=one) for group, one in zip(groups, priorities, strict=True)])
    assert [job.id for job in store.claim(db, "w", 3)] == [4, 1, 3]
    assert [job.id for job in store.claim(db, "v", 8)] == [2, 5]
    assert [job.id for job in store.claim(db, "u", 8)] == [6]


def test_all_are_queued_or_none(db: sqlite3.Connection) -> None:
    store.enqueue(db, [NewJob(1, name="one")])
    with pytest.raises(JobError, match="a job 'one' already"):
        store.enqueue(db, [NewJob(2, name="two"), NewJob(3, name="one")])
    assert [job.name for job in store.listed(db)] == ["one"]


def test_only_the_holder_of_a_lease_ends_a_job(db: sqlite3.Connection) -> None:
    store.enqueue(db, [NewJob(None)])
    store.claim(db, "slow", seconds=10, now=0)
    store.requeue_expired(db, now=9)
    assert states(db) == ["running"]
    store.requeue_expired(db, now=11)
    (job,) = store.claim(db, "other", now=12)
    assert (job.attempts, job.crashes) == (2, 1)
    assert store.finish(db, "slow", {1: "late"}) == set()
    assert store.fail(db, "slow", {1: "late"}) == set()
    assert store.heartbeat(db, "slow") == (set(), set())
    assert store.finish(db, "other", {1: "right"}) == {1}
    assert store.get(db, 1).result == "right"


def test_a_renewed_lease_does_not_run_out(db: sqlite3.Connection) -> None:
    store.enqueue(db, [NewJob(None)])
    store.claim(db, "w", seconds=10, now=0)
    store.heartbeat(db, "w", seconds=10, now=8)
    store.requeue_expired(db, now=11)
    assert states(db) == ["running"]


def test_a_job_that_ends_its_workers_fails(db: sqlite3.Connection) -> None:
    store.enqueue(db, [NewJob(None)])
    for _ in range(2):
        assert store.claim(db, "w")
        store.give_back(db, "w", crashed=True)
    assert store.claim(db, "w") == []
    job = store.get(db, 1)
    assert (job.state, job.attempts) == ("failed", 2)
    assert job.error == {"type": "crash", "message": "It ended its worker 2 times or more."}


def test_of_a_batch_that_ends_its_workers_the_guilty_one_fails(db: sqlite3.Connection) -> None:
    guilty = 3
    store.enqueue(db, [NewJob(None) for _ in range(4)])
    for _ in range(20):
        jobs = [job.id for job in store.claim(db, "w", 4)]
        if guilty in jobs:
            store.give_back(db, "w", crashed=True)
        else:
            store.finish(db, "w", dict.fromkeys(jobs))
    assert states(db) == ["done", "done", "failed", "done"]


def test_a_worker_that_stops_gives_back_without_blame(db: sqlite3.Connection) -> None:
    store.enqueue(db, [NewJob(None)])
    for _ in range(5):
        assert store.claim(db, "w")
        store.give_back(db, "w")
    store.claim(db, "w")
    store.requeue_all(db)
    assert (states(db), store.get(db, 1).crashes) == (["queued"], 0)


def test_cancelled_at_once_where_queued_and_asked_for_where_running(db: sqlite3.Connection) -> None:
    store.enqueue(db, [NewJob(None) for _ in range(3)])
    store.claim(db, "w")
    store.cancel(db, [1, 2])
    assert states(db) == ["running", "cancelled", "queued"]
    assert store.heartbeat(db, "w") == ({1}, {1})
    store.give_back(db, "w")
    assert states(db) == ["cancelled", "cancelled", "queued"]


def test_failed_ones_are_tried_again_when_asked(db: sqlite3.Connection) -> None:
    store.enqueue(db, [NewJob(None) for _ in range(3)])
    for _ in range(2):
        (job,) = store.claim(db, "w")
        store.fail(db, "w", {job.id: {"message": "no"}})
    assert store.retry(db) == 2
    assert states(db) == ["queued", "queued", "queued"]
    assert store.get(db, 1).error is None


def test_listing_by_state_and_owner_in_parts(db: sqlite3.Connection) -> None:
    store.enqueue(db, [NewJob(i, owner="ann" if i % 2 else "bob") for i in range(6)])
    store.claim(db, "w", 3)
    assert [job.id for job in store.listed(db, "running")] == [1, 2, 3]
    assert [job.id for job in store.listed(db, owner="ann", after=2, limit=1)] == [4]
    with pytest.raises(JobError, match="no job 9"):
        store.get(db, 9)


def test_facts_are_kept(db: sqlite3.Connection) -> None:
    store.note(db, {"model": "emoji", "settings": {"dtype": "float32"}})
    store.note(db, {"model": "tiny"})
    assert store.facts(db) == {"model": "tiny", "settings": {"dtype": "float32"}}


def test_it_is_durable_and_waits_for_others(db: sqlite3.Connection, tmp_path: Path) -> None:
    found = {name: db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")}
    assert found == {"journal_mode": "wal", "synchronous": 2}
    assert db.execute("PRAGMA busy_timeout").fetchone()[0] == 30_000
    other = store.open_store(tmp_path / "jobs.db")
    store.enqueue(db, [NewJob(i) for i in range(200)])
    claimed: list[list[int]] = [[], []]

    def work(which: int) -> None:
        own = store.open_store(tmp_path / "jobs.db")
        while jobs := store.claim(own, f"w{which}", 3):
            claimed[which] += [job.id for job in jobs]
        own.close()

    threads = [threading.Thread(target=work, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed[0] + claimed[1]) == list(range(1, 201))
    other.close()


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.db"
    text.write_text("no database at all, but longer than a header of sqlite would be " * 20)
    with pytest.raises(JobError, match=r"text\.db is not a store of jobs"):
        store.open_store(text)
    assert text.read_text().startswith("no database")
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as other:
        other.execute("CREATE TABLE things (id)")
    with pytest.raises(JobError, match="of another program"):
        store.open_store(foreign)
    newer = tmp_path / "newer.db"
    store.open_store(newer).execute("PRAGMA user_version = 99")
    with pytest.raises(JobError, match="version 99 of the schema"):
        store.open_store(newer)
    with pytest.raises(JobError, match="cannot be opened"):
        store.open_store(tmp_path / "missing" / "jobs.db")


def test_a_damaged_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    db = store.open_store(path)
    store.enqueue(db, [NewJob("x" * 200) for _ in range(300)])
    store.check_integrity(db)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    data = bytearray(path.read_bytes())
    data[8192 : 8192 + 4096 * 6] = bytes(4096 * 6)
    path.write_bytes(data)
    with pytest.raises(JobError, match=r"damaged|not a store"):
        store.check_integrity(store.open_store(path))


WRITER = """
import sys
from kandinsky.jobs import schema, store
db = store.open_store(sys.argv[1])
for i in range(100000):
    store.enqueue(db, [store.NewJob({"i": i}, name=f"{sys.argv[2]}-{i}", group=str(i % 3))])
    print(f"queued {sys.argv[2]}-{i}", flush=True)
"""
WORKER = """
import sys
from kandinsky.jobs import schema, store
db = store.open_store(sys.argv[1])
store.give_back(db, sys.argv[2])
while True:
    for job in store.claim(db, sys.argv[2], 4):
        if store.finish(db, sys.argv[2], {job.id: job.name}):
            print(f"done {job.name}", flush=True)
"""


def killed_at_random(path: Path, kills: int, seed: int) -> tuple[set[str], list[str]]:
    """What writers and workers said before each of them was killed: names queued, names done."""
    draw, queued, done = random.Random(seed), set[str](), []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for turn in range(kills):
        names = [(WRITER, f"t{turn}"), (WORKER, "w")]
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(code), str(path), name],
                stdout=subprocess.PIPE, text=True, env=environment,
            )
            for code, name in names
        ]  # fmt: skip
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()  # it has begun
        threading.Event().wait(draw.uniform(0, 0.05))
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            for line in process.communicate()[0].splitlines():
                word, _, name = line.partition(" ")
                if word == "queued":
                    queued.add(name)
                else:
                    done.append(name)
    return queued, done


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("kills", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_nothing_acknowledged_is_lost_by_kills(tmp_path: Path, kills: int) -> None:
    path = tmp_path / "jobs.db"
    store.open_store(path).close()
    queued, done = killed_at_random(path, kills // 2, seed=kills)
    db = store.open_store(path)
    store.check_integrity(db)
    found = {job.name: job for job in store.listed(db)}
    assert queued <= set(found)
    assert len(done) == len(set(done)), "a job was done twice"
    assert all(found[name].state == "done" and found[name].result == name for name in done)
    for name, job in found.items():
        assert name is not None
        assert job.request == {"i": int(name.rpartition("-")[2])}
    assert json.dumps(store.counts(db))


def test_owners_take_turns_and_nobody_saves_them_up(db: sqlite3.Connection) -> None:
    store.enqueue(db, [NewJob(None, str(i), owner="heavy") for i in range(90)])
    for _ in range(10):
        store.claim(db, "w")
    store.enqueue(db, [NewJob(None, f"{i} {j}", owner=f"light {i}") for i in range(9) for j in range(3)])
    drawn = [store.claim(db, "w")[0].owner for _ in range(30)]
    served = [drawn.count(owner) for owner in ["heavy", *(f"light {i}" for i in range(9))]]
    jain = sum(served) ** 2 / (len(served) * sum(one * one for one in served))
    assert jain >= 0.95
    # Who had nothing to do for a while is no further in front than anyone else.
    store.enqueue(db, [NewJob(None, f"late {i}", owner="late") for i in range(5)])
    drawn = [store.claim(db, "w")[0].owner for _ in range(6)]
    assert drawn.count("late") == drawn.count("heavy") == 3


def test_priority_goes_before_fairness(db: sqlite3.Connection) -> None:
    store.enqueue(db, [NewJob(None, "a", owner="one"), NewJob(None, "b", owner="two")])
    store.enqueue(db, [NewJob(None, "c", owner="one", priority=5), NewJob(None, "d", owner="one", priority=5)])
    assert [store.claim(db, "w")[0].id for _ in range(4)] == [3, 4, 2, 1]


def test_jobs_are_found_by_what_they_show(db: sqlite3.Connection) -> None:
    ids = store.enqueue(
        db,
        [
            NewJob(None, name=str(i), owner="ab"[i % 2], text=text)
            for i, text in enumerate(["A Fox", "ЛИСА", "fox 50%"])
        ],
    )
    store.change(db, ids[2], favourite=True, priority=3)
    names = lambda **given: [job.name for job in store.found(db, **given)]  # noqa: E731
    assert names() == ["2", "1", "0"]
    assert names(text="fox") == ["2", "0"]
    assert names(text="лиса") == ["1"]
    assert names(text="0%") == ["2"]
    assert names(text="%") == ["2"]
    assert names(owner="b") == ["1"]
    assert names(favourite=True) == ["2"]
    assert names(before=ids[2], limit=1) == ["1"]
    assert names(states=("done",)) == []
    assert [store.place(db, one) for one in ids] == [1, 2, 0]
    assert store.named(db, "1").text == "лиса"
    with pytest.raises(JobError, match="no job 'x'"):
        store.named(db, "x")


def test_only_what_has_ended_is_forgotten(db: sqlite3.Connection) -> None:
    ids = store.enqueue(db, [NewJob(None, str(i)) for i in range(3)])
    store.claim(db, "w")
    store.cancel(db, [ids[1]])
    assert store.forget(db, ids) == [ids[1]]
    assert [job.id for job in store.listed(db)] == [ids[0], ids[2]]


def test_a_store_of_the_first_version_is_brought_up(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    old = sqlite3.connect(path)
    old.executescript(schema.MIGRATIONS[0])
    old.execute("PRAGMA user_version = 1")
    old.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    old.execute("INSERT INTO jobs (name, owner, priority, group_key, request, created) VALUES ('x', '', 0, '', '1', 0)")
    old.commit()
    old.close()
    db = store.open_store(path)
    assert (store.named(db, "x").text, store.named(db, "x").favourite) == ("", False)
    assert store.claim(db, "w")[0].name == "x"
    store.enqueue(db, [NewJob(1, name="y")])
    assert store.claim(db, "w")[0].name == "y"
    db.close()


def test_an_order_changes_nobody_elses_turn(db: sqlite3.Connection) -> None:
    ids = store.enqueue(db, [NewJob(i, str(i), owner="ab"[i % 2], priority=int(i == 4)) for i in range(5)])
    store.reorder(db, [ids[2], ids[0], ids[4]])
    assert [job.id for job in store.waiting(db, "a", 9)] == [ids[2], ids[0], ids[4]]
    assert [store.place(db, one) for one in (ids[2], ids[0], ids[1], ids[4], ids[3])] == [0, 1, 2, 3, 4]
    store.enqueue(db, [NewJob(9, "9", owner="a")])
    assert [store.claim(db, "w")[0].id for _ in range(3)] == [ids[2], ids[1], ids[0]]
    store.reorder(db, [ids[2], ids[3]])  # one runs, one waits
    assert store.get(db, ids[2]).state == "running"
