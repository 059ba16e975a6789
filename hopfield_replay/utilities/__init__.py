"""Tools that know nothing of energies: checks, files, processes, nested batches."""
