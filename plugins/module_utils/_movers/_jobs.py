# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""Slots that the engine itself moves: start a job, wait for its end, start the next one.

What Redis and Valkey have in common; their own commands are in redis_atomic and valkey_atomic.
"""

from __future__ import annotations

import math
import time
import typing as t
from contextlib import nullcontext
from dataclasses import dataclass, replace

from ansible_collections.keyslot.redis.plugins.module_utils._cluster import Cluster
from ansible_collections.keyslot.redis.plugins.module_utils._errors import (
    KeyslotError,
    LostConnection,
    NotThisWay,
    ReplyError,
    Stopped,
    Unreachable,
)
from ansible_collections.keyslot.redis.plugins.module_utils._lane import Lane, Pace
from ansible_collections.keyslot.redis.plugins.module_utils._movers._emptied import (
    kept_as_primary,
)
from ansible_collections.keyslot.redis.plugins.module_utils._plan import Move
from ansible_collections.keyslot.redis.plugins.module_utils._resp import Command, Reply
from ansible_collections.keyslot.redis.plugins.module_utils._server import Server, text
from ansible_collections.keyslot.redis.plugins.module_utils._slots import (
    format_slots,
    from_ranges,
    to_ranges,
)
from ansible_collections.keyslot.redis.plugins.module_utils._topology import (
    Topology,
    View,
    parse_info,
    parse_view,
)

T = t.TypeVar("T")

# Each job costs a fork, a pause and a poll or two: many small ones are as bad as a huge one, whose
# clean-up holds the source up.
FIRST_JOB_KEYS = 50000
MOST_JOB_KEYS = 500000
TRIES = 3
# Seconds between two looks at a job, and how it grows: a small job takes 0.1 s, and the next one
# waits until its end is seen.
FIRST_PAUSE, LONGEST_PAUSE, LONGER = 0.02, 0.25, 1.1


@dataclass(frozen=True)
class Job:
    """A migration job as an engine tells it.

    `over`: nothing more will happen; `done`: the target owns the slots; `hopeless`: the engine
    tries for ever, and has failed often enough. `progress` changes as long as it gets on; where
    `left` is told, bytes that wait for a moment without writes, only a new least one counts.
    """

    id: str
    source: str
    target: str
    slots: frozenset[int]
    state: str
    over: bool
    done: bool
    message: str
    progress: t.Hashable = None
    left: int | None = None
    hopeless: bool = False


@dataclass(frozen=True)
class Engine:
    """What differs between the engines.

    `start` returns the new job's id, `look` the jobs from the lane's source to its target, newest
    first, `cancel` asks for the end of one. `verdict` says what a failure means: `again`, `wait`
    (until someone else is done), `other way` (it will not pass) or `stop` (data may be at risk, or
    the cluster has changed). `alone` names the nodes that can take part in one job only, `arrived`
    the field of the target's INFO that grows with every byte that a job brings.
    """

    start: t.Callable[[Lane, t.Sequence[int]], str]
    look: t.Callable[[Lane], list[Job]]
    cancel: t.Callable[[Lane, Job], None]
    verdict: t.Callable[[Job], str]
    alone: t.Callable[[Lane], t.Sequence[str]]
    arrived: str
    last_slot_alone: bool


def move_in_jobs(engine: Engine, lane: Lane) -> None:
    """Moves the lane's slots job by job; first waits for one that is under way already.

    Raises NotThisWay when this lane's jobs fail for a reason that will not pass.
    """
    pace = Pace(lane.movement.max_pause_ms / 1000, FIRST_JOB_KEYS, MOST_JOB_KEYS)
    todo = sorted(lane.move.slots)
    tries = 0
    since = time.monotonic()
    while todo:
        with lane.busy.holding(*engine.alone(lane)):
            running = _running(engine, lane, todo)
            taken = _take_stock(lane, todo) if running is None else set()
            todo = [slot for slot in todo if slot not in taken]
            if running is None and (lane.shall_stop() or not todo):
                return
            slots = sorted(running.slots) if running else _next_slots(engine, lane, todo, pace)
            ended = _run_job(engine, lane, slots, running, pace)
            taken = _take_stock(lane, todo)
        todo = [slot for slot in todo if slot not in taken]
        if ended is None:
            return
        if ended.done and taken:
            tries, since = 0, time.monotonic()
            continue
        tries += 1
        _judge(engine, lane, ended, tries, time.monotonic() - since)


def _running(engine: Engine, lane: Lane, todo: list[int]) -> Job | None:
    told = _again(lambda: engine.look(lane))
    jobs = [job for job in told if not job.over and job.slots.intersection(todo)]
    for job in jobs:
        if not job.slots.issubset(lane.move.slots):
            raise Stopped(
                f"somebody else has begun to move slots {', '.join(format_slots(job.slots))} from "
                f"{lane.name}. Let that end, then run it again."
            )
    return jobs[0] if jobs else None


def _again(ask: t.Callable[[], T]) -> T:
    """What a question is answered with; it is asked again after the connection was lost."""
    try:
        return ask()
    except LostConnection:
        return ask()


def _next_slots(engine: Engine, lane: Lane, todo: list[int], pace: Pace) -> list[int]:
    """As many as hold no more keys than the pace allows, at least one; on engines that want it the
    source's last slot alone."""
    keys = 0
    slots: list[int] = []
    for slot in todo:
        keys += lane.key_counts[slot]
        if slots and keys > pace.size:
            break
        slots.append(slot)
    takes_all = len(slots) == lane.donor.slots_left
    return slots[:-1] if engine.last_slot_alone and takes_all and len(slots) > 1 else slots


