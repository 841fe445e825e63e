"""Who is at fault when ranks no longer hear of one another: here they are watches in one process, on one store."""

import os
import threading
import time
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from dalib import watch
from dalib.watch import Watch

BROKEN = RuntimeError("[pair.cc:547] Connection closed by peer\nand more")


@pytest.fixture
def store(monkeypatch):
    for name, seconds in {"BEAT": 0.1, "PAUSE": 0.01, "SILENCE": 0.8, "COURTESY": 0.3, "SIGNALLED": 0.4}.items():
        monkeypatch.setattr(watch, name, seconds)
    return TCPStore("127.0.0.1", 0, is_master=True)


@pytest.fixture
def started(store):
    """Return a function that makes the watches of ranks that live."""
    made = []

    def start(world, patience=60.0, living=None):
        made.extend(Watch(store, 0, rank, world) for rank in range(world))
        for each in made[:living]:
            each.start(timedelta(seconds=60), patience)
        return made

    yield start
    for each in made:
        each.close()


@pytest.fixture
def ended(monkeypatch):
    """The status with which a thread would end the process, once it does."""
    status, came, over = [], threading.Event(), threading.Event()

    def end(number):
        status.append(number)
        came.set()
        over.wait()  # as the end of a process, it does not return

    monkeypatch.setattr(os, "_exit", end)
    yield lambda seconds=10: came.wait(seconds) and status
    over.set()


def test_a_silent_rank_is_named_with_its_last_step(started):
    first, second, third = started(3, living=2)
    third.stepped(7)
    third._publish()
    error = first.lost(BROKEN)
    assert str(error).startswith("rank 2 on ") and "whose last step was 7: nothing more is heard of it" in str(error)
    assert not error.told and error.signal == 0
    told = second.lost(BROKEN)
    assert told.told and str(told).startswith("rank 0 on ")


def test_a_rank_that_has_begun_fewer_collectives_hangs(started):
    first, second = started(2)
    first.called()
    second.stepped(3)
    time.sleep(0.3)
    assert "rank 1 on " in str(error := first.lost(BROKEN)) and "whose last step was 3: the others wait" in str(error)


def test_where_all_live_the_first_line_of_the_reason_is_told(started):
    first, _ = started(2)
    expected = "the ranks have lost one another, though all of them are alive: [pair.cc:547] Connection closed by peer"
    assert str(first.lost(BROKEN)) == expected


def test_a_rank_that_ends_by_itself_tells_why_and_the_others_do_not_look_for_another(started):
    first, second = started(2)
    second.leave()
    error = first.lost(BROKEN)
    assert "rank 1 on " in str(error) and "has ended the job" in str(error)
    assert not error.told and error.signal == 0  # rank 0 has more to say: that it has saved


def test_a_rank_that_a_signal_has_ended_passes_it_on(started):
    first, second = started(2)
    second.leave(15)
    assert first.lost(BROKEN).signal == 15


def test_without_an_error_only_silent_ranks_count(started):
    first, second = started(2)
    second.called()
    assert first.lost() is None
    second.close()
    time.sleep(0.3)
    assert "rank 1 on " in str(first.lost())


def test_the_others_leave_it_to_rank_0_to_tell(started):
    first, second, third = started(3, living=2)
    said = []
    thread = threading.Thread(target=lambda: said.append(second.lost(BROKEN)))
    thread.start()
    own = first.lost(BROKEN)
    thread.join()
    assert not own.told and said[0].told and "rank 2 on " in str(own)
    assert third.first_to_say("x") and not first.first_to_say("x")


@pytest.mark.parametrize("signalled", [False, True])
def test_a_rank_that_waits_in_vain_for_a_dead_one_is_ended_by_its_thread(signalled, started, ended, capfd):
    first, _ = started(2, patience=60 if signalled else 0.4, living=1)
    if signalled:
        first.signalled()
    assert ended() == [1]
    assert capfd.readouterr().err.startswith("dalib: rank 1 on ")


def test_a_rank_that_moves_on_is_not_ended(started, ended):
    first, _ = started(2, patience=0.5, living=1)
    for _ in range(20):
        first.called()
        time.sleep(0.05)
    assert not ended(0)


def test_long_work_of_all_ranks_is_not_taken_for_a_hang(started, ended):
    started(2, patience=0.3)
    assert not ended(1.5)


def test_after_a_signal_a_rank_that_is_late_is_waited_for(started, ended):
    first, second = started(2)
    for each in (first, second):
        each.signalled()
    second.called()  # rank 0 may be saving
    assert not ended(1.5)


def test_after_a_signal_a_rank_that_hangs_ends_with_the_job(started, ended, capfd):
    first, second = started(2, living=1)
    second.leave()
    first.signalled()
    assert ended() == [1] and capfd.readouterr().err == ""


def test_where_the_store_is_gone_that_is_told(started, store):
    first, _ = started(2)
    first._store.set_timeout(timedelta(seconds=1))
    first._world = 3  # whose sign never comes, as none does without a store
    assert str(first.lost(BROKEN)) == watch.STORE_GONE


def test_a_restarted_job_knows_whether_it_had_begun(store):
    assert not Watch(store, 1, 0, 1).restarted and not Watch(store, 2, 0, 1).restarted
    Watch(store, 2, 0, 1).begun()
    assert Watch(store, 3, 0, 1).restarted
