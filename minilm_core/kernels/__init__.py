"""KL(teacher ‖ student) of relations without their maps in memory: in blocks anywhere, in loops on a CPU, on a GPU."""
