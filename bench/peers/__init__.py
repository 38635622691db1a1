"""The same job under each task queue. These modules run in `.venv-bench`, which `make bench-jobs` makes.

Each says whether it is `ASYNC` and has `enqueue(number, sent_ns)`, one job, and `enqueue_many(numbers)`, by the
best call for many that its library has; an async one also has `start()` and `stop()`.
"""

FIRST = 2**62
"""The number of a job that only shows that all are up; figures leave it out."""
