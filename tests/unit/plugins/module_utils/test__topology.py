# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.keyslot.redis.plugins.module_utils._errors import OptionError
from ansible_collections.keyslot.redis.plugins.module_utils._slots import (
    SLOT_COUNT,
    format_slots,
    to_ranges,
)
from ansible_collections.keyslot.redis.plugins.module_utils._topology import (
    OpenSlot,
    Report,
    Topology,
    format_address,
    parse_info,
    parse_line,
    parse_view,
    split_address,
    version_tuple,
)

quick = settings(deadline=None, max_examples=40)

# What real servers answered: each file has sections of CLUSTER NODES by who was asked, and of INFO.
# Slots 42 and 43 are on their way from donor to taker; one of three shards is down in `failing`.
ANSWERS = Path(__file__).with_name("cluster_nodes")
ENGINES = ("redis-6.2", "redis-7.0", "redis-8.0", "redis-8.6", "valkey-8.1", "valkey-9.1")
VIEWS = ("donor", "taker", "donor-replica", "taker-replica")

A, B, C, D = ("aaaaaaaa" + "1" * 32, "bbbbbbbb" + "2" * 32, "cccccccc" + "3" * 32, "d" * 40)


def answers(engine: str) -> dict[str, str]:
    text = (ANSWERS / f"{engine}.txt").read_text(encoding="utf-8")
    parts = (part.partition("\n") for part in text.split("=== ")[1:])
    return {name: body for name, _newline, body in parts}


def row(
    node_id: str, *slots: str, flags: str = "master", of: str = "-", epoch: int = 1, at: str = ""
) -> str:
    """One line of CLUSTER NODES; nodes a, b, c have addresses 10.0.0.10, .11, .12."""
    address = at or f"10.0.0.{int(node_id[0], 16)}:6379@16379"
    return " ".join(
        [node_id, address, flags, of, "0", "1795226035257", str(epoch), "connected"]
    ) + (" " + " ".join(slots) if slots else "")


def report(*rows: str, **info: str) -> Report:
    """What a node says whose own line comes first."""
    first = rows[0].split(" ", 3)
    own = " ".join([first[0], first[1], f"myself,{first[2]}", first[3]])
    view = parse_view("\n".join([own, *rows[1:]]))
    return Report(view=view, cluster_info={"cluster_state": "ok"}, info=info, config={})


def cluster(*reports: Report, missing: t.Mapping[str, str] | None = None) -> Topology:
    return Topology({r.id: r for r in reports}, missing or {}, reports[0].id)


def three_primaries() -> Topology:
    a, b, c = row(A, "0-5460"), row(B, "5461-10922", epoch=2), row(C, "10923-16383", epoch=3)
    return cluster(report(a, b, c), report(b, a, c), report(c, a, b))


# Real answers


@pytest.mark.parametrize("engine", ENGINES)
def test_real_cluster_with_open_slots(engine: str) -> None:
    told = answers(engine)
    reports = [
        Report(parse_view(told[who]), parse_info(told["cluster-info"]), {}, {}) for who in VIEWS
    ]
    asked = [report.id for report in reports]
    others = [node_id for node_id in reports[0].view.lines if node_id not in asked]
    topology = cluster(*reports, missing=dict.fromkeys(others, "not asked."))
    donor, taker, donor_replica, taker_replica = asked
    assert topology.agreed
    assert topology.disagreements() == []
    assert len(topology.lines) == 6
    assert topology.slots[donor] == list(range(5461))
    assert topology.slots[taker] == list(range(5461, 10923))
    assert len(topology.primaries) == 3
    assert topology.uncovered == []
    assert [line.id for line in topology.replicas_of(donor)] == [donor_replica]
    assert topology.lines[taker_replica].primary_id == taker
    assert sorted(topology.open_slots, key=lambda o: (o.slot, o.kind)) == [
        OpenSlot(42, taker, "importing", donor),
        OpenSlot(42, donor, "migrating", taker),
        OpenSlot(43, taker, "importing", donor),
        OpenSlot(43, donor, "migrating", taker),
    ]
    replicated = {"replica_migrating_slot", "replica_importing_slot"}
    kinds = {problem.kind for problem in topology.problems()}
    assert kinds - replicated == {"unreachable", "migrating_slot", "importing_slot"}
    assert (kinds >= replicated) == engine.startswith("valkey")


