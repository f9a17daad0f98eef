"""Data: procedural scenes, their renderer, packs of rendered frames and the samples read from them.

Import from the modules themselves: ``dart.data.dataset`` to read, ``dart.data.render`` to make.
"""
