# SPDX-License-Identifier: GPL-2.0-only
"""Fixtures that pytest loads before it collects cases."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A folder that imitates /sys, and the agents that run on it."""
    it = World(tmp_path)
    yield it
    it.end()
