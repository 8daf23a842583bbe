"""The figures that several pages draw."""
