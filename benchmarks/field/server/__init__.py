"""A fast local SQS and DynamoDB for benchmarks: in memory, every call counted by who made it.

Not for tests: it checks neither signatures nor limits. It speaks AWS JSON 1.0, keeps visibility
timeouts, long polls and conditions, and costs so little that what is measured is the client.
"""