@pytest.mark.parametrize("engine", ENGINES)
def test_real_addresses(engine: str) -> None:
    line = parse_view(answers(engine)["donor"]).me
    assert line.host == "127.0.0.1"
    assert line.bus_port == line.port + 10000
    assert line.hostname == ("" if engine == "redis-6.2" else "node.keyslot.example")
    assert line.linked
    assert line.epoch >= 1


@pytest.mark.parametrize("engine", ENGINES)
def test_real_node_that_is_alone_has_no_host(engine: str) -> None:
    view = parse_view(answers(engine)["alone"])
    assert list(view.lines) == [view.id]
    assert (view.me.host, view.me.epoch, view.me.slots_text) == ("", 0, ())
    assert view.me.port > 0
    assert view.owners == [None] * SLOT_COUNT


@pytest.mark.parametrize("engine", ENGINES)
def test_real_ipv6(engine: str) -> None:
    view = parse_view(answers(engine)["ipv6"])
    (other,) = (line for line in view.lines.values() if line.id != view.id)
    assert {view.me.host, other.host} == {"::1"}
    assert other.ranges == ((1, 3), (7, 7))
    topology = cluster(Report(view, {}, {}, {}), missing={other.id: "gone."})
    for reference in (f"[::1]:{other.port}", f"::1:{other.port}"):
        assert topology.find(reference, {}) == other.id
    assert topology.name(other.id) == f"[::1]:{other.port} ({other.id[:8]})"


@pytest.mark.parametrize("engine", ENGINES)
def test_real_node_without_address(engine: str) -> None:
    view = parse_view(answers(engine)["noaddr"])
    (lost,) = (line for line in view.lines.values() if "noaddr" in line.flags)
    assert (lost.host, lost.port, lost.linked) == ("", 0, False)


@pytest.mark.parametrize("engine", ENGINES)
def test_real_handshake_is_no_member(engine: str) -> None:
    text = answers(engine)["handshake"]
    (stranger,) = (row.split()[0] for row in text.splitlines() if "handshake" in row)
    view = parse_view(text)
    assert len(view.lines) == 6
    assert stranger not in view.lines


@pytest.mark.parametrize("engine", ENGINES)
def test_real_failing_nodes(engine: str) -> None:
    view = parse_view(answers(engine)["failing"])
    failing = {line.id: line for line in view.lines.values() if {"fail", "fail?"} & line.flags}
    assert len(failing) == 2
    assert not any(line.linked for line in failing.values())
    (primary,) = (line for line in failing.values() if line.is_primary)
    assert primary.ranges == ((10923, 16383),)
    assert view.owners[16383] == primary.id


@pytest.mark.parametrize("engine", ENGINES)
def test_real_info(engine: str) -> None:
    told = answers(engine)
    real = Report(
        parse_view(told["donor"]), parse_info(told["cluster-info"]), parse_info(told["info"]), {}
    )
    family, version = engine.split("-")
    assert real.family == family
    assert version_tuple(real.version) == version_tuple(version)
    assert real.state_ok
    assert real.link_up
    assert real.epoch == real.view.me.epoch
    assert real.setslot_waits == (family == "valkey")


# Generated clusters


@st.composite
def generated(draw: st.DrawFn) -> tuple[str, list[str | None]]:
    """A CLUSTER NODES text, and who owns what in it."""
    ids = draw(
        st.lists(
            st.text("0123456789abcdef", min_size=40, max_size=40),
            unique=True,
            min_size=1,
            max_size=6,
        )
    )
    owners: list[str | None] = [None] * SLOT_COUNT
    start = 0
    for length, owner in draw(
        st.lists(st.tuples(st.integers(1, 4000), st.sampled_from([*ids, None])), max_size=12)
    ):
        end = min(SLOT_COUNT, start + length)
        owners[start:end] = [owner] * (end - start)
        start = end
    address = st.sampled_from(
        [
            "10.0.0.1:6379@16379",
            ":6379@16379",
            "::1:7@17,",
            "fe80::2:7001@17001,n.example",
            "10.0.0.1:6379",
            "1.2.3.4:6379@16379,n.example,shard-id=0123,tls-port=7",
            ":0@0",
        ]
    )
    flags = st.sampled_from(["master", "master,fail?", "master,nofailover", "master,brandnew"])
    rows = []
    for number, node_id in enumerate(ids):
        slots = [s for s, owner in enumerate(owners) if owner == node_id]
        own = "myself," if not number else ""
        extras = draw(
            st.lists(
                st.sampled_from(
                    [
                        "[5->-" + "e" * 40 + "]",
                        "[6-<-" + "e" * 40 + "]",
                        "[7~~x]",
                        "[job:1]",
                        "az=eu-1",
                    ]
                )
            )
        )
        rows.append(
            row(
                node_id,
                *format_slots(slots),
                *extras,
                flags=own + draw(flags),
                epoch=draw(st.integers(0, 2**62)),
                at=draw(address),
            )
        )
    return "\n".join(draw(st.permutations(rows))) + "\n", owners


