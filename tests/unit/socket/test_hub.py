"""services.socket.hub: fan-out to clients, topics and all, replay before live events, acks, and their bounds."""

import random

from services.common.auth.identity import Identity
from services.common.auth.rights import Rights, Verb
from services.socket.hub import (
    MAX_PENDING_ACKS,
    MAX_REPLAY_BUFFER_BYTES,
    MAX_REPLAY_BUFFER_EVENTS,
    Hub,
    Publication,
    SocketClient,
)
from tests.support.recording_sink import RecordingSink


def make_client(hub: Hub, sid: str, *topics: str, ready: bool = True) -> tuple[SocketClient, RecordingSink]:
    paper = RecordingSink()
    made = SocketClient(sid, f"secret of {sid}", paper)
    made.topics = dict.fromkeys(topics, 0)
    hub.add(made)
    if ready:
        made.flush_replay_buffer()
    return made, paper


def make_message(number: int) -> Publication:
    return Publication(number, str(number).encode())


def test_delivery_to_one_client_a_topic_and_all() -> None:
    hub = Hub()
    (_, a), (_, b), (_, c) = make_client(hub, "a", "x"), make_client(hub, "b", "x", "y"), make_client(hub, "c")
    hub.fan_out("sid", "a", make_message(1))
    hub.fan_out("topic", "x", make_message(2))
    hub.fan_out("topic", "y", make_message(3))
    hub.fan_out("all", "", make_message(4))
    hub.fan_out("sid", "nobody", make_message(5))
    hub.fan_out("topic", "nothing", make_message(6))
    assert (a.frames, b.frames, c.frames) == ([b"1", b"2", b"4"], [b"2", b"3", b"4"], [b"4"])


def test_find_disconnect_and_remaining_clients() -> None:
    hub = Hub()
    first, paper = make_client(hub, "a", "x")
    assert hub.find("a") is first
    assert hub.remove(first)
    assert not hub.remove(first)
    assert hub.find("a") is None
    assert hub.subscribers == {}
    hub.fan_out("all", "", make_message(1))
    assert paper.frames == []
    assert hub.clients == {}


def test_resumed_client_replaces_its_predecessor() -> None:
    hub = Hub()
    old, old_paper = make_client(hub, "a", "x")
    new = SocketClient("a", "another secret", RecordingSink())
    new.topics = {"x": 0}
    assert hub.add(new) is old
    assert not hub.remove(old)
    assert hub.find("a") is new
    new.flush_replay_buffer()
    hub.fan_out("topic", "x", make_message(1))
    assert old_paper.frames == []
    assert new.position == 1


def test_subscribe_and_unsubscribe() -> None:
    hub = Hub()
    one, paper = make_client(hub, "a")
    hub.subscribe(one, "x", 0)
    hub.fan_out("topic", "x", make_message(1))
    hub.unsubscribe(one, "x")
    hub.unsubscribe(one, "x")
    hub.fan_out("topic", "x", make_message(2))
    assert paper.frames == [b"1"]
    assert hub.subscribers == {}
    hub.remove(one)
    hub.subscribe(one, "x", 0)
    assert hub.subscribers == {}, "who is not here joins nothing"


def test_no_event_is_repeated_or_out_of_order() -> None:
    hub = Hub()
    _, paper = make_client(hub, "a")
    for number in (1, 2, 2, 1, 5, 4, 6):
        hub.fan_out("all", "", make_message(number))
    assert paper.frames == [b"1", b"2", b"5", b"6"]


def test_events_during_a_replay_wait_for_its_end() -> None:
    hub = Hub()
    one, paper = make_client(hub, "a", ready=False)
    one.position = 3
    for number in (2, 5, 6, 7):
        hub.fan_out("all", "", make_message(number))
    assert paper.frames == []
    assert hub.ready_clients() == []
    for number in (4, 5):
        one.deliver(make_message(number))
    one.flush_replay_buffer()
    hub.fan_out("sid", "a", make_message(8))
    assert paper.frames == [b"4", b"5", b"6", b"7", b"8"]
    assert hub.ready_clients() == [one]


def has_overflowed(client: SocketClient) -> bool:
    return client.replay_overflowed


