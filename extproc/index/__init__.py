"""Pure data structures over tokens: hashes of blocks. No I/O, no clock, no knowledge of models or workers."""
