"""The options of a launch that trains in each of the ways."""

import pytest

WAYS = {
    "here": {"fuse": "off"},
    "processes": {"fuse": "off", "workers": 2},
    "fused": {"fuse": 2},
    "fused in processes": {"fuse": 2, "workers": 1},
}
"""A group has two runs."""

each_way = pytest.mark.parametrize(
    "way", [pytest.param(way, marks=pytest.mark.long) if way == "processes" else way for way in WAYS]
)