def test_full_replay_buffer_is_dropped_for_the_history() -> None:
    hub = Hub()
    one, paper = make_client(hub, "a", ready=False)
    for number in range(MAX_REPLAY_BUFFER_EVENTS):
        one.deliver_or_buffer(make_message(number + 1))
    assert not has_overflowed(one)
    one.deliver_or_buffer(make_message(MAX_REPLAY_BUFFER_EVENTS + 1))
    assert has_overflowed(one)
    assert one.replay_buffer == []
    one.clear_replay_buffer()
    assert not has_overflowed(one)
    one.deliver_or_buffer(make_message(MAX_REPLAY_BUFFER_EVENTS + 2))
    one.flush_replay_buffer()
    assert paper.frames == [b"%d" % (MAX_REPLAY_BUFFER_EVENTS + 2)]
    assert paper.closed is None


def test_replay_buffer_is_bounded_in_bytes() -> None:
    hub = Hub()
    one, paper = make_client(hub, "a", ready=False)
    for number in range(16):
        one.deliver_or_buffer(Publication(number + 1, bytes(MAX_REPLAY_BUFFER_BYTES // 16)))
    assert not has_overflowed(one)
    one.deliver_or_buffer(make_message(17))
    assert has_overflowed(one)
    assert paper.closed is None


def test_acks_are_awaited_from_the_addressed_clients() -> None:
    hub = Hub()
    one, _ = make_client(hub, "a")
    for number in range(1, MAX_PENDING_ACKS + 3):
        hub.fan_out("sid", "a", Publication(number, b"", "", "channel", f"id-{number}"))
    assert len(one.pending_acks) == MAX_PENDING_ACKS
    assert "id-1" not in one.pending_acks
    assert one.pending_acks[f"id-{MAX_PENDING_ACKS + 2}"] == "channel"


def test_each_client_gets_all_of_its_events_in_order() -> None:
    """1,000 random deliveries to 20 clients that connect, disconnect, subscribe and unsubscribe, against a list for each."""
    chance = random.Random(7)
    hub = Hub()
    here: dict[str, tuple[SocketClient, RecordingSink, list[bytes]]] = {}
    for number in range(1, 1001):
        sid = f"s{chance.randrange(20)}"
        if sid not in here:
            made, paper = make_client(hub, sid)
            here[sid] = (made, paper, [])
        elif chance.random() < 0.1:
            hub.remove(here.pop(sid)[0])
            continue
        made, _, _ = here[sid]
        topic = f"t{chance.randrange(5)}"
        if chance.random() < 0.5:
            hub.subscribe(made, topic, number)
        else:
            hub.unsubscribe(made, topic)
        kind, name = chance.choice([("sid", sid), ("topic", topic), ("all", "")])
        for key, (other, _, expected) in here.items():
            if kind == "all" or (kind == "sid" and key == name) or (kind == "topic" and name in other.topics):
                expected.append(str(number).encode())
        hub.fan_out(kind, name, make_message(number))
        assert all(paper.frames == expected for _, paper, expected in here.values())


class CountingRights(Rights):
    """Counts how often it is asked."""

    asked = 0

    def may_folder(self, verb: Verb, folder: str) -> bool:
        self.asked += 1
        return super().may_folder(verb, folder)


def test_an_event_about_a_file_is_judged_once_for_each_set_of_rights() -> None:
    hub = Hub()
    reader, stranger = CountingRights(["read:a"]), CountingRights(["read:b"])
    papers: dict[str, RecordingSink] = {}
    for number in range(20):
        client, papers[f"{number}"] = make_client(hub, f"{number}")
        client.identity = Identity(f"s{number}", reader if number % 2 else stranger)
    hub.fan_out("all", "", Publication(7, b"file", folder="a"))
    assert [bool(paper.frames) for paper in papers.values()] == [False, True] * 10
    assert (reader.asked, stranger.asked) == (1, 1)
    assert {client.position for client in hub.clients.values()} == {7}


def test_an_event_about_a_file_that_waits_for_a_replay_is_judged_as_well() -> None:
    hub = Hub()
    client, paper = make_client(hub, "a", ready=False)
    client.identity = Identity("s", Rights(["read:b"]))
    for number, folder in enumerate(("a", "b", None), 1):
        hub.fan_out("all", "", Publication(number, str(number).encode(), folder=folder))
    client.flush_replay_buffer()
    assert paper.frames == [b"2", b"3"]
    assert client.position == 3


def test_without_authentication_folders_hide_nothing() -> None:
    hub = Hub()
    _, paper = make_client(hub, "a")
    hub.fan_out("all", "", Publication(1, b"file", folder="a"))
    assert paper.frames == [b"file"]