@quick
@given(generated())
def test_a_generated_text_gives_its_slots_back(case: tuple[str, list[str | None]]) -> None:
    text, owners = case
    view = parse_view(text)
    assert view.owners == owners
    for line in view.lines.values():
        slots = [slot for slot, owner in enumerate(owners) if owner == line.id]
        assert line.ranges == to_ranges(slots)
        assert line.is_primary


def test_what_later_versions_may_add_is_let_be() -> None:
    line = parse_line(
        f"{A} 10.0.0.1:6379@16379,host.example,shard-id=abc,az=eu-1 master,shiny,fail? - 0 0 7 "
        "connected 0-5 9 [7->-peer] [8-<-peer] [9~~peer] [import:10-20] az=eu-1 {more}"
    )
    assert (line.host, line.port, line.hostname, line.epoch) == (
        "10.0.0.1",
        6379,
        "host.example",
        7,
    )
    assert {"master", "shiny", "fail?"} <= line.flags
    assert line.ranges == ((0, 5), (9, 9))
    assert line.migrating == {7: "peer"}
    assert line.importing == {8: "peer"}


words = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_categories=["Z", "C"]),
    min_size=1,
    max_size=12,
)


@st.composite
def of_the_future(draw: st.DrawFn) -> tuple[str, str]:
    """A CLUSTER NODES text, and the same with flags, fields and slot items that nobody knows."""
    text, _owners = draw(generated())
    rows = []
    for line in text.splitlines():
        node_id, address, flags, *middle = line.split()
        # A hostname stands first after the address; what comes later is name=value.
        address += "" if "," in address else ","
        for name, value in draw(st.lists(st.tuples(words, words), max_size=3)):
            address += f",{name}={value}".replace("@", "").replace(":", "")
        for word in draw(st.lists(words, max_size=3)):
            flags += f",x{word}".replace("\n", "")
        kept, extra = middle[:5], middle[5:]
        kept[1:3] = [str(draw(st.integers(0, 2**70))), str(draw(st.integers(0, 2**70)))]
        strange = draw(st.lists(st.sampled_from("[{<(x~").flatmap(unlike_slots), max_size=4))
        rows.append(" ".join([node_id, address, flags, *kept, *extra, *strange]))
    return text, "\n".join(rows)


def unlike_slots(first: str) -> st.SearchStrategy[str]:
    """A word that begins so and is no marker of ours."""
    return words.filter(lambda word: "-" not in word).map(lambda word: first + word)


@quick
@given(of_the_future())
def test_what_nobody_knows_yet_changes_nothing_of_what_is_known(case: tuple[str, str]) -> None:
    today, later = map(parse_view, case)
    assert later.id == today.id
    assert later.owners == today.owners
    for node_id, line in today.lines.items():
        other = later.lines[node_id]
        for name in ("host", "port", "bus_port", "hostname", "primary_id", "epoch", "linked"):
            assert getattr(other, name) == getattr(line, name), name
        assert other.is_primary == line.is_primary
        assert (other.migrating, other.importing) == (line.migrating, line.importing)


@quick
@given(st.text(max_size=200))
def test_what_is_no_list_of_nodes_raises_nothing_but_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_view(text)


@pytest.mark.parametrize(
    "item", ["16384", "0-16384", "99999-5", f"[16384->-{B}]", f"[99999-<-{B}]"]
)
def test_a_slot_beyond_the_last_one_is_refused(item: str) -> None:
    with pytest.raises(ValueError, match="beyond the last one, 16383"):
        parse_line(row(A, item))


