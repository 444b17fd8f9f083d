# SPDX-License-Identifier: GPL-2.0-only
"""What pytest gets to know before it looks for cases."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A folder that looks like /sys, and the agents that are run on it."""
    it = World(tmp_path)
    yield it
    it.end()
