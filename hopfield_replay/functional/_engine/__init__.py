"""The arithmetic behind the energies: streamed, fused, and exact where it matters."""
