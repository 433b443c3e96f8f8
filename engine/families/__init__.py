"""The model families that are served, one module each: how their config and tensor names are read.

What they share is in `engine/config.py` and `engine/checkpoint.py`; model, scheduler and kernels know no family.
"""
