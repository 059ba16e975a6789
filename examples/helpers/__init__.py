"""What the examples share: data, models, training on task after task, results."""
