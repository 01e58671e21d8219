"""Places at which a process can be made to fail on purpose."""