@quick
@given(generated(), st.data())
def test_a_text_that_is_cut_off_is_read_or_refused(
    case: tuple[str, list[str | None]], data: st.DataObject
) -> None:
    text, _owners = case
    cut = text[: data.draw(st.integers(0, len(text)))]
    try:
        view = parse_view(cut)
    except ValueError:
        return
    assert view.me.id == view.id


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("10.0.0.1:6379@16379", ("10.0.0.1", 6379, 16379, "")),
        ("10.0.0.1:6379", ("10.0.0.1", 6379, 0, "")),
        ("10.0.0.1:6379@16379,", ("10.0.0.1", 6379, 16379, "")),
        ("10.0.0.1:6379@16379,h.example", ("10.0.0.1", 6379, 16379, "h.example")),
        ("10.0.0.1:6379@16379,,shard-id=1", ("10.0.0.1", 6379, 16379, "")),
        ("10.0.0.1:6379@16379,shard-id=1", ("10.0.0.1", 6379, 16379, "")),
        ("2001:db8::1:6379@16379", ("2001:db8::1", 6379, 16379, "")),
        (":6379@16379", ("", 6379, 16379, "")),
        (":0@0", ("", 0, 0, "")),
    ],
)
def test_addresses_in_all_their_shapes(address: str, parts: tuple[str, int, int, str]) -> None:
    line = parse_line(row(A, at=address))
    assert (line.host, line.port, line.bus_port, line.hostname) == parts


# Owners


def test_all_agree() -> None:
    topology = three_primaries()
    assert topology.agreed
    assert topology.disagreements() == []
    assert topology.problems() == []
    assert topology.slots == {
        A: list(range(5461)),
        B: list(range(5461, 10923)),
        C: list(range(10923, SLOT_COUNT)),
    }


def test_of_two_claims_the_one_of_the_higher_epoch_counts() -> None:
    a, b = row(A, "0-99", epoch=5), row(B, "90-199", epoch=6)
    for topology in (
        cluster(report(a, row(B, "100-199", epoch=6)), report(b, row(A, "0-89", epoch=5))),
        cluster(report(b, row(A, "0-89", epoch=5)), report(a, row(B, "100-199", epoch=6))),
    ):
        assert not topology.agreed
        assert topology.slots == {A: list(range(90)), B: list(range(90, 200))}
        (sentence,) = topology.disagreements()
        assert sentence == (
            "10.0.0.10:6379 (aaaaaaaa) says that slots 90-99 are 10.0.0.10:6379 (aaaaaaaa)'s, "
            "while they are 10.0.0.11:6379 (bbbbbbbb)'s"
        )


def test_hearsay_does_not_outweigh_what_a_node_says_of_itself() -> None:
    """B says that A still has slot 7, whatever the epoch; A, which can be asked, does not claim
    it."""
    topology = cluster(
        report(row(B, "8", epoch=2), row(A, "0-7", epoch=9)),
        report(row(A, "0-6", epoch=9), row(B, "8", epoch=2)),
    )
    assert topology.owners[6:9] == [A, None, B]
    assert topology.disagreements() == [
        "10.0.0.11:6379 (bbbbbbbb) says that slots 7 are 10.0.0.10:6379 (aaaaaaaa)'s, while they "
        "are nobody's"
    ]


def test_a_node_that_knows_nothing_yet_is_named() -> None:
    a, b = row(A, "0-16383"), row(B, epoch=2)
    topology = cluster(report(a, b), report(b, row(A)))
    assert topology.disagreements() == [
        "10.0.0.11:6379 (bbbbbbbb) says that slots 0-16383 are nobody's, while they are "
        "10.0.0.10:6379 (aaaaaaaa)'s"
    ]
    assert [problem.kind for problem in topology.problems()] == ["disagreement"]


def test_slots_of_a_node_that_is_away_are_what_the_others_say() -> None:
    a, b, c = row(A, "0-5460"), row(B, "5461-10922"), row(C, "10923-16383", flags="master,fail")
    topology = cluster(report(a, b, c), report(b, a, c), missing={C: "connection refused."})
    assert topology.agreed
    assert topology.owners[16383] == C
    (problem,) = topology.problems()
    assert (problem.kind, problem.node) == ("unreachable", C)
    assert "10.0.0.12:6379 (cccccccc) can't be reached: connection refused." in problem.message


