"""Search how many experts of each layer are active at a share of all."""
