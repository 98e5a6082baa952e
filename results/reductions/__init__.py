"""Results of ``stratbench allreduce``: what all-reduces take by themselves, in tables of their own."""
