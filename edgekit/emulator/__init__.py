"""ARM on this machine: the code that a device runs, under user-mode emulation, with counted instructions."""
