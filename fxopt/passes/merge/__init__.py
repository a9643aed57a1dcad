"""Passes of this group, one file each."""
