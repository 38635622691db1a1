"""Jobs a second, latency and cost: Millrace beside the task queues that a team may take instead."""
