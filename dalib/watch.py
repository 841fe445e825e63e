"""Who is at fault when the ranks of a job no longer hear of one another."""

import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from torch.distributed.distributed_c10d import PrefixStore, Store

from dalib.errors import RankError

BEAT = 1.0  # seconds between two signs of life, at most
PAUSE = 0.1  # at least, however fast the steps are
SILENCE = 3.5 * BEAT  # after so long a rank is taken for dead or stopped
COURTESY = 2.0  # seconds in which the others leave it to rank 0 to say what has happened
SIGNALLED = 10.0  # seconds without progress after a signal, until dead ranks are looked for
STORE_GONE = "the job's store is gone, and with it torchrun on the host of rank 0, or that host."
_STDERR = 2
_BEGUN = "dalib has begun"


@dataclass
class Sign:
    """A rank's sign of life: where it runs, the last step that it completed, and how many collectives it has begun.

    Fields:
        ended: it has ended by an error or a signal of its own, or by another rank's.
        signal: the number of the signal that ended it, else 0.
    """

    host: str
    step: int = 0
    calls: int = 0
    beat: int = 0
    ended: bool = False
    signal: int = 0


class Watch:
    """Publishes this rank's signs of life in the job's store, and finds the rank that the others wait for in vain.

    A daemon thread writes after each step, and once a second: the process of a silent rank is dead or stopped, while
    one that hangs is heard from and falls behind. Where this rank itself waits in a call that never returns, the thread
    ends the process.

    Args:
        store: the job's, which outlives its restarts. start: the number of this start.

    Attributes:
        restarted: the job was started again after it had begun its work.
        timeout: of every collective, once it is known.
    """

    def __init__(self, store: Store, start: int, rank: int, world: int) -> None:
        own = store.clone()  # a connection of its own: the other one may wait
        self.restarted = own.check([_BEGUN])
        self.timeout: timedelta | None = None
        self._job, self._store = own, PrefixStore(f"watch {start}", own)
        self._rank, self._world = rank, world
        self._sign = Sign(socket.gethostname())
        self._lock = threading.RLock()
        self._woken, self._closed = threading.Event(), False
        self._thread: threading.Thread | None = None
        self._signalled = False
        self._publish()

    def start(self, timeout: timedelta, patience: float) -> None:
        """Watch from here on, when all ranks have joined.

        Args:
            timeout: of every collective. patience: seconds without progress until lost ranks are looked for.
        """
        self.timeout = timeout
        self._thread = threading.Thread(target=self._watch, args=(patience,), daemon=True)
        self._thread.start()

    def begun(self) -> None:
        """Note that the job has begun its work, so that it goes on with it when it is restarted."""
        self._job.set(_BEGUN, "")

    def close(self) -> None:
        """Stop watching."""
        self._closed = True
        self._woken.set()
        if self._thread:
            self._thread.join(2 * SILENCE)

    def stepped(self, step: int) -> None:
        """Note the number of the last complete step."""
        self._sign.step = step
        self._woken.set()

    def called(self) -> None:
        """Note that a collective begins."""
        self._sign.calls += 1

    def signalled(self) -> None:
        """Note that a signal asks this process to end, so that it does not wait long for dead ranks."""
        self._signalled = True

    def first_to_say(self, message: str) -> bool:
        """Return whether no other rank has said this message."""
        try:
            return self._claim(f"said {message}")
        except RuntimeError:  # the store is gone with its host
            return True

    def leave(self, signal: int = 0) -> None:
        """Note that this rank ends by an error of its own, or by a signal, and tells the user."""
        with self._lock, suppress(RuntimeError):  # the store is gone with its host
            self._end(signal)
            self._claim("failed")

    def lost(self, error: Exception | None = None) -> RankError | None:
        """Return the error to raise where a collective failed with ``error``; without one, where ranks are silent."""
        with self._lock:
            try:
                silent, behind = ([], []) if error else self._missing()
                if not error and not silent:
                    return None
                self._end()
                self._await_rank_0()
                if not self._claim("failed"):
                    teller = int(self._store.get("failed"))
                    of = self._read()[teller]
                    message = f"rank {teller} on {of.host} has ended the job, its last step was {of.step}."
                    return RankError(message, told=self._rank > 0, signal=of.signal)
                silent, behind = self._missing() if error else (silent, behind)
            except RuntimeError:
                return RankError(STORE_GONE)
        return RankError(self._said(silent, behind, error))

    def _said(self, silent: list[str], behind: list[str], error: Exception | None) -> str:
        if silent:
            return f"{_listed(silent)} nothing more is heard of it: its process has ended, or is stopped."
        if behind:
            return f"{_listed(behind)} the others wait for it in vain: it hangs, or takes longer than train.timeout."
        reason = str(error).strip().partition("\n")[0]
        return f"the ranks have lost one another, though all of them are alive: {reason}"

    def _missing(self) -> tuple[list[str], list[str]]:
        """Return the silent ranks, and those that others wait for, as text."""
        before, end = self._read(), time.monotonic() + SILENCE
        while time.monotonic() < end:  # the others may look for this one, too
            time.sleep(BEAT / 2)
            self._publish()
        after = self._read()
        pairs = list(enumerate(zip(before, after, strict=True)))
        silent = [r for r, (was, now) in pairs if was.beat == now.beat and not now.ended and r != self._rank]
        most = max(now.calls for now in after)
        late = [r for r, (_, now) in pairs if now.calls < most and not now.ended and r != self._rank]
        silent_said, late_said = (
            [f"rank {r} on {after[r].host}, whose last step was {after[r].step}" for r in of] for of in (silent, late)
        )
        return silent_said, late_said

    def _watch(self, patience: float) -> None:
        progress, since = (-1, -1), 0.0
        while not self._closed:
            time.sleep(PAUSE)
            self._woken.wait(BEAT - PAUSE)
            self._woken.clear()
            with suppress(RuntimeError):  # the store is gone; the others may be there
                self._publish()
            if progress != (now := (self._sign.step, self._sign.calls)):
                progress, since = now, time.monotonic()
            if time.monotonic() - since > (SIGNALLED if self._signalled else patience) and not self._sign.ended:
                if self._in_vain() and not self._closed:
                    os._exit(1)  # the main thread is in a call that does not return
                since = time.monotonic()

    def _in_vain(self) -> bool:
        """Return whether this rank waits for one that is lost, and then tell the user."""
        try:
            with self._lock:
                if self._signalled and self._store.check(["failed"]):  # the job ends, and this rank hangs
                    return True
                silent, behind = self._missing()
                behind = [] if self._signalled else behind  # rank 0 may be saving
                if not (silent or behind) or self._sign.ended or self._closed:
                    return False
                self._end()
                self._await_rank_0()
                said = self._said(silent, behind, None) if self._claim("failed") else ""
        except RuntimeError:
            said = STORE_GONE
        if said and not self._closed:
            os.write(_STDERR, f"dalib: {said}\n".encode())
        return True

    def _await_rank_0(self) -> None:
        end = time.monotonic() + COURTESY
        while self._rank and not self._store.check(["failed"]) and time.monotonic() < end:
            time.sleep(0.05)

    def _claim(self, what: str) -> bool:
        """Return whether this rank is the first that claims it."""
        return self._store.compare_set(what, "", str(self._rank)) == str(self._rank).encode()

    def _end(self, signal: int = 0) -> None:
        self._sign.ended, self._sign.signal = True, signal
        self._publish()

    def _publish(self) -> None:
        with self._lock:
            self._sign.beat += 1
            self._store.set(str(self._rank), json.dumps(asdict(self._sign)))

    def _read(self) -> list[Sign]:
        values: list[Any] = self._store.multi_get([str(rank) for rank in range(self._world)])
        return [Sign(**json.loads(value)) for value in values]


def _listed(ranks: list[str]) -> str:
    more = f", and {len(ranks) - 3} more" if len(ranks) > 3 else ""
    return f"{'; '.join(ranks[:3])}{more}:"
