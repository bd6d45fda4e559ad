"""Read, copy and put back the state of modules, optimizers, generators and anything else in memory."""