def test_a_newer_claim_beats_hearsay_of_a_node_that_is_away() -> None:
    c = row(C, "0-9", epoch=3)
    topology = cluster(
        report(row(A, "0-4", epoch=4), row(B), row(C, "5-9", epoch=3)),
        report(row(B), row(A, epoch=1), c),
        missing={C: "gone."},
    )
    assert topology.owners[:11] == [*[A] * 5, *[C] * 5, None]


def test_a_replica_claims_nothing() -> None:
    topology = cluster(
        report(row(A, "0-9"), row(B, flags="slave", of=A)),
        report(row(B, "0-9", flags="slave", of=A, epoch=9), row(A)),
    )
    assert set(topology.owners[:10]) == {A}


def test_an_empty_primary_is_a_primary() -> None:
    topology = cluster(report(row(A, "0-16383"), row(B)), report(row(B), row(A, "0-16383")))
    assert topology.slots[B] == []
    assert [line.id for line in topology.primaries] == [A, B]


def test_a_host_that_a_node_does_not_know_is_what_the_others_call_it() -> None:
    nameless, named = row(A, "0-9", at=":6379@16379"), row(A, "0-9")
    for topology in (
        cluster(report(row(B), named), report(nameless, row(B))),
        cluster(report(nameless, row(B)), report(row(B), named)),
    ):
        assert topology.lines[A].host == "10.0.0.10"
        assert topology.find("10.0.0.10:6379", {}) == A


def test_without_takes_a_node_as_if_it_were_away() -> None:
    a, b, c = row(A, "0-5460"), row(B, "5461-10922"), row(C, "10923-16383")
    away = report(c, a, row(B))
    topology = cluster(away, report(a, b, c), report(b, a, c))
    assert not topology.agreed
    rest = topology.without([C])
    assert rest.agreed
    assert rest.owners == three_primaries().owners
    assert rest.entry == A
    assert list(rest.missing) == [C]
    assert set(rest.lines) == {A, B, C}
    assert topology.entry == C


def test_without_strangers_changes_nothing() -> None:
    topology = three_primaries()
    rest = topology.without([D])
    assert (rest.reports, rest.missing, rest.entry) == (topology.reports, {}, A)


# Problems


def test_markers_of_replicas_are_problems_and_no_open_slots() -> None:
    moving, landing = f"[5->-{B}]", f"[5-<-{A}]"
    topology = cluster(
        report(row(A, "0-9", moving), row(B), row(C, flags="slave", of=A)),
        report(row(B, landing), row(A, "0-9"), row(C, flags="slave", of=A)),
        report(row(C, moving, flags="slave", of=A), row(A, "0-9"), row(B)),
    )
    assert topology.open_slots == [OpenSlot(5, A, "migrating", B), OpenSlot(5, B, "importing", A)]
    found = {(p.kind, p.node): p for p in topology.problems() if p.kind != "uncovered"}
    assert set(found) == {
        ("migrating_slot", A),
        ("importing_slot", B),
        ("replica_migrating_slot", C),
    }
    assert found["replica_migrating_slot", C].slots == ("5",)
    assert found["importing_slot", B].message == (
        "10.0.0.11:6379 (bbbbbbbb) is importing slots 5 from 10.0.0.10:6379 (aaaaaaaa)."
    )


def test_a_marker_may_name_a_node_that_nobody_knows() -> None:
    topology = cluster(report(row(A, "0-16383", f"[5->-{D}]")))
    (problem,) = topology.problems()
    assert "to dddddddd (unknown to the cluster)" in problem.message


def test_every_kind_of_problem_has_its_place() -> None:
    first = report(row(A, "0-9"), row(B, flags="slave", of=A), row(C))
    second = report(
        row(B, flags="slave", of=A), row(A, "0-8"), row(C), role="slave", master_link_status="down"
    )
    name = "cluster-allow-replica-migration"
    first = Report(first.view, {"cluster_state": "fail"}, {}, {name: "yes"})
    second = Report(second.view, second.cluster_info, second.info, {name: "no"})
    problems = cluster(first, second, missing={C: "timed out."}).problems()
    assert [(problem.kind, problem.node) for problem in problems] == [
        ("unreachable", C),
        ("state", A),
        ("disagreement", ""),
        ("uncovered", ""),
        ("link", B),
        ("config", B),
    ]
    assert problems[3].slots == ("10-16383",)


