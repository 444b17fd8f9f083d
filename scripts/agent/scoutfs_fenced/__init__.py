# SPDX-License-Identifier: GPL-2.0-only
"""The agent scoutfs-fenced; main.py begins with a map of it."""
