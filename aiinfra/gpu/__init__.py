"""WHAT WOULD A GPU DO? Compile, list, count and capture, on a machine with or without one."""
