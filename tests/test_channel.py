"""The bounded channel: order, bound, and closing it under threads that wait."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from common.training.channel import Channel, Closed

pytestmark = pytest.mark.timeout(30)

TIMEOUT_S = 10.0
MOMENT_S = 0.02  # to see that something does not happen; a correct channel passes however long it is


def filled(limit: int, items: int) -> Channel[int]:
    channel: Channel[int] = Channel(limit)
    for item in range(items):
        channel.put(item)
    return channel


def test_items_come_in_order() -> None:
    channel = filled(5, 5)
    assert [channel.get() for _ in range(5)] == [0, 1, 2, 3, 4]


def test_its_length_is_what_waits() -> None:
    channel = filled(5, 3)
    assert len(channel) == 3
    channel.get()
    assert len(channel) == 2


@pytest.mark.parametrize("limit", [1, 3])
def test_a_full_channel_blocks_its_writer_until_there_is_room(limit: int) -> None:
    channel, written = filled(limit, limit), threading.Event()

    def write() -> None:
        channel.put(limit)
        written.set()

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        assert not written.wait(MOMENT_S)
        assert channel.get() == 0
        writer.result(TIMEOUT_S)
    assert [channel.get() for _ in range(limit)] == list(range(1, limit + 1))


def test_an_empty_channel_blocks_its_reader_until_there_is_an_item() -> None:
    channel: Channel[str] = Channel(1)
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(channel.get)
        channel.put("item")
        assert reader.result(TIMEOUT_S) == "item"


def test_what_waits_can_be_read_after_closing() -> None:
    channel = filled(3, 2)
    channel.close()
    assert [channel.get(), channel.get()] == [0, 1]
    for use in (channel.get, lambda: channel.put(2)):
        with pytest.raises(Closed):
            use()


def test_closing_may_drop_what_waits() -> None:
    channel = filled(3, 2)
    channel.close(drop=True)
    channel.close()  # a second time changes nothing
    assert len(channel) == 0
    with pytest.raises(Closed):
        channel.get()


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("use", [lambda c: c.put(1), lambda c: c.get()], ids=["writers", "readers"])
def test_closing_wakes_all_that_wait(use: Callable[[Channel[int]], object], drop: bool) -> None:
    ready = threading.Barrier(4)
    channel: Channel[int] = Channel(0)  # neither room nor items: everybody waits

    def wait() -> None:
        ready.wait(TIMEOUT_S)
        use(channel)

    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(wait) for _ in range(3)]
        ready.wait(TIMEOUT_S)
        channel.close(drop=drop)
        for each in waiting:
            assert isinstance(each.exception(TIMEOUT_S), Closed)


def test_between_several_threads_each_item_goes_to_one_reader() -> None:
    channel: Channel[int] = Channel(2)
    numbers = count()

    def write() -> None:
        for _ in range(500):
            channel.put(next(numbers))

    def read() -> list[int]:
        items = []
        try:
            while True:
                items.append(channel.get())
        except Closed:
            return items

    with ThreadPoolExecutor(6) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        for writer in [pool.submit(write) for _ in range(3)]:
            writer.result(TIMEOUT_S)
        channel.close()
        items = [item for reader in readers for item in reader.result(TIMEOUT_S)]
    assert sorted(items) == list(range(1500))
