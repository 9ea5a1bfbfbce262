"""The running system: which workers live, what waits in which queue, what died, how much gets done."""
