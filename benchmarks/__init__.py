"""Speed and memory beside other libraries: run from a checkout, not part of the wheel."""
