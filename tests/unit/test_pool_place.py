"""What the parent of a prefork child makes of what the child has said and nobody has heard yet."""

import socket

import pytest

from cloudq.pools import frames
from cloudq.pools.place import Place


@pytest.mark.parametrize(
    ("said", "ending"),
    [
        (b"", False),
        (frames.pack(frames.BEGIN, frames.FLOAT.pack(2.0)), False),
        (frames.pack(frames.EASED) + frames.pack(frames.ASK), False),
        (frames.pack(frames.BEGIN, frames.FLOAT.pack(2.0)) + frames.pack(frames.END), True),
        (frames.pack(frames.REPLY, b"x" * 1000), True),
        (frames.pack(frames.LEAVING), True),
    ],
)
def test_only_a_child_that_says_so_is_about_to_end_its_job(said: bytes, ending: bool) -> None:
    place = Place.__new__(Place)
    place.sock, child = socket.socketpair()
    place._frames = frames.Frames()
    with place.sock, child:
        place.sock.setblocking(False)
        child.sendall(said)
        assert place.ending() is ending
        assert place.ending() is ending  # what was looked at is still there
        if said:
            child.sendall(frames.pack(frames.REPLY, b"xyz")[:-1])
            place.hear()
            assert place.ending()  # the rest of a reply is on its way
