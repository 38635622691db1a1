"""The outside world of `api`: the other services, and OTLP."""
