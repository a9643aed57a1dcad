"""What devices may be, and what a link takes."""

import pytest

from fxopt.passes.partition import Device, Link
from fxopt.passes.partition._devices import checked_devices


def test_a_slow_device_with_room_for_a_byte_is_one():
    device = Device("cpu:0", speed=0.01, memory=1)
    assert checked_devices([device]) == (device,)


def test_sending_takes_the_latency_and_the_bytes():
    assert Link(100.0, 0.5).seconds(50.0) == pytest.approx(1.0)
    assert Link(100.0, 0.5).seconds(0.0) == pytest.approx(0.5)