def test_the_same_setting_everywhere_is_no_problem() -> None:
    name = "cluster-allow-replica-migration"
    a, b = row(A, "0-16383"), row(B)
    reports = (report(a, b), report(b, a))
    same = (Report(r.view, r.cluster_info, {}, {name: "no"}) for r in reports)
    assert cluster(*same).problems() == []


# Naming nodes


@pytest.mark.parametrize(
    "reference",
    [
        A,
        A.upper(),
        A[:8],
        A[:8].upper(),
        A[:39],
        f"  {A}\n",
        "10.0.0.10:6379",
        " 10.0.0.10:6379 ",
        "one.example:6379",
        "ONE.Example:6379",
        "outside.example:16379",
        "OUTSIDE.example:16379",
        "[2001:db8::a]:7",
        "[2001:DB8::A]:7",
        "2001:db8::a:7",
    ],
)
def test_a_node_is_found_by_any_of_its_names(reference: str) -> None:
    a = row(A, "0-9", at="10.0.0.10:6379@16379,One.example")
    topology = cluster(report(a, row(B)))
    aliases = {"outside.example:16379": A, "[2001:db8::a]:7": A}
    assert topology.find(reference, aliases) == A


def test_two_nodes_at_one_address_are_both_named() -> None:
    at = "10.0.0.10:6379@16379"
    topology = cluster(report(row(A, "0-9")), report(row(B, at=at), row(A, "0-9")))
    with pytest.raises(OptionError) as caught:
        topology.find("10.0.0.10:6379", {})
    assert A in str(caught.value)
    assert B in str(caught.value)
    assert topology.find(B, {}) == B
    (problem,) = [item for item in topology.problems() if item.kind == "address"]
    assert problem.message.count("10.0.0.10:6379") == 3


def test_the_one_that_answers_is_meant_where_another_has_died() -> None:
    at = "10.0.0.10:6379@16379"
    topology = cluster(report(row(A, "0-9"), row(B, at=at, flags="master,fail")), missing={B: "."})
    assert topology.find("10.0.0.10:6379", {}) == A
    assert "address" not in [item.kind for item in topology.problems()]


def test_an_announced_address_comes_before_an_alias() -> None:
    assert three_primaries().find("10.0.0.10:6379", {"10.0.0.10:6379": B}) == A


@pytest.mark.parametrize(
    ("reference", "complaint"),
    [
        ("", "at least 8 characters"),
        (A[:7], "at least 8 characters"),
        ("nodename", "names no node|no node's id begins with 'nodename'"),
        ("f" * 40, "no node's id begins"),
        (A + "0", f"no node's id begins with '{A}0'"),
        ("0123456\u0667", "names no node|no node's id begins"),
        ("10.0.0.99:6379", "is not the address of a node"),
        ("10.0.0.10:6380", "is not the address of a node"),
        ("10.0.0.10:", "is not an address"),
        (":6379", "is not an address"),
        ("10.0.0.10:0", "is not an address"),
        ("10.0.0.10:65536", "is not an address"),
        ("10.0.0.10:redis", "is not an address"),
        ("10.0.0.10:-1", "is not an address"),
        ("10.0.0.10:\u00b2", "is not an address"),
    ],
)
def test_a_name_of_nobody_is_an_error_that_helps(reference: str, complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint) as caught:
        three_primaries().find(reference, {})
    if "is not an address:" not in str(caught.value):
        assert "10.0.0.10:6379 (aaaaaaaa), 10.0.0.11:6379 (bbbbbbbb)" in str(caught.value)


def test_a_prefix_of_two_nodes_is_ambiguous_and_both_are_named() -> None:
    twin = A[:10] + "f" * 30
    topology = cluster(report(row(A), row(twin)))
    with pytest.raises(OptionError, match=f"ambiguous: {A} and {twin} begin so"):
        topology.find(A[:10], {})
    assert topology.find(twin[:11], {}) == twin


