"""From files on disk to a PatchStore: one uint8 array in memory, decoded once."""