def _run_job(
    engine: Engine, lane: Lane, slots: list[int], running: Job | None, pace: Pace
) -> Job | None:
    """Starts the job (unless one runs) and returns how it ended; None if the time was up.

    A slice leaves it running then, for the next one, unless it takes the source's last slots: that
    has to be guarded to its end.
    """
    takes_last = len(slots) == lane.donor.slots_left
    with kept_as_primary(lane) if takes_last else nullcontext():
        try:
            job_id = running.id if running else _begin(engine, lane, slots)
        except ReplyError as exc:
            time.sleep(LONGEST_PAUSE)
            ids = (lane.move.source, lane.move.target)
            return Job("", *ids, frozenset(slots), "refused", True, False, exc.text)
        ended, longest = _wait(engine, lane, job_id, slots, lane.leaves_jobs and not takes_last)
        if ended is not None and ended.done:
            _wait_until_owned(lane, slots)
    lane.tally.pause(longest)
    pace.took(longest, sum(lane.key_counts[slot] for slot in slots))
    return ended


def _begin(engine: Engine, lane: Lane, slots: list[int]) -> str:
    """The id of the new job; if the connection was lost, it may have begun all the same."""
    try:
        return engine.start(lane, slots)
    except LostConnection:
        begun = _running(engine, lane, slots)
        if begun is None:
            raise
        return begun.id


def _wait(
    engine: Engine, lane: Lane, job_id: str, slots: list[int], may_leave: bool
) -> tuple[Job | None, float]:
    """How the job ended, None if it was cancelled, or left running, because the time was up; and
    the longest time, in seconds, that a node let us wait for an answer.

    Raises Stopped if it makes no progress for `wait_timeout`, after it has been cancelled.
    """
    pause, longest, least = FIRST_PAUSE, 0.0, math.inf
    last: Job | None = None
    moved_on = time.monotonic()
    reason = ""
    while True:
        time.sleep(pause)
        pause = min(pause * LONGER, LONGEST_PAUSE)
        asked = time.monotonic()
        job = _look_for(engine, lane, job_id)
        longest = max(longest, time.monotonic() - asked)
        if job is not None and job.left is not None:
            moved_on = time.monotonic() if job.left < least else moved_on
            least = min(least, job.left)
        elif job is not None and (last is None or job.progress != last.progress):
            moved_on = time.monotonic()
        if job is not None and job.over:
            if reason == "stuck" and not job.done:
                raise Stopped(_stuck_text(lane, slots, last))
            message = job.message or (last.message if last else "")
            state = last.state if reason == "hopeless" and last and not job.done else job.state
            ended = replace(job, message=message, state=state)
            return (None if reason == "late" and not job.done else ended), longest
        last = job or last
        if may_leave and not reason and lane.is_late():
            lane.slots_going = tuple(slots)
            return None, longest
        stuck = time.monotonic() - moved_on > lane.movement.wait_timeout
        if stuck and (reason or job is None):
            raise Stopped(_stuck_text(lane, slots, last))
        if job is not None and not reason:
            reason = _reason_to_cancel(lane, job, stuck)
            if reason:
                engine.cancel(lane, job)
                moved_on = time.monotonic()


def _reason_to_cancel(lane: Lane, job: Job, stuck: bool) -> str:
    if stuck:
        return "stuck"
    if job.hopeless:
        return "hopeless"
    return "late" if lane.is_late() and not lane.leaves_jobs else ""


def _look_for(engine: Engine, lane: Lane, job_id: str) -> Job | None:
    """The job, or None if a node does not answer just now: asking again is harmless.

    Raises Stopped if the node answers and does not know the job: it forgets them in a restart.
    """
    try:
        job = next((job for job in engine.look(lane) if job.id == job_id), None)
    except (LostConnection, Unreachable):
        return None
    if job is None:
        raise Stopped(
            f"the atomic migration from {lane.name} is gone: the node that was asked for it has "
            "been restarted. Look at both nodes, then run it again."
        )
    return job if job.over else replace(job, progress=(job.progress, _arrived(engine, lane)))


def _arrived(engine: Engine, lane: Lane) -> str | None:
    """A job's state tells nothing of its snapshot, which may take minutes; the bytes do."""
    try:
        return parse_info(text(lane.target.call("INFO", "stats"))).get(engine.arrived)
    except (LostConnection, Unreachable):
        return None


