"""A trained policy as a folder that others can use: with NumPy alone, ONNX Runtime, StableHLO, or by hand.

`export_policy` is what `hyprl export` calls; docs/export.md tells what the folder holds.
"""

from hyprl_jax.export.exporting import ExportSummary, export_policy

__all__ = ["ExportSummary", "export_policy"]
