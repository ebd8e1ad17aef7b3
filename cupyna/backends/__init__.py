"""The ways to run an operation: for each kind of device, one backend for each method."""
