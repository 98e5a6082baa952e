"""Inside a task: the workload, the measured loop, evaluation. The only room that loads TensorFlow."""
