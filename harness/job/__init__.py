"""A run inside a job that horovodrun or mpirun started: each process of the job is a worker."""
