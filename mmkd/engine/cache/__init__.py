"""Teacher outputs on disk: written once, by any number of processes, and gathered batch by batch."""

from mmkd.engine.cache.column import Column, Weighted
from mmkd.engine.cache.integrity import Damage
from mmkd.engine.cache.key import Key
from mmkd.engine.cache.store import Entry, Store
from mmkd.engine.cache.table import DiskTable
from mmkd.engine.cache.writer import Cache

__all__ = ["Cache", "Column", "Damage", "DiskTable", "Entry", "Key", "Store", "Weighted"]
