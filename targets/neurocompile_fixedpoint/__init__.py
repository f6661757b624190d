"""The `fixedpoint` target: the executable definition of the integers."""