def test_only_some_of_many_nodes_are_listed() -> None:
    rows = [row(f"{number:08d}{'e' * 32}") for number in range(25)]
    with pytest.raises(OptionError, match="and 15 more"):
        cluster(report(*rows)).find("f" * 8, {})


def test_a_replica_is_refused_and_its_primary_named() -> None:
    topology = cluster(report(row(A, "0-9"), row(B, flags="slave,fail?", of=A)))
    assert topology.require_primary(A, "target") == A
    with pytest.raises(OptionError) as caught:
        topology.require_primary(B, "target")
    assert str(caught.value) == (
        "the target 10.0.0.11:6379 (bbbbbbbb) is a replica; "
        "name its primary 10.0.0.10:6379 (aaaaaaaa) instead."
    )


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("10.0.0.1:6379", ("10.0.0.1", 6379)),
        ("[::1]:6379", ("::1", 6379)),
        ("::1:6379", ("::1", 6379)),
        ("Name.example:65535", ("Name.example", 65535)),
    ],
)
def test_addresses_split_and_come_together(text: str, parts: tuple[str, int]) -> None:
    assert split_address(text) == parts
    assert split_address(format_address(*parts)) == (parts[0].lower(), parts[1])


@quick
@given(st.text(max_size=20))
def test_no_address_raises_anything_but_an_option_error(text: str) -> None:
    try:
        host, port = split_address(text)
    except OptionError:
        return
    assert host
    assert 0 < port < 65536


names = st.one_of(
    st.text(max_size=50),
    st.text("0123456789abcdef:[].@", max_size=45),
    st.sampled_from([A, A[:8], A[:7], A.upper(), B, "10.0.0.10:6379", "[10.0.0.10]:6379"]),
)


@quick
@given(names)
def test_any_text_at_all_names_a_node_or_is_an_option_error(text: str) -> None:
    topology = cluster(report(row(A, "0-9"), row(B)))
    try:
        found = topology.find(text, {})
    except OptionError:
        return
    name = text.strip().lower()
    assert found.startswith(name) or name.endswith(":6379")


# Versions and INFO


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("7.0.15", (7, 0)),
        ("9.1.0-rc2", (9, 1)),
        ("9.1-rc2", (9, 1)),
        ("255.255.255", (255, 255)),
        ("7", (7, 0)),
        ("10.12", (10, 12)),
        ("0", (0, 0)),
        ("5.1.0b3", (5, 1)),
        ("5.1b3", (5, 1)),
        ("8-rc1", (8, 0)),
        ("", (0, 0)),
    ],
)
def test_versions(text: str, version: tuple[int, int]) -> None:
    assert version_tuple(text) == version


def test_versions_are_compared_as_numbers() -> None:
    assert version_tuple("10.0.0") > version_tuple("9.9.9") > version_tuple("9.1.0")


def test_keys_are_counted_in_all_databases() -> None:
    info = parse_info(
        "# Keyspace\r\ndb0:keys=3,expires=0,avg_ttl=0\r\n"
        "db12:keys=4,expires=1,avg_ttl=5,subexpiry=0\r\ndb0_distrib:x\r\ndbsize:9\r\n"
    )
    found = report(row(A), **info)
    assert found.databases == {0: 3, 12: 4}
    assert found.key_count == 7
    assert report(row(A)).key_count == 0


def test_a_value_of_info_may_hold_colons() -> None:
    assert parse_info("slave0:ip=::1,port=1\n\n# Server\nempty:\n") == {
        "slave0": "ip=::1,port=1",
        "empty": "",
    }


@pytest.mark.parametrize(
    ("info", "up"),
    [
        ({}, True),
        ({"role": "master"}, True),
        ({"role": "slave", "master_link_status": "up"}, True),
        ({"role": "slave", "master_link_status": "down"}, False),
        ({"role": "slave"}, False),
    ],
)
def test_link_of_a_replica(info: dict[str, str], up: bool) -> None:
    assert report(row(A), **info).link_up == up


def test_numbers_that_an_engine_does_not_tell_are_0() -> None:
    assert report(row(A), maxmemory="12", empty="").number("maxmemory") == 12
    assert report(row(A), empty="").number("empty") == 0
    assert report(row(A)).number("maxmemory") == 0
