"""Time and memory of afictl beside the plain form of the same computations and other libraries, on any machine."""
