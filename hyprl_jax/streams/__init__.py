"""Training on surfaces that do not fit into memory: collections packed for memory mapping, read in shuffled
shards of tasks while the device computes.
"""

from hyprl_jax.streams.memory import giving_back
from hyprl_jax.streams.packing import pack_collection
from hyprl_jax.streams.packs import Pack
from hyprl_jax.streams.program import Streamed, StreamedProgram
from hyprl_jax.streams.shards import Stream, shards_ahead
from hyprl_jax.streams.writing import PackWriter

__all__ = [
    "Pack",
    "PackWriter",
    "Stream",
    "Streamed",
    "StreamedProgram",
    "giving_back",
    "pack_collection",
    "shards_ahead",
]