def _stuck_text(lane: Lane, slots: list[int], job: Job | None) -> str:
    told = f"{job.state} {job.message}".strip() if job else "nothing is known of it any more"
    why = (
        f"the atomic migration of slots {', '.join(format_slots(slots))} from {lane.name} made no "
        f"progress for {lane.movement.wait_timeout:g} s ({told}) and was given up. Run it again; "
        "what has moved stays moved."
    )
    if job is None or job.left is None:
        return why
    return f"{why} Where clients never stop writing, raise slot-migration-max-failover-repl-bytes."


def _take_stock(lane: Lane, todo: list[int]) -> set[int]:
    """Those of the slots that the target owns by now; they count as moved."""
    taken = set(from_ranges(_view(lane.target).me.ranges)).intersection(todo)
    _count(lane, sorted(taken))
    return taken


def _view(server: Server) -> View:
    return parse_view(text(_again(lambda: server.call("CLUSTER", "NODES"))))


def _wait_until_owned(lane: Lane, slots: list[int]) -> None:
    """Until target and source both say that the slots are the target's, `wait_timeout` at most:
    what they still say then is seen when all is done."""
    deadline = time.monotonic() + lane.movement.wait_timeout
    while time.monotonic() < deadline:
        views = [_view(server) for server in (lane.target, lane.source)]
        if all(view.owners[slot] == lane.move.target for view in views for slot in slots):
            return
        time.sleep(FIRST_PAUSE)


def _count(lane: Lane, slots: list[int]) -> None:
    """As moved, also those of a job that was left running and has ended since."""
    lane.slots_going = tuple(slot for slot in lane.slots_going if slot not in slots)
    lane.donor.slots_left -= len(slots)
    lane.slots_done.extend(slots)
    lane.keys_moved += sum(lane.key_counts[slot] for slot in slots)


def _judge(engine: Engine, lane: Lane, job: Job, tries: int, seconds: float) -> None:
    """Returns if the job is worth another try."""
    verdict = engine.verdict(job)
    told = (
        f"the atomic migration of slots {', '.join(format_slots(job.slots))} from {lane.name} "
        f"ended as '{job.state}': {job.message or 'no reason given'}."
    )
    if verdict == "stop" or (verdict == "wait" and seconds > lane.movement.wait_timeout):
        raise Stopped(f"{told} What has moved stays moved; look at both nodes, then run it again.")
    if verdict == "other way" or (verdict == "again" and tries >= TRIES):
        raise NotThisWay(told)


def ranges_of(slots: t.Iterable[int]) -> list[int]:
    """start, end, start, end… with neighbours merged: Redis 8.4.0 fails adjacent ranges of one
    task with a blocking delete (redis #14637)."""
    return [number for pair in to_ranges(slots) for number in pair]


def parse_ranges(told: str) -> frozenset[int]:
    """The slots of `0-10 20`."""
    pairs = (part.partition("-") for part in told.split())
    return frozenset(from_ranges((int(a), int(b or a)) for a, _dash, b in pairs))


def lacking(
    cluster: Cluster,
    topology: Topology,
    move: Move,
    family: str,
    command: str,
    probes: t.Sequence[Command],
) -> str | None:
    """Why the engine's own way can't be taken between these nodes: one of them or of their
    replicas does not have the command, or does not let us use it."""
    reports = topology.reports
    ids = [
        node
        for primary in (move.source, move.target)
        for node in (primary, *(line.id for line in topology.replicas_of(primary)))
        if node in reports
    ]
    question: Command = ("COMMAND", "INFO", command)
    answers = cluster.tell([node for node in ids if reports[node].family == family], [question])
    for node, answer in answers.items():
        if not isinstance(answer, KeyslotError) and isinstance(answer[0], ReplyError):
            return f"{topology.name(node)} can't be asked for it: {answer[0]}"
    strangers = [node for node in ids if node not in answers or not _knows(answers[node])]
    if strangers:
        report = reports[strangers[0]]
        name = topology.name(strangers[0])
        return f"{name} ({report.family} {report.version}) has no CLUSTER {_word(command)}"
    asked = [node for node in (move.source, move.target) if node in reports]
    for node, answer in cluster.tell(asked, probes).items():
        for reply in [answer] if isinstance(answer, KeyslotError) else answer:
            if isinstance(reply, ReplyError) and reply.code == "NOPERM":
                name = topology.name(node)
                return (
                    f"the user '{reply.user}' may not run {reply.command} on {name} (it lacks "
                    f"{reply.grant})"
                )
    return None


def _knows(answer: list[Reply] | KeyslotError) -> bool:
    """Whether a COMMAND INFO answer describes a command."""
    if isinstance(answer, KeyslotError):
        return False
    told = answer[0]
    return any(told.values() if isinstance(told, dict) else told)


def _word(command: str) -> str:
    return command.partition("|")[2].upper()
